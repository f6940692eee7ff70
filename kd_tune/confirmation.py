"""A confirmation as it lies on disk: what was planned, and what came out. Reading it loads neither torch nor Ray.

A run's first confirmation is the folder `confirmation`, a run of its own; further ones are `confirmation_2` and so on.
`plan.json` is there from its first moment on, `confirmation.json` from its last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kd_tune.ledger import PLAN
from kd_tune.paths import Record, read_record
from kd_tune.progress import short

FIGURES = "confirmation.json"
ANSWERS = "test_answers.npz"
EXPORT = "confirmed"
SIGNIFICANT = 0.05
FEW = 3  # a model was tuned less at a student if another has so many times its trials there


class Candidate(Record):
    """A configuration of the search that is trained again.

    Attributes:
        student: its place in `Plan.students`.
        arm: the arm that it belongs to.
        model: what it is compared as: its arm, or its value of `Plan.by`.
        trial: the search's trial that it was.
        draw: its parameters.
        moved: whether the search's trial had another student, in whose place this one was put.
        epoch: epochs that the search trained it for.
        val_accuracy: the search's figure for it.
    """

    student: int
    arm: str
    model: str
    trial: int
    draw: dict[str, Any]
    moved: bool
    epoch: int
    val_accuracy: float


class Plan(Record):
    """`plan.json`: what a confirmation trains, written before it begins (`retraining` says in what order).

    Attributes:
        seed: all training seeds follow from it and the training's number.
        by: the parameter whose values are compared; None: arms are.
        where: values that parameters of candidates must have.
        top: candidates of a model at a student, at most; of one, two where that of another student looked better.
        num_seeds: trainings that are reported, of every chosen configuration.
        students: the `student` sections that models are compared at.
        trials: by student, how many usable trials of the search each model had there.
        candidates: by student, by model, the model's own best first.
        all_students: whether models are compared at every student that arms have in common; None in plans of before it
            was kept.
        search_trials: the search's trials then; later ones are none of this confirmation's business. None likewise.
    """

    seed: int
    by: str | None
    where: dict[str, Any]
    top: int
    num_seeds: int
    students: list[dict[str, Any]]
    trials: list[dict[str, int]]
    candidates: list[Candidate]
    all_students: bool | None = None
    search_trials: int | None = None


class ConfirmedArm(Record):
    """One model at one student: its chosen configuration, trained on fresh seeds, on the test images.

    Attributes:
        student: the student, in words.
        num_parameters: of the student.
        arm: the arm.
        model: what it is compared as: its arm, or its value of `Confirmation.by`.
        trial: the search's trial whose configuration was chosen.
        draw: its parameters.
        trainings: their numbers in the confirmation's run, a seed each; those that it was chosen by are not among them.
        val_accuracies: of the trainings, last epoch.
        test_accuracies: of the trainings.
        low: lower end of the 95 % interval of the mean test accuracy, over new seeds and new images.
        high: upper end.
        moved: whether the search had that trial with another student, in whose place this one was put; None in files
            of before it was kept.
        search_trials: usable trials of the search for this model and student.
        search_maximum: the largest last validation accuracy of those; None where there is none.
        search_shrunken: the same without the luck of having been the largest; None where the search did not record
            halves of the validation images.
        exported: the training with the median validation accuracy.
        export: its folder in the run's `confirmed`.
    """

    student: str
    num_parameters: int
    arm: str
    model: str
    trial: int
    draw: dict[str, Any]
    trainings: list[int]
    val_accuracies: list[float]
    test_accuracies: list[float]
    low: float
    high: float
    moved: bool | None = None
    search_trials: int
    search_maximum: float | None
    search_shrunken: float | None
    exported: int
    export: str


class Comparison(Record):
    """Two models at one student: distillation and a control, or two values of a parameter.

    Attributes:
        student: the student, in words.
        first: a model.
        second: the one that it is compared with.
        difference: of mean test accuracies.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: adjusted for all comparisons of the confirmation (Holm).
    """

    student: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float

    def sentence(self, num_comparisons: int) -> str:
        """What was found, for a person.

        Args:
            num_comparisons: of the confirmation, which the p-value is adjusted for and the interval is not.
        """
        interval = f"{100 * self.low:+.2f} to {100 * self.high:+.2f}"
        if self.p_value >= SIGNIFICANT:
            said = (
                f"not decidable whether {self.first} or {self.second} is better: the difference is "
                f"{100 * self.difference:+.2f} points ({interval}; p {self.p_value:.2g})"
            )
            if self.low <= 0 <= self.high:
                return said
            return f"{said}. The interval is of this difference alone, p is adjusted for {num_comparisons} comparisons"
        better, worse, sign = (self.first, self.second, 1) if self.difference > 0 else (self.second, self.first, -1)
        ends = sorted((sign * self.low, sign * self.high))
        points = f"{100 * sign * self.difference:.2f} points ({100 * ends[0]:.2f} to {100 * ends[1]:.2f}"
        return f"{better} beats {worse} by {points}; p {self.p_value:.2g})"


class Confirmation(Record):
    """`confirmation.json`: what a confirmation found.

    Attributes:
        created: when, in local time with its offset.
        num_seeds: trainings of each configuration.
        num_images: test images.
        opening: which opening of the test set by this run it was, from 1.
        search_arms: arms that the search had.
        by: the parameter whose values were compared; None: arms were.
        arms: a row a model and student.
        comparisons: of the distilled arm with each control, or of all pairs of values.
        left_out: what could not be compared, and why.
        knows_validation_images: of each teacher.
        class_names: by class number.
        class_groups: of classes that are alike; None: the data set names none.
        teacher: whose answers to the test images are kept beside the students'; None: they had none, or several, or
            one of which there are no more than its answers to the training images.
        versions: at the launch that opened the test set (those of the trainings stand in the confirmation's manifest);
            None in files of before they were kept.
    """

    created: str
    num_seeds: int
    num_images: int
    opening: int
    search_arms: list[str]
    by: str | None
    arms: list[ConfirmedArm]
    comparisons: list[Comparison]
    left_out: list[str]
    knows_validation_images: dict[str, bool | None]
    class_names: list[str]
    class_groups: dict[str, list[str]] | None
    teacher: str | None
    versions: dict[str, Any] | None = None


def folder_of(run: Path, number: int) -> Path:
    """The folder of a run's confirmation, counted from 1."""
    return run / ("confirmation" if number == 1 else f"confirmation_{number}")


def numbers(names: Iterable[str]) -> list[int]:
    """Which confirmations folders of these names are, in order; other names are passed over."""
    found = (re.fullmatch(r"confirmation(?:_([1-9][0-9]*))?", name) for name in names)
    return sorted(int(match[1] or 1) for match in found if match)


def begun(run: Path) -> list[int]:
    """A run's confirmations that were begun and still lie there, in order: earlier ones may have been deleted."""
    return numbers(plan.parent.name for plan in run.glob(f"*/{PLAN}"))


def latest(run: Path) -> Confirmation | None:
    """A run's newest confirmation that was completed.

    Raises:
        ConfigError: it is damaged.
    """
    folder = latest_folder(run)
    return None if folder is None else read_record(folder / FIGURES, Confirmation)


def latest_folder(run: Path) -> Path | None:
    """Where a run's newest confirmation that was completed lies."""
    folders = (folder_of(run, number) for number in reversed(begun(run)))
    return next((folder for folder in folders if (folder / FIGURES).exists()), None)


def arms_table(confirmation: Confirmation) -> pd.DataFrame:
    """A row a model and student: means, spread over seeds, interval, and what the search had said."""
    rows = [
        {
            "student": arm.student,
            "num_parameters": arm.num_parameters,
            "model": arm.model,
            "trial": arm.trial,
            "test_accuracy": pd.Series(arm.test_accuracies).mean(),
            "sd": pd.Series(arm.test_accuracies).std(),
            "low": arm.low,
            "high": arm.high,
            "val_accuracy": pd.Series(arm.val_accuracies).mean(),
            "search_trials": arm.search_trials,
            "search_maximum": arm.search_maximum,
            "search_shrunken": arm.search_shrunken,
        }
        for arm in confirmation.arms
    ]
    return pd.DataFrame(rows)


def comparisons_table(confirmation: Confirmation) -> pd.DataFrame:
    """A row a comparison; empty without a control."""
    return pd.DataFrame([comparison.model_dump() for comparison in confirmation.comparisons])


def shown_arms(confirmation: Confirmation) -> pd.DataFrame:
    """`arms_table` as a person reads it."""
    rows = [
        {
            "student": row["student"],
            "parameters": f"{row['num_parameters']:,}",
            confirmation.by or "arm": row["model"],
            "trial": str(row["trial"]),
            "test accuracy": f"{row['test_accuracy']:.2%}",
            "sd, points": f"{100 * row['sd']:.2f}",
            "95 % interval": f"{100 * row['low']:.2f} to {100 * row['high']:.2f}",
            "validation": f"{row['val_accuracy']:.2%}",
            "trials in search": str(row["search_trials"]),
            "maximum in search": _percent(row["search_maximum"]),
            "shrunken": _percent(row["search_shrunken"]),
        }
        for row in arms_table(confirmation).to_dict("records")
    ]
    return pd.DataFrame(rows)


def _percent(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:.2%}"


def configurations(confirmation: Confirmation) -> list[str]:
    """What was chosen for each arm and student, and where the student lies."""
    return [
        f"{EXPORT}/{arm.export}: {arm.student}, "
        + " ".join(f"{name}={short(value)}" for name, value in arm.draw.items())
        for arm in confirmation.arms
    ]


def findings(confirmation: Confirmation) -> list[str]:
    """What to say below the table: comparisons, what is missing, and what is known of the teachers."""
    count = len(confirmation.comparisons)
    lines = [f"{comparison.student}: {comparison.sentence(count)}" for comparison in confirmation.comparisons]
    if len(confirmation.search_arms) == 1 and confirmation.by is None:
        lines.append("no control: there is nothing to compare distillation with")
    lines += [text for arm in confirmation.arms for text in _effort(arm, confirmation)]
    lines += [text for arm in confirmation.arms if (text := _unstable(arm))]
    lines += [f"left out: {reason}" for reason in confirmation.left_out]
    for teacher, knows in confirmation.knows_validation_images.items():
        if knows:
            lines.append(f"teacher {teacher} learnt from the validation images on which students were chosen")
        elif knows is None:
            lines.append(f"nobody can tell whether teacher {teacher} learnt from the validation images")
    return lines


def _effort(arm: ConfirmedArm, confirmation: Confirmation) -> Iterator[str]:
    """What to say where a model was searched less at a student than others, or stands there with a borrowed trial."""
    most = max((one for one in confirmation.arms if one.student == arm.student), key=lambda one: one.search_trials)
    own, model = arm.search_trials, arm.model
    if not own:
        lacking = f"the search has no trial of {model} with it"
        yield f"{arm.student}: {lacking}, so its best of other students were moved to it"
    elif FEW * own <= most.search_trials:
        counts = f"{own} trials of {model} with it, but {most.search_trials} of {most.model}"
        yield f"{arm.student}: the search has {counts}, so {model} was tuned less there"
    if own and arm.moved:
        yield f"{arm.student}: {model} did best with trial {arm.trial} of another student, moved to it"


def _unstable(arm: ConfirmedArm) -> str:
    """What to say of an arm some of whose trainings came to little: its mean and interval describe no training."""
    failed = sum(accuracy < max(arm.val_accuracies) / 2 for accuracy in arm.val_accuracies)
    if not failed:
        return ""
    return (
        f"{arm.student}, {arm.model}: {failed} of {len(arm.val_accuracies)} trainings ended below half of the best "
        f"one's validation accuracy ({min(arm.val_accuracies):.2%} against {max(arm.val_accuracies):.2%}): this "
        "configuration trains with some seeds only; look for a calmer one, such as a lower learning rate"
    )
