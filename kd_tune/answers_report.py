"""What students answer on test images, as parts of a run's report: tables, pictures, and words that explain them.

One set of files a student, `answers_1_accuracy.csv` and so on; students are counted as the confirmation lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kd_tune import answers, calibration, class_profiles, confusion_plots, confusions, prediction_plots, predictions
from kd_tune.blocks import Block, Lines, Part, Picture, Prose, TableBlock
from kd_tune.confirmation import ANSWERS, Confirmation
from kd_tune.errors import ConfigError
from kd_tune.predictions import EVERY_IMAGE, TEACHER_WRONG, Predictions

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Student:
    """What is known of one student's answers.

    Attributes:
        name: the student, in words.
        stem: its files' names begin so.
        tables: by name, those that have rows.
    """

    name: str
    stem: str
    tables: Tables


@dataclass(frozen=True)
class Answers:
    """What is known of all answers.

    Attributes:
        students: of whom there is something to compare.
        notes: what a person should know who does not read the report.
    """

    students: list[Student] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(folder: Path, confirmed: Confirmation) -> Answers:
    """Reads a confirmation's answers, and computes every table of them.

    Args:
        folder: the confirmation's.
        confirmed: what it found.

    Raises:
        ConfigError: the answers are damaged.
    """
    if not (folder / ANSWERS).exists():
        lacking = (
            f"no figures by class: {folder.name} has no {ANSWERS}, because it was made by an earlier kd_tune, or the "
            "file was deleted; another confirmation would open the test set once more"
        )
        return Answers(notes=[lacking])
    students, notes = [], []
    numbers = {student: number for number, student in enumerate(answers.students_of(confirmed), 1)}
    for name, found in answers.read(folder, confirmed):
        tables, lacks = tables_of(found)
        notes += [f"{name}: {text}" for text in lacks]
        students.append(Student(name, f"answers_{numbers[name]}_", tables))
    if not students:
        notes.append("no figures by class: no student was trained as two models that could be compared")
    return Answers(students, notes)


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


@dataclass(frozen=True)
class Topic:
    """A part of the report that is there if a student has its tables.

    Attributes:
        key: of the part.
        title: of the part.
        text: what to know before looking.
        pictures: in order, a set a student.
        tests: whether the table of paired tests stands over the pictures.
    """

    key: str
    title: str
    text: str
    pictures: tuple[str, ...]
    tests: bool = False


TOPICS = (
    Topic(
        "which_differ",
        "Which models differ",
        "All pairs of models on the same images. `p` asks whether these configurations, trained again, would differ on "
        "other images: that is what a claim about a method needs. `p of McNemar` asks whether the two exported "
        "networks would; it knows nothing of seeds, so a small one is no evidence for the method. Both are adjusted "
        "for all pairs of a student (Holm), so they can differ from those of the confirmation's own comparisons. "
        "Where `p` is large, nothing was shown, not that models are equal.",
        ("paired_tests",),
        tests=True,
    ),
    Topic(
        "by_class",
        "Accuracy by class",
        "Which classes a model gains or loses. An interval is of one class and adjusted for nothing: of twenty "
        "differences between equal models, one looks real.",
        ("accuracy_by_class",),
    ),
    Topic(
        "confusions",
        "Confusions",
        "Which classes are taken for which: mean counts over seeds, then how they differ from those of the model that "
        "is listed first. Only framed cells differ beyond chance; colours alone show noise too.",
        ("confusions", "confusion_differences"),
    ),
    Topic(
        "inside_groups",
        "Confusions inside groups",
        "Of the wrong answers, the share that name a class of the true class's own group. The bar is what wrong "
        "answers spread evenly would give; a share above it says that classes of a group look alike, to any model. "
        "Only a difference between models says something about how they were trained.",
        ("inside_groups",),
    ),
    Topic(
        "class_profiles",
        "Class profiles",
        "Whether a student is good at the classes that its teacher is good at. Hard classes are hard for every "
        "network, so that a model which never met the teacher also comes close: compare models, not a "
        "correlation with 0.",
        ("class_profiles", "closeness", "closeness_differences"),
    ),
    Topic(
        "agreement",
        "Agreement with the teacher",
        "How often a student answers as its teacher does. A more accurate student agrees more by that alone; on the "
        "images that the teacher gets wrong, agreement is what was taken over from the teacher, or is as hard to avoid "
        "for both. How much is the latter shows in a model that never met the teacher.",
        ("agreement", "agreement_differences", "agreement_differences_teacher_wrong"),
    ),
    Topic(
        "calibration",
        "Calibration",
        "Whether confidence is accuracy, at temperature 1: a student that learnt at a high temperature, or from soft "
        "or smoothed targets, is often not confident enough, which says nothing about its accuracy. Even a perfect "
        "model shows some error, because a bin's accuracy is off by chance (`if_calibrated` in the table).",
        ("reliability",),
    ),
)


def parts(found: Answers) -> Iterator[Part]:
    """What a report says of the answers."""
    blocks: list[Block] = [Lines(found.notes)]
    if found.students:
        blocks.append(
            Prose(
                "The answers to the test images of every confirmed model, beside their teacher's. Models are compared "
                "at the same student. Intervals are of 95 % and over other seeds and other test images; a teacher's is "
                "over images alone. Each picture's table lies beside it as a CSV file of the same name."
            )
        )
        blocks += _pictures(found.students, "accuracy")
    yield Part("answers", "What the students answer", blocks)
    for topic in TOPICS:
        shown: list[Block] = _paired_tests(found.students) if topic.tests else []
        for name in topic.pictures:
            shown += _pictures(found.students, name)
        if shown:
            yield Part(topic.key, topic.title, [Prose(topic.text), *shown], level=3)


def _paired_tests(students: list[Student]) -> list[Block]:
    blocks: list[Block] = []
    for student in students:
        table = student.tables["paired_tests"]
        blocks += [
            *([Lines([student.name])] if len(students) > 1 else []),
            TableBlock(f"{student.stem}paired_tests", table, shown_paired_tests(table)),
        ]
    return blocks


def _pictures(students: list[Student], name: str) -> list[Block]:
    """Of every student that has its tables."""
    needed, draw = PICTURES[name]
    blocks: list[Block] = []
    for student in students:
        if not student.tables.keys() >= set(needed):
            continue
        figure = draw(*(student.tables[one] for one in needed))
        if figure is not None:
            blocks.append(Picture(f"{student.stem}{name}", f"{name.replace('_', ' ')}, {student.name}", figure))
    return blocks


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
