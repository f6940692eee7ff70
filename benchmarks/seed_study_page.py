"""The page of the study: its tables and pictures. See `seed_study.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import pandas as pd
from common import reflow, table
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from seed_study_claims import CLAIMS, PUBLISHED, PUBLISHED_BY_CLASS, judged, not_learnt, of_published_figures
from seed_study_runs import ALPHA, ALPHAS, HARD, OURS, OWN, RATE, STUDENTS, TEMPERATURE, Part, best_rate

from kd_tune import confirmation, confusion_plots, plots, prediction_plots
from kd_tune.calibration import calibration
from kd_tune.class_profiles import closeness, closeness_differences
from kd_tune.confirmation import Confirmation
from kd_tune.confusions import confusion_differences, confusions, inside_groups
from kd_tune.paths import written_whole
from kd_tune.predictions import (
    EVERY_IMAGE,
    TEACHER_WRONG,
    Predictions,
    accuracy,
    accuracy_by_class,
    agreement,
    paired_tests,
)
from kd_tune.records import METRIC


def write_page(parts: Sequence[Part], page: Path, command: str) -> None:
    """The page, its pictures in a folder of its name beside it, and its figures there as JSON."""
    pictures = page.with_suffix("")
    with written_whole(pictures, replace=pictures.exists()) as temporary:
        temporary.mkdir(parents=True)
        for part in parts:
            for name, figure in draw(part):
                figure.savefig(temporary / f"{part.name}_{name}.png")
        figures = {part.name: figures_of(part) for part in parts}
        (temporary / "figures.json").write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sections = "\n\n".join(section(part, pictures.name) for part in parts)
    text = f"# The study, done again\n\n{introduction(parts, command)}\n\n{summary(parts)}\n\n{sections}"
    with written_whole(page, replace=page.exists()) as temporary:
        temporary.write_text(reflow(text), encoding="utf-8")


def introduction(parts: Sequence[Part], command: str) -> str:
    """What a reader needs to know before the first table."""
    one, made = parts[0].found[OWN], parts[0].tables.manifest
    published = f"""

    Its teacher was a vgg13_bn of 94.22 % (94.21 by its figures of classes, which are rounded), whose weights were not
    at hand; ours comes with kd_tune. It does not give temperature, optimizer, rate and batch size, and each of its
    figures is of one training. {of_published_figures()}
    In tables of accuracy by class its figures stand last in a cell."""
    return f"""A study after Hinton, Vinyals and Dean (2015) has a small student learn CIFAR-10 in three ways, by the
    weight alpha of the teacher in its loss (`mixed_target`): from hard labels (alpha=0), from labels and teacher in
    equal parts (alpha=0.5), and from the teacher alone (alpha=1). It claims three things; the first table says what
    becomes of them.{published if is_cifar10(parts[0]) else ""}

    Every student is trained {one.num_seeds} times for every question, and there are three questions, asked of other
    seeds each, so that one student's figures differ a little from table to table: all at temperature {OURS:g} with the
    rate that is best for hard labels; each at the rate that is best for it there; each at its own best temperature and
    rate. What is best is known only up to the luck of single trainings, so that a student may do better in one table
    than at its "own best" in another. All is chosen on validation images; each question opened the test set once.
    Intervals hold 95 %, over seeds and test images, each by itself; p-values are adjusted for the three pairs of a
    question (Holm), and a claim holds where p is below 0.05.

    Made by `{command}`. CIFAR-10's .npz file holds `train_images`, `train_labels`, `test_images` and `test_labels`;
    without `--data` what `kd-tune data download cifar10` fetched is taken. The first search began on
    {made.created[:10]}, on {made.hardware["cores"]} cores of {made.hardware["processor"]} with torch
    {made.versions["torch"]}, at commit {(made.versions["commit"] or "unknown")[:10]}."""


def is_cifar10(part: Part) -> bool:
    """Whether the study's own figures are of these data."""
    return bool(part.tables.file.trial["dataset"]["name"] == "cifar10")


