"""Where trials are trained. `open_trial` gives the epochs of one; here in the process that asks.

The call is the boundary: a trial that is a Ray Tune trial, a teacher, or a retraining asks a host for rows, and does
not know where they are made. The host owns checkpoints: it writes them before the row that they belong to is given
out, and goes on from the newest one it finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_tune import __version__, checkpoint, teacher
from kd_tune.catalog import build_objective, load_dataset
from kd_tune.config import TrainingConfig
from kd_tune.data import Dataset
from kd_tune.engine import Student, train
from kd_tune.errors import ConfigError
from kd_tune.paths import read_json
from kd_tune.records import Assignment, EpochRow, TeacherPlace, finite_or_none, none_to_nan
from kd_tune.soft_targets import open_bank, read_fingerprint
from kd_tune.trial_data import TrialData


def open_trial(assignment: Assignment) -> Iterator[EpochRow]:
    """Trains a trial, from its newest checkpoint if it has one.

    A trial that goes on first gives its checkpoint's own row again, marked `restored`: the process that was to report
    it may have died in between.

    Raises:
        ConfigError: data, bank or checkpoint are missing or damaged.
    """
    if assignment.device == "cpu":
        torch.set_num_threads(assignment.threads)
    data = _trial_data(
        json.dumps(assignment.trial["dataset"], sort_keys=True),
        assignment.source,
        assignment.teacher,
        TrainingConfig.model_validate(assignment.trial["training"]).views,
        assignment.device,
    )
    resume = None
    found = checkpoint.newest(Path(assignment.checkpoints))
    if found is not None:
        row = _row_of(found)
        yield row
        if row.diverged:
            return
        resume = (row.epoch, partial(_load, found))
    last_saved = time.monotonic()
    for row, student in train(assignment.trial, data, assignment.seed, resume):
        due = time.monotonic() - last_saved >= assignment.checkpoint_seconds
        if due or row.diverged or row.epoch in assignment.checkpoint_epochs:
            _save(assignment, data.dataset, row, student)
            last_saved = time.monotonic()
        yield row


@lru_cache(maxsize=1)
def _dataset(dataset_json: str, source: str | None) -> Dataset:
    """The images; kept, because actors are reused for many trials of one search."""
    return load_dataset(json.loads(dataset_json), None if source is None else Path(source))


@lru_cache(maxsize=1)
def _trial_data(
    dataset_json: str, source: str | None, place: TeacherPlace | None, views: int, device: str
) -> TrialData:
    """Images and a teacher's answers on a device; kept likewise, until a trial has another teacher."""
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
        "trial": assignment.trial,
        "objective_version": build_objective(objective, dataset).version,
        "dataset": dataset.identity,
        "input": dataset.input_shape,
        "class_names": list(dataset.class_names),
        "normalisation": dataset.normalisation,
        "row": finite_or_none(asdict(row)),
    }


def _save(assignment: Assignment, dataset: Dataset, row: EpochRow, student: Student) -> None:
    folder = Path(assignment.checkpoints) / f"epoch_{row.epoch:04d}"
    checkpoint.save(folder, student.network, student.optimizer, describe_student(assignment, dataset, row))
    checkpoint.delete_older(folder)


def _load(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, network)
    checkpoint.load_state(folder, optimizer)


def _row_of(folder: Path) -> EpochRow:
    """The row that a checkpoint was written with; numbers that JSON could not hold come back as NaN."""
    path = folder / checkpoint.TRIAL
    try:
        stored = read_json(path)["row"]
        row = EpochRow(**none_to_nan(stored))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not the record of a checkpoint: {error}") from None
    return replace(row, restored=True)
