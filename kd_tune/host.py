"""Where trials are trained. `open_trial` gives the epochs of one; here in the process that asks.

The call is the boundary: a trial that is a Ray Tune trial, a teacher, or a retraining asks a host for rows, and does
not know where they are made. The host owns checkpoints: it writes them before the row that they belong to is given
out, and goes on from the newest one it finds.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from kd_tune.storage import TRIAL_PATIENCE, Storage
from kd_tune.trial_data import TrialData

# A search may have several teachers, each with a bank; on a CPU they are mapped, on a GPU copied.
MOST_DATA = 4


class Training:
    """A trial at its host: its student, the data that it learns from, and its checkpoints.

    A trial that goes on has the rows of all its epochs again, marked `restored`: whoever was to report them may have
    died in between, and a ledger that lost its end with its machine, or was copied before, is older.

    Args:
        assignment: the trial.

    Attributes:
        assignment: the trial.
        data: images and soft targets on the device.
        student: goes on from the newest checkpoint, if there is one.
        restored: the rows of its epochs.

    Raises:
        ConfigError: data, bank or checkpoint are missing or damaged.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.data = _trial_data(
            json.dumps(assignment.trial["dataset"], sort_keys=True),
            assignment.source,
            assignment.fingerprint,
            assignment.teacher,
            TrainingConfig.model_validate(assignment.trial["training"]).views,
            assignment.device,
        )
        self.student = enrol(assignment.trial, self.data, assignment.seed, assignment.order_seed)
        self._shelf = None
        if assignment.storage is not None:
            self._shelf = checkpoint.Shelf(Storage(assignment.storage, TRIAL_PATIENCE))
        self.restored: list[EpochRow] = []
        with self._newest_checkpoint() as found:
            if found is not None:
                self.restored = _rows_of(found, self._read(found))
                checkpoint.load_weights(found / checkpoint.WEIGHTS, self.student.network)
                checkpoint.load_state(found, self.student.optimizer)
                self.student.epoch = self.restored[-1].epoch
        self._rows = list(self.restored)
        self._last_saved = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether there is no epoch left to train."""
        diverged = bool(self._rows) and self._rows[-1].diverged
        return diverged or self.student.epoch >= self.student.training.num_epochs

    def keep(self, row: EpochRow) -> None:
        """Takes notice of an epoch that the student has done; writes a checkpoint if one is due."""
        self._rows.append(row)
        due = time.monotonic() - self._last_saved >= self.assignment.checkpoint_seconds
        if not (due or row.diverged or row.epoch in self.assignment.checkpoint_epochs):
            return
        description = describe_student(self.assignment, self.data.dataset, row)
        description["earlier"] = [finite_or_none(asdict(one)) for one in self._rows[:-1]]
        if self._shelf is not None:
            self._shelf.save(row.epoch, self.student.network, self.student.optimizer, description)
        else:
            folder = Path(self.assignment.checkpoints) / f"epoch_{row.epoch:04d}"
            checkpoint.save(folder, self.student.network, self.student.optimizer, description)
            checkpoint.delete_older(folder)
        self._last_saved = time.monotonic()

    @contextmanager
    def _newest_checkpoint(self) -> Iterator[Path | None]:
        """The newest checkpoint for the length of the body; None if there is none of this trial."""
        if self._shelf is None:
            folder = Path(self.assignment.checkpoints)
            while (here := checkpoint.newest(folder)) is not None and not self._is_of_this_trial(self._read(here)):
                shutil.rmtree(here)
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="kd_tune_") as temporary:
            found = self._shelf.newest(Path(temporary))
            if found is not None and not self._is_of_this_trial(self._read(found)):
                self._shelf.clear()
                found = None
            yield found

    def _read(self, found: Path) -> dict[str, Any]:
        """What a checkpoint says of its trial.

        A damaged one is put out of the way before that is said, so that a trial that is started again does without it.
        """
        try:
            return checkpoint.read(found)
        except checkpoint.DamagedCheckpoint as damage:
            if self._shelf is None:
                done = f"it is set aside as {checkpoint.set_aside(found)}"
            else:
                self._shelf.clear()
                done = f"it is deleted in {self.assignment.storage}"
            raise ConfigError(f"{damage}; {done}, and without it the training begins anew") from None

    def _is_of_this_trial(self, record: Mapping[str, Any]) -> bool:
        """Whether a checkpoint has this trial's draw, not only its number.

        A launcher that is lost with its machine may have drawn trials that the ledger, or its copy, does not know.
        They are drawn again, and differently where results are missing too.
        """
        return bool(record.get("trial") == json.loads(json.dumps(self.assignment.trial)))


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
def _dataset(dataset_json: str, source: str | None, fingerprint: str | None) -> Dataset:
    """The images; kept, because actors are reused for many trials of one search."""
    dataset = load_dataset(json.loads(dataset_json), None if source is None else Path(source))
    if fingerprint is not None and dataset.fingerprint != fingerprint:
        raise ConfigError(
            f"{source or dataset.name}: on {platform.node()} these are other data than where the search was started "
            f"(fingerprint {dataset.fingerprint}, not {fingerprint}); put the same there, or none: then they are sent"
        )
    return dataset


@lru_cache(maxsize=MOST_DATA)
def _trial_data(
    dataset_json: str,
    source: str | None,
    fingerprint: str | None,
    place: TeacherPlace | None,
    views: int,
    device: str,
) -> TrialData:
    """Images and a teacher's answers on a device; kept likewise."""
    dataset = _dataset(dataset_json, source, fingerprint)
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


def _rows_of(folder: Path, record: Mapping[str, Any]) -> list[EpochRow]:
    """The rows of a trial's epochs, that of its checkpoint the last; what JSON could not hold comes back as NaN."""
    try:
        rows = [EpochRow(**none_to_nan(stored)) for stored in [*record.get("earlier", []), record["row"]]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / checkpoint.TRIAL}: not the record of a checkpoint: {error}") from None
    return [replace(row, restored=True, note="") for row in rows]
