"""The tables of the study's page. See `seed_study.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import stdev
from typing import Any

import pandas as pd
from common import table
from seed_study_claims import CLASSES, PUBLISHED, PUBLISHED_BY_CLASS
from seed_study_runs import ALPHA, ALPHAS, OURS, RATE, STUDENTS, TEMPERATURE, Part, best_rate

from kd_tune.calibration import calibration
from kd_tune.confirmation import Confirmation
from kd_tune.confusions import inside_groups
from kd_tune.predictions import EVERY_IMAGE, TEACHER_WRONG, Predictions, accuracy, accuracy_by_class, agreement
from kd_tune.records import METRIC


def named(model: str) -> str:
    """A student as tables name it, with the name that sentences and pictures give it."""
    return f"{STUDENTS[model]} ({model})" if model in STUDENTS else model


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
    for name in told.class_names:
        cells = [_percent(by_class.loc[(name, model)], "accuracy") for model in names]
        if published:
            theirs = [PUBLISHED_BY_CLASS[key][CLASSES.index(name)] for key in names.values()]
            cells = [f"{cell}; {figure}" for cell, figure in zip(cells, theirs, strict=True)]
        rows.append([name, *cells])
    return table(["class", *map(named, names)], rows)


def agreement_markdown(told: Predictions) -> str:
    """How often students answer as the teacher does, and how sure they are of their answers, in %."""
    agreeing = agreement(told).set_index(["of", "model"])
    errors = calibration(told).set_index("model")
    rows = []
    for name in errors.index:
        shares = [
            _percent(agreeing.loc[(of, name)], "agreement") if (of, name) in agreeing.index else ""
            for of in (EVERY_IMAGE, TEACHER_WRONG)
        ]
        sure = [f"{100 * errors.loc[name, column]:.1f}" for column in ("confidence", "accuracy")]
        rows.append([named(name), *shares, *sure, _percent(errors.loc[name], "ece")])
    header = ["model", "agrees with the teacher", "where the teacher is wrong"]
    return table([*header, "mean confidence", "accuracy", "calibration error"], rows)


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
        f"depend on the temperature as well. The best of all cells: {overall}; these are the highest of "
        f"{len(trials) // len(ALPHAS)} single trainings each, so rather too high.\n\n" + table(header, rows)
    )


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
    falling = part.tables.file.trial["training"]["schedule"] != "constant"
    end = " The rate falls to 0, under which any course ends flat." if falling else ""
    return f"Validation accuracy in %, and training loss, at temperature {OURS:g}.{end}\n\n{table(header, rows)}"


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
    text = (
        "Wrong answers in the right group, in %; last in a cell, what it would be if they were spread evenly. The "
        "claim holds where every interval, each by itself, is above that."
    )
    return f"{text}\n\n{table(['students at', 'student', *groups], rows)}"


def _spread(found: Iterable[Confirmation]) -> str:
    """How much a single training says."""
    spreads = [100 * stdev(arm.val_accuracies) for one in found for arm in one.arms]
    low, high = min(spreads), max(spreads)
    return f"Between trainings of one student the standard deviation is {low:.1f} to {high:.1f} points."


def _with_interval(row: Mapping[str, Any], name: str) -> list[str]:
    return [f"{100 * row[name]:.2f}", f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"]


def _percent(row: pd.Series, name: str) -> str:
    """A share in %, with its interval."""
    return f"{100 * row[name]:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