def draw(part: Part) -> Iterator[tuple[str, Figure]]:
    """The pictures of a part."""
    yield "rates", rates_by_temperature(part.tables.trials)
    told = part.told[OWN]
    yield "accuracy", prediction_plots.accuracy_by_model(accuracy(told))
    yield "accuracy_by_class", prediction_plots.accuracy_by_class(accuracy_by_class(told))
    yield "confusions", confusion_plots.confusion_matrices(confusions(told))
    yield "confusion_differences", confusion_plots.confusion_differences(confusion_differences(told, HARD))
    yield "class_profiles", prediction_plots.class_profiles(accuracy_by_class(told), closeness(told))
    if told.groups:
        yield "inside_groups", prediction_plots.inside_groups(inside_groups(told))


def rates_by_temperature(trials: pd.DataFrame) -> Figure:
    """Validation accuracy against the learning rate: a panel a temperature, a line an alpha."""
    temperatures = sorted(trials[TEMPERATURE].unique())
    figure, panels = plots.new_figure(len(temperatures), width=2.6 * len(temperatures) + 0.8, height=3.6)
    for axes, temperature in zip(panels, temperatures, strict=True):
        for index, (alpha, label) in enumerate(ALPHAS.items()):
            rows = trials[(trials[TEMPERATURE] == temperature) & (trials[ALPHA] == alpha)].sort_values(RATE)
            look = {"color": plots.COLOURS[index], "marker": plots.MARKERS[index], "markersize": 4}
            axes.plot(rows[RATE], rows[METRIC], label=label if axes is panels[0] else None, **look)
        axes.set_xscale("log")
        axes.set_title(f"T = {temperature:g}", fontsize=10)
        axes.set_xlabel("learning rate")
    panels[0].set_ylabel("validation accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def figures_of(part: Part) -> dict[str, Any]:
    """Everything that the page says in numbers."""
    return {
        "rate": part.rate,
        "grid": _records(part.tables.trials[[ALPHA, TEMPERATURE, RATE, METRIC, "status"]]),
        "confirmations": {about: one.model_dump(exclude={"class_groups"}) for about, one in part.found.items()},
        "by_class": {about: _records(accuracy_by_class(told)) for about, told in part.told.items()},
        "paired_tests": {about: _records(paired_tests(told)) for about, told in part.told.items()},
        "closeness": {about: _records(closeness(told)) for about, told in part.told.items()},
        "closeness_differences": {about: _records(closeness_differences(told)) for about, told in part.told.items()},
        "agreement": {about: _records(agreement(told)) for about, told in part.told.items()},
        "calibration": {about: _records(calibration(told)) for about, told in part.told.items()},
        "confusions": {about: _records(confusions(told)) for about, told in part.told.items()},
        "inside_groups": {about: _records(inside_groups(told)) for about, told in part.told.items() if told.groups},
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", double_precision=15))  # type: ignore[no-any-return]


def section(part: Part, pictures: str) -> str:
    """A part of the page."""
    training = part.tables.file.trial["training"]
    published, one = is_cifar10(part), part.found[OWN]
    parts = [
        f"## {part.tables.file.trial['dataset']['name']}, {training['num_epochs']} epochs",
        f"""Batch size {training["batch_size"]}, schedule {training["schedule"]}, SGD with momentum 0.9, no weight
        decay, no augmentation, teacher {one.teacher}, {one.num_images:,} test images. At temperature {OURS:g}, with one
        training a cell, {part.rate:g} is the best rate for hard labels{_at_the_end(part)}.""",
    ]
    for about, found in part.found.items():
        parts += [f"### Accuracy: {about}", accuracy_markdown(found, part.told[about], published)]
        parts += ["\n".join(f"- {comparison.sentence(len(found.comparisons))}" for comparison in found.comparisons)]
        parts += ["\n".join(f"- {line}" for line in confirmation.findings(found)[len(found.comparisons) :])]
        parts += [not_learnt(part, about)]
    parts += [
        f"![Accuracy by model]({pictures}/{part.name}_accuracy.png)",
        "### What the outcome owes to temperature and rate",
        rates_markdown(part),
        f"![Rates]({pictures}/{part.name}_rates.png)",
        "### The course of training",
        course_markdown(part),
        f"### Accuracy by class: {OWN}",
        by_class_markdown(part.told[OWN], published),
        f"![Accuracy by class]({pictures}/{part.name}_accuracy_by_class.png)",
        f"### Agreement with the teacher, and calibration: {OWN}",
        agreement_markdown(part.told[OWN]),
        "### Confusions",
        f"![Confusion matrices]({pictures}/{part.name}_confusions.png)",
        f"![Differences from hard labels]({pictures}/{part.name}_confusion_differences.png)",
        *([f"![Inside groups]({pictures}/{part.name}_inside_groups.png)"] if part.told[OWN].groups else []),
        "### The study's three claims",
        claims_markdown(part),
        f"![Class profiles]({pictures}/{part.name}_class_profiles.png)",
    ]
    return "\n\n".join(text for text in parts if text)


def course_markdown(part: Part) -> str:
    """Validation accuracy and training loss at four epochs of the grid's best students, one training each."""
    num_epochs = part.tables.file.trial["training"]["num_epochs"]
    epochs = sorted({max(1, num_epochs * quarter // 4) for quarter in (1, 2, 3, 4)})
    rows, trials = [], part.tables.trials
    for alpha, model in ALPHAS.items():
        rate = best_rate(trials, alpha, OURS)
        cell = trials[(trials[ALPHA] == alpha) & (trials[TEMPERATURE] == OURS) & (trials[RATE] == rate)]
        course = part.tables.history[part.tables.history["trial"] == cell["number"].iloc[0]].set_index("epoch")
        figures = [f"{100 * course.loc[epoch, METRIC]:.1f}; {course.loc[epoch, 'train_loss']:.3f}" for epoch in epochs]
        rows.append([named(model), f"{rate:g}", *figures])
    header = ["student", "rate", *(f"epoch {epoch}" for epoch in epochs)]
    return f"Validation accuracy in %, and training loss, at temperature {OURS:g}.\n\n{table(header, rows)}"


def named(model: str) -> str:
    """A student as tables name it, with the name that sentences and pictures give it."""
    return f"{STUDENTS[model]} ({model})" if model in STUDENTS else model


def _at_the_end(part: Part) -> str:
    """What to know of a rate beyond which none was tried."""
    rates = part.tables.trials[RATE]
    where = {float(rates.min()): "lowest", float(rates.max()): "highest"}.get(part.rate)
    return f", the {where} of the grid" if where else ""


def accuracy_markdown(found: Confirmation, told: Predictions, published: bool) -> str:
    """Test accuracy by model, beside what the study has."""
    drawn = {arm.model: [f"{arm.draw[TEMPERATURE]:g}", f"{arm.draw[RATE]:g}"] for arm in found.arms}
    rows = []
    for row in accuracy(told).to_dict("records"):
        key = "teacher" if row["teacher"] else row["model"]
        cells = [named(row["model"]), *drawn.get(key, ["", ""]), *_with_interval(row, "accuracy")]
        rows.append([*cells, *([f"{PUBLISHED[key]:.2f}"] if published else [])])
    header = ["model", "temperature", "rate", "accuracy, %", "95 % interval", *(["the study, %"] if published else [])]
    return table(header, rows)


def by_class_markdown(told: Predictions, published: bool) -> str:
    """Accuracy by class and model in %, with its interval; then the study's."""
    found = accuracy_by_class(told)
    names = {
        name: "teacher" if is_teacher else name
        for name, is_teacher in zip(found["model"], found["teacher"], strict=True)
    }
    by_class = found.set_index(["class", "model"])
    rows = []
    for place, name in enumerate(told.class_names):
        cells = [_percent(by_class.loc[(name, model)], "accuracy") for model in names]
        if published:
            cells = [
                f"{cell}; {PUBLISHED_BY_CLASS[key][place]}" for cell, key in zip(cells, names.values(), strict=True)
            ]
        rows.append([name, *cells])
    return table(["class", *map(named, names)], rows)


def agreement_markdown(told: Predictions) -> str:
    """How often students answer as the teacher does, and their calibration errors, in %."""
    agreeing = agreement(told).set_index(["of", "model"])
    errors = calibration(told).set_index("model")
    rows = []
    for name in errors.index:
        shares = [
            _percent(agreeing.loc[(of, name)], "agreement") if (of, name) in agreeing.index else ""
            for of in (EVERY_IMAGE, TEACHER_WRONG)
        ]
        rows.append([named(name), *shares, _percent(errors.loc[name], "ece")])
    header = ["model", "agrees with the teacher, %", "where the teacher is wrong, %", "calibration error, %"]
    return (
        "Calibration is of answers at temperature 1, as a student is used. With hard labels this loss trains answers "
        "at the temperature of the first tables; at temperature 1 they are too sure of themselves.\n\n"
        + table(header, rows)
    )


def _percent(row: pd.Series, name: str) -> str:
    """A share in %, with its interval."""
    return f"{100 * row[name]:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def rates_markdown(part: Part) -> str:
    """By temperature and alpha: the best rate, its validation accuracy, and that at the rate of hard labels."""
    trials, rows = part.tables.trials, []
    for temperature in sorted(trials[TEMPERATURE].unique()):
        common = best_rate(trials, 0.0, temperature)
        cells = []
        for alpha in ALPHAS:
            cell = trials[(trials[ALPHA] == alpha) & (trials[TEMPERATURE] == temperature)].set_index(RATE)[METRIC]
            own = best_rate(trials, alpha, temperature)
            end = ", the grid's end" if own in (cell.index.min(), cell.index.max()) else ""
            cells.append(f"{100 * cell[own]:.1f} at {own:g}{end}; {100 * cell[common]:.1f}")
        rows.append([f"{temperature:g}", f"{common:g}", *cells])
    header = ["temperature", "rate of hard labels", *map(named, ALPHAS.values())]
    highest = trials.groupby(ALPHA)[METRIC].max()
    overall = ", ".join(f"{STUDENTS[model]} {100 * highest[alpha]:.1f}" for alpha, model in ALPHAS.items())
    return (
        "Validation accuracy in %, one training a cell: at each one's best rate, and at that of hard labels. "
        f"{_spread(part.found.values())} This loss softens the student's answers for hard labels too, so that these "
        f"depend on the temperature as well. The best of all cells: {overall}.\n\n" + table(header, rows)
    )


def _spread(found: Iterable[Confirmation]) -> str:
    """How much a single training says."""
    spreads = [100 * stdev(arm.val_accuracies) for one in found for arm in one.arms]
    low, high = min(spreads), max(spreads)
    return f"Between trainings of one student the standard deviation is {low:.1f} to {high:.1f} points."


def summary(parts: Sequence[Part]) -> str:
    """The verdicts on all claims: a row a claim and confirmation, a column a part."""
    verdicts = [judged(part) for part in parts]
    rows = [
        [claim, judgement.about, *(mine[number][place].verdict for mine in verdicts)]
        for number, claim in enumerate(CLAIMS)
        for place, judgement in enumerate(verdicts[0][number])
    ]
    epochs = [f"{part.tables.file.trial['training']['num_epochs']} epochs" for part in parts]
    return table(["the study's claim", "asked of students at", *epochs], rows)


def claims_markdown(part: Part) -> str:
    """The verdicts with the figures that they rest on."""
    parts = []
    for claim, judgements in zip(CLAIMS, judged(part), strict=True):
        lines = [f"{one.about}: **{one.verdict}**{'; ' * bool(one.figures)}{one.figures}" for one in judgements]
        parts += [f"*{claim}*", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join([*parts, groups_markdown(part)])


def groups_markdown(part: Part) -> str:
    """Shares of wrong answers that stay in their group of classes, beside those of answers spread evenly."""
    rows, groups = [], []
    for about, told in part.told.items():
        if told.groups is None:
            return ""
        shares = inside_groups(told).set_index(["model", "group"])
        groups = list(shares.index.unique("group"))
        for model in STUDENTS:
            mine = [shares.loc[(model, group)] for group in groups if (model, group) in shares.index]
            cells = [f"{_percent(share, 'share')}; {100 * share['evenly']:.1f}" for share in mine]
            rows.append([about, named(model), *cells])
    text = "Wrong answers in the right group, in %; last in a cell, what it would be if they were spread evenly."
    return f"{text}\n\n{table(['students at', 'student', *groups], rows)}"


def _with_interval(row: Mapping[str, Any], name: str) -> list[str]:
    return [f"{100 * row[name]:.2f}", f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"]
