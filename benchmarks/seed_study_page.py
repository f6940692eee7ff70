"""The page of the study: its tables and pictures. See `seed_study.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import reflow, table
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from seed_study_claims import CLAIMS, judged, not_learnt, of_published_figures
from seed_study_runs import ALPHA, ALPHAS, FREE, HARD, OURS, OWN, RATE, TEMPERATURE, Part
from seed_study_tables import (
    accuracy_markdown,
    agreement_markdown,
    by_class_markdown,
    course_markdown,
    groups_markdown,
    rates_markdown,
)

from kd_tune import confirmation, confusion_plots, plots, prediction_plots
from kd_tune.calibration import calibration
from kd_tune.class_profiles import closeness, closeness_differences
from kd_tune.confusions import confusion_differences, confusions, inside_groups
from kd_tune.paths import written_whole
from kd_tune.predictions import (
    accuracy,
    accuracy_by_class,
    agreement,
    paired_tests,
)
from kd_tune.records import METRIC
from kd_tune.retraining import num_choosing


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
    made = how_it_was_made(parts, command)
    text = f"# The study, done again\n\n{introduction(parts)}\n\n{summary(parts)}\n\n{made}\n\n{sections}"
    with written_whole(page, replace=page.exists()) as temporary:
        temporary.write_text(reflow(text), encoding="utf-8")


def introduction(parts: Sequence[Part]) -> str:
    """What a reader needs to know before the first table."""
    one = parts[0].found[OWN]
    published = f"""

    Its teacher was a vgg13_bn of 94.22 % (of 9,984 images; 94.21 % of all), whose weights were not at hand; ours comes
    with kd_tune. It does not give temperature, optimizer, rate and batch size, and each of its figures is of one
    training. {of_published_figures()}
    In tables of accuracy by class its figures stand last in a cell. Lower rates and longer training than the grids
    have: [benchmarks/README.md](../benchmarks/README.md)."""
    return f"""A study after Hinton, Vinyals and Dean (2015) has a small student learn CIFAR-10 in three ways, by the
    weight alpha of the teacher in its loss (`mixed_target`): from hard labels (alpha=0), from labels and teacher in
    equal parts (alpha=0.5), and from the teacher alone (alpha=1). It claims three things; the first table says what
    becomes of them.{published if is_cifar10(parts[0]) else ""}

    Three questions are asked: how students compare at temperature {OURS:g} with the rate that is best for hard labels;
    each at the rate that is best for it there; each at its own best temperature and rate. The last came when the test
    figures of the first two were known on CIFAR-10: temperature {OURS:g} suits hard labels ill, because this loss
    softens the answers to them too. What is best is chosen on validation images: for the first question by the grid;
    for the others the best three cells of a student are trained on {num_choosing(one.num_seeds)} more seeds, which may
    still choose amiss. Then every student is trained on {one.num_seeds} seeds that had no part in the choice, others
    for every question, and the test set is opened for these, once a question.

    Intervals hold 95 %, over seeds and test images (the teacher's over images), each by itself; p-values are adjusted
    for the three pairs of a question (Holm). A claim holds where p is below 0.05; "open" says that so many seeds do not
    decide it, not that there is no difference."""


def how_it_was_made(parts: Sequence[Part], command: str) -> str:
    """The command, and when, where and by which code each search was made."""
    rows = [
        [
            f"{part.name}: {about}",
            made.created,
            (made.versions["commit"] or "unknown")[:10],
            f"{made.hardware['cores']} cores of {made.hardware['processor']}, torch {made.versions['torch']}",
        ]
        for part in parts
        for about, made in part.manifests.items()
    ]
    return f"""Made by `{command}`. CIFAR-10's .npz file holds `train_images`, `train_labels`, `test_images` and
    `test_labels`; without `--data` what `kd-tune data download cifar10` fetched is taken.

{table(["search or confirmation", "begun", "commit", "on"], rows)}"""


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
        "### Agreement with the teacher, and calibration",
        f"""In %. Calibration is of answers at temperature 1, as a student is used; what this loss trains are answers at
        the temperature that it is given. First {OWN}, then {FREE}.""",
        agreement_markdown(part.told[OWN]),
        agreement_markdown(part.told[FREE]),
        "### Confusions",
        f"![Confusion matrices]({pictures}/{part.name}_confusions.png)",
        f"![Differences from hard labels]({pictures}/{part.name}_confusion_differences.png)",
        *([f"![Inside groups]({pictures}/{part.name}_inside_groups.png)"] if part.told[OWN].groups else []),
        "### The study's three claims",
        claims_markdown(part),
        f"![Class profiles]({pictures}/{part.name}_class_profiles.png)",
    ]
    return "\n\n".join(text for text in parts if text)


def _at_the_end(part: Part) -> str:
    """What to know of a rate beyond which none was tried."""
    rates = part.tables.trials[RATE]
    where = {float(rates.min()): "lowest", float(rates.max()): "highest"}.get(part.rate)
    return f", the {where} of the grid" if where else ""


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
