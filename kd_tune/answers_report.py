"""What students answer on test images, as a part of a run's report: CSV files, pictures, a section that explains them.

One set of files a student, `answers_1_accuracy.csv` and so on; students are counted as the confirmation lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kd_tune import (
    answers,
    calibration,
    class_profiles,
    confusion_plots,
    confusions,
    markdown,
    prediction_plots,
    predictions,
)
from kd_tune.confirmation import ANSWERS, Confirmation
from kd_tune.errors import ConfigError
from kd_tune.predictions import EVERY_IMAGE, TEACHER_WRONG, Predictions

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Written:
    """What was written of the answers.

    Attributes:
        section: of the page, in Markdown.
        notes: what a person should know who does not read it.
    """

    section: str
    notes: list[str]


def write(folder: Path, confirmed: Confirmation, target: Path) -> Written:
    """Writes tables and pictures of a confirmation's answers.

    Args:
        folder: the confirmation's.
        confirmed: what it found.
        target: the folder to write to.

    Raises:
        ConfigError: the answers are damaged.
    """
    students: list[dict[str, Any]] = []
    notes = []
    if not (folder / ANSWERS).exists():
        notes.append(
            f"no figures by class: {folder.name} has no {ANSWERS}, because it was made by an earlier kd_tune, or the "
            "file was deleted; another confirmation would open the test set once more"
        )
    else:
        numbers = {student: number for number, student in enumerate(answers.students_of(confirmed), 1)}
        for student, found in answers.read(folder, confirmed):
            tables, lacks = tables_of(found)
            notes += [f"{student}: {text}" for text in lacks]
            pictures = _save(tables, target, f"answers_{numbers[student]}_")
            pairs = markdown.table(shown_paired_tests(tables["paired_tests"]))
            students.append({"name": student, "pictures": pictures, "pairs": pairs, "base": found.models[0].name})
        if not students:
            notes.append("no figures by class: no student was trained as two models that could be compared")
    section = markdown.render("answers.md.jinja", students=students, notes=[markdown.escaped(text) for text in notes])
    return Written(section, notes)


def tables_of(found: Predictions) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Every table that has rows, by name; and what could not be computed, in words."""
    tables = {
        "accuracy": predictions.accuracy(found),
        "paired_tests": predictions.paired_tests(found),
        "inside_groups": confusions.inside_groups(found),
        "agreement": predictions.agreement(found),
        "agreement_differences": predictions.agreement_differences(found),
        "calibration": calibration.calibration(found),
        "reliability": calibration.reliability(found),
    }
    notes = []
    try:
        tables |= _tables_by_class(found)
    except ConfigError as error:
        notes.append(f"figures by class are left out: {error}")
    return {name: table for name, table in tables.items() if not table.empty}, notes


def _tables_by_class(found: Predictions) -> dict[str, pd.DataFrame]:
    return {
        "accuracy_by_class": predictions.accuracy_by_class(found),
        "confusions": confusions.confusions(found),
        "confusion_differences": confusions.confusion_differences(found, found.models[0].name),
        "closeness": class_profiles.closeness(found),
        "closeness_differences": class_profiles.closeness_differences(found),
    }


def _agreement_differences(table: pd.DataFrame, kind: str) -> Figure | None:
    """Of one kind of images; None where there are none of it."""
    rows, what = table[table["of"] == kind], f"agreement with the teacher,\n{kind}"
    return None if rows.empty else prediction_plots.differences(rows, what, percent=True)


# Of every picture the tables that it is drawn from, and how.
PICTURES: dict[str, tuple[tuple[str, ...], Callable[..., Figure | None]]] = {
    "accuracy": (("accuracy",), prediction_plots.accuracy_by_model),
    "paired_tests": (("paired_tests",), partial(prediction_plots.differences, of="test accuracy", percent=True)),
    "accuracy_by_class": (("accuracy_by_class",), prediction_plots.accuracy_by_class),
    "confusions": (("confusions",), confusion_plots.confusion_matrices),
    "confusion_differences": (("confusion_differences",), confusion_plots.confusion_differences),
    "inside_groups": (("inside_groups",), prediction_plots.inside_groups),
    "class_profiles": (("accuracy_by_class", "closeness"), prediction_plots.class_profiles),
    "closeness": (("closeness",), prediction_plots.closeness),
    "closeness_differences": (
        ("closeness_differences",),
        partial(prediction_plots.differences, of="correlation with the teacher's profile", percent=False),
    ),
    "agreement": (("agreement",), prediction_plots.agreement),
    "agreement_differences": (("agreement_differences",), partial(_agreement_differences, kind=EVERY_IMAGE)),
    "agreement_differences_teacher_wrong": (
        ("agreement_differences",),
        partial(_agreement_differences, kind=TEACHER_WRONG),
    ),
    "reliability": (("reliability", "calibration"), prediction_plots.reliability),
}


def _save(found: Tables, target: Path, stem: str) -> dict[str, str]:
    """Writes one student's tables and pictures; the pictures' files by name."""
    for name, table in found.items():
        table.to_csv(target / f"{stem}{name}.csv", index=False)
    files = {}
    for name, (needed, draw) in PICTURES.items():
        if not found.keys() >= set(needed):
            continue
        figure = draw(*(found[one] for one in needed))
        if figure is not None:
            files[name] = f"{stem}{name}.png"
            figure.savefig(target / files[name])
    return files


def shown_paired_tests(table: pd.DataFrame) -> pd.DataFrame:
    """`predictions.paired_tests` as a person reads it."""
    return pd.DataFrame(
        {
            "models": f"{row['first']} - {row['second']}",
            "points": f"{100 * row['difference']:+.2f}",
            "95 % interval": f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            "p": f"{row['p_holm']:.2g}",
            "images only one gets right": f"{row['first_only']:,} against {row['second_only']:,}",
            "p of McNemar": f"{row['mcnemar_p_holm']:.2g}",
        }
        for row in table.to_dict("records")
    )
