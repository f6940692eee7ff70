"""Where trials are trained. `open_trial` gives the epochs of one; here in the process that asks.

The call is the boundary: a trial that is a Ray Tune trial, a teacher, or a retraining asks a host for rows, and does
not know where they are made. The host owns checkpoints: it writes them before the row that they belong to is given
out, and goes on from the newest one it finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from kd_tune import __version__, checkpoint, teacher
from kd_tune.catalog import build_objective, load_dataset
from kd_tune.config import TrainingConfig
from kd_tune.data import Dataset
from kd_tune.engine import advance, enrol
from kd_tune.errors import ConfigError
from kd_tune.records import Assignment, EpochRow, TeacherPlace, finite_or_none, none_to_nan
from kd_tune.soft_targets import open_bank, read_fingerprint
from kd_tune.trial_data import TrialData

# A search may have several teachers, each with a bank; on a CPU they are mapped, on a GPU copied.
MOST_DATA = 4


class Training:
    """A trial at its host: its student, the data that it learns from, and its checkpoints.

    A trial that goes on has its checkpoint's own row again, marked `restored`, and those before it that were not
    reported when it was written: the process that was to report them may have died in between.

    Args:
        assignment: the trial.

    Attributes:
        assignment: the trial.
        data: images and soft targets on the device.
        student: goes on from the newest checkpoint, if there is one.
        restored: that checkpoint's rows.

    Raises:
        ConfigError: data, bank or checkpoint are missing or damaged.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.data = _trial_data(
            json.dumps(assignment.trial["dataset"], sort_keys=True),
            assignment.source,
            assignment.teacher,
            TrainingConfig.model_validate(assignment.trial["training"]).views,
            assignment.device,
        )
        self.student = enrol(assignment.trial, self.data, assignment.seed, assignment.order_seed)
        self.restored: list[EpochRow] = []
        found = checkpoint.newest(Path(assignment.checkpoints))
        if found is not None:
            self.restored = _rows_of(found)
            checkpoint.load_weights(found / checkpoint.WEIGHTS, self.student.network)
            checkpoint.load_state(found, self.student.optimizer)
            self.student.epoch = self.restored[-1].epoch
        self._last = self.restored[-1] if self.restored else None
        self._last_saved = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether there is no epoch left to train."""
        return (self._last is not None and self._last.diverged) or (
            self.student.epoch >= self.student.training.num_epochs
        )

    def keep(self, row: EpochRow, unreported: Sequence[EpochRow] = ()) -> None:
        """Takes notice of an epoch that the student has done; writes a checkpoint if one is due.

        Args:
            row: the epoch.
            unreported: those before it that nobody else may have kept yet.
        """
        self._last = row
        due = time.monotonic() - self._last_saved >= self.assignment.checkpoint_seconds
        if not (due or row.diverged or row.epoch in self.assignment.checkpoint_epochs):
            return
        folder = Path(self.assignment.checkpoints) / f"epoch_{row.epoch:04d}"
        description = describe_student(self.assignment, self.data.dataset, row)
        description |= {"unreported": [finite_or_none(asdict(one)) for one in unreported]} if unreported else {}
        checkpoint.save(folder, self.student.network, self.student.optimizer, description)
        checkpoint.delete_older(folder)
        self._last_saved = time.monotonic()


def open_trial(assignment: Assignment) -> Iterator[EpochRow]:
    """Trains a trial in this process, from its newest checkpoint if it has one.

    Raises:
        ConfigError: data, bank or checkpoint are missing or damaged.
    """
    if assignment.device == "cpu":
        torch.set_num_threads(assignment.threads)
    training = Training(assignment)
    yield from training.restored
    while not training.ended:
        row = advance(training.student, training.data)
        training.keep(row)
        yield row


@lru_cache(maxsize=1)
def _dataset(dataset_json: str, source: str | None) -> Dataset:
    """The images; kept, because actors are reused for many trials of one search."""
    return load_dataset(json.loads(dataset_json), None if source is None else Path(source))


@lru_cache(maxsize=MOST_DATA)
def _trial_data(
    dataset_json: str, source: str | None, place: TeacherPlace | None, views: int, device: str
) -> TrialData:
    """Images and a teacher's answers on a device; kept likewise."""
    dataset = _dataset(dataset_json, source)
    opened, live = None, None
    if place is not None and place.bank is not None:
        bank = Path(place.bank)
        opened = open_bank(bank, read_fingerprint(bank), len(dataset.train), dataset.num_classes, views)
    elif place is not None and place.live is not None:
        live = teacher.load(Path(place.live), dataset)
    return TrialData(dataset, opened, torch.device(device), live)


def forget_data() -> None:
    """Lets go of the data that this process holds for its trials; on a GPU, of the memory that they take."""
    _trial_data.cache_clear()
    _dataset.cache_clear()


def describe_student(assignment: Assignment, dataset: Dataset, row: EpochRow) -> dict[str, Any]:
    """The content of `trial.json`: what the student is, how it came to be, and how well it does."""
    objective = assignment.trial["objective"]
    return {
        "kd_tune": __version__,
        "number": assignment.number,
        "arm": assignment.arm,
        "seed": assignment.seed,
        "order_seed": assignment.order_seed,
        "trial": assignment.trial,
        "objective_version": build_objective(objective, dataset).version,
        "dataset": dataset.identity,
        "input": dataset.input_shape,
        "class_names": list(dataset.class_names),
        "normalisation": dataset.normalisation,
        "row": finite_or_none(asdict(row)),
    }


def _rows_of(folder: Path) -> list[EpochRow]:
    """The rows that a checkpoint was written with, its own the last; what JSON could not hold comes back as NaN.

    A damaged checkpoint is set aside before that is said, so that a trial that is started again does without it.
    """
    try:
        record = checkpoint.read(folder)
    except checkpoint.DamagedCheckpoint as damage:
        aside = checkpoint.set_aside(folder)
        raise ConfigError(f"{damage}; it is set aside as {aside}, and without it the training begins anew") from None
    try:
        rows = [EpochRow(**none_to_nan(stored)) for stored in [*record.get("unreported", []), record["row"]]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / checkpoint.TRIAL}: not the record of a checkpoint: {error}") from None
    return [replace(row, restored=True, note="") for row in rows]
