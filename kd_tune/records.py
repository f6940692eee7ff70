"""What a trial reports and what a run records: one list of names and types, for writers and readers.

Imports nothing heavy, so that a reader of a run needs neither torch nor Ray.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# What ends a trial. `failed` is an error that outlived its retries; a trial without an end can be continued.
StopReason = Literal["completed", "pruned", "diverged", "failed"]
STOP_REASONS: tuple[StopReason, ...] = ("completed", "pruned", "diverged", "failed")

# Kinds of ledger events.
STARTED = "started"  # a launcher opened the run: versions, number of trials by arm, edges of the strata of students
PROPOSED = "proposed"  # a trial was drawn: number, arm, draw, config
EPOCH = "epoch"  # a trial reported an epoch
SPARED = "spared"  # a trial that is never pruned was told to stop, for the first time
STOPPED = "stopped"  # a trial ended, with its reason
RETRIED = "retried"  # a trial broke and is started again: what it was, as in `failures`, and the error
NOTED = "noted"  # the host of a trial said something that a person should know
EXTENDED = "extended"  # trials were added to every arm
EXHAUSTED = "exhausted"  # nothing is left to propose for an arm, and why; it ends with the trials that it has
REOPENED = "reopened"  # a confirmation's trainings that failed go on: their numbers, and the arms' whole quota again
KNOWN = "known"  # a trial of an earlier run that the sampler is shown: run, arm, number, draw, values by epoch, end
TEST_OPENED = "test_opened"  # somebody looked at the test set
PLACES = "places"  # nodes came or went: places where trials are trained now
PAUSED = "paused"  # the launcher left before the search was done, and why
FINISHED = "finished"  # every trial has ended

METRIC = "val_accuracy"

# `distil` is a search file's own objective; the others are its controls, which learn nothing from the teacher.
DISTIL = "distil"
ARMS = (DISTIL, "cross_entropy", "label_smoothing")


@dataclass(frozen=True)
class EpochRow:
    """One epoch of one trial.

    Attributes:
        epoch: epochs done, from 1.
        train_loss: mean over the epoch's training images of the whole loss.
        train_loss_parts: the same for every weighted part of the objective; they add up to `train_loss`.
        val_accuracy: share of the validation images classified right, 0 to 1.
        val_loss: mean cross entropy on the validation images at temperature 1, in nats.
        val_agreement: share of the validation images on which student and teacher name the same class;
            NaN without a teacher.
        val_ece: expected calibration error on the validation images at temperature 1, 15 equal bins.
        val_accuracy_even: `val_accuracy` of every other validation image, from the first; NaN where there is none.
        val_accuracy_odd: the same of those between. Who selects on one half can be scored on the other.
        learning_rate: the rate of the epoch's last step.
        seconds: wall clock of training and validation; in a stack, the student's share of it.
        images_per_second: training images over the seconds spent training.
        num_parameters: parameters of the student.
        multiply_adds: of the student for one image.
        diverged: the loss was not finite; the trial ends here.
        restored: the row was read from a checkpoint, not trained now.
        note: what the host wants a person to know; comes with the row, and is kept beside it.
    """

    epoch: int
    train_loss: float
    val_accuracy: float
    val_loss: float
    val_agreement: float
    val_ece: float
    val_accuracy_even: float
    val_accuracy_odd: float
    learning_rate: float
    seconds: float
    images_per_second: float
    num_parameters: int
    multiply_adds: int
    diverged: bool = False
    restored: bool = False
    note: str = ""
    train_loss_parts: dict[str, float] = field(default_factory=dict)

    def to_metrics(self) -> dict[str, Any]:
        """The row as one flat dict: every part of the loss under `train_loss_<part>`."""
        metrics = asdict(self)
        parts = metrics.pop("train_loss_parts")
        return metrics | {f"train_loss_{name}": value for name, value in parts.items()}


METRIC_NAMES = frozenset(EpochRow.__dataclass_fields__) - {"train_loss_parts", "restored", "note"}


def select_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch out of a dict that holds other keys as well (Ray adds some twenty)."""
    return {name: value for name, value in result.items() if name in METRIC_NAMES or name.startswith("train_loss_")}


def finite_or_none(value: Any) -> Any:
    """`value` with every number that JSON cannot write (NaN, infinity) replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return value


def none_to_nan(row: dict[str, Any]) -> dict[str, Any]:
    """A stored row's figures with NaN where `finite_or_none` had to write None."""
    return {
        key: none_to_nan(value) if isinstance(value, dict) else math.nan if value is None else value
        for key, value in row.items()
    }


@dataclass(frozen=True)
class TeacherPlace:
    """Where a trial finds its teacher's answers: in one of the two.

    Attributes:
        bank: folder of the soft targets.
        live: folder of the teacher itself, which is asked in every step.
    """

    bank: str | None = None
    live: str | None = None


@dataclass(frozen=True)
class Assignment:
    """Everything that a host needs to train one trial; plain values, so that it crosses processes.

    Attributes:
        number: the trial's number in its run.
        arm: the arm that it belongs to.
        trial: the trial's config, every range filled.
        seed: of the student's first weights, and of what it draws in training.
        order_seed: of the order of images and of views.
        checkpoints: folder that holds this trial's checkpoints, `epoch_0003` and so on.
        source: where the data lie; None: the usual place.
        teacher: where its answers are, if there is a teacher.
        fingerprint: that the data must have; None: whatever lies there.
        checkpoint_epochs: epochs after which a checkpoint is written whatever the clock says.
        checkpoint_seconds: at the first epoch's end after so many seconds one is written too.
        device: `cpu` or `cuda`.
        threads: threads of this trial on a CPU.
        epoch_seconds: an epoch that takes longer ends its process, if that is a worker.
        alone: whether a host trains it by itself up to its next checkpoint; it may have brought the last host down.
        storage: URL of the folder that holds this trial's checkpoints in place of `checkpoints`, if there is a storage.
    """

    number: int
    arm: str
    trial: dict[str, Any]
    seed: int
    order_seed: int
    checkpoints: str
    source: str | None
    teacher: TeacherPlace | None
    fingerprint: str | None = None
    checkpoint_epochs: tuple[int, ...] = ()
    checkpoint_seconds: float = 30.0
    device: str = "cpu"
    threads: int = 1
    epoch_seconds: float = 3600.0
    alone: bool = False
    storage: str | None = None


def derive_seed(*parts: int | str) -> int:
    """A seed, 0 to 2^63 - 1, that follows from all its parts and is the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
