"""How long students take, before a search: a few batches of the engine on this machine, or an earlier run's epochs.

Shapes: N training images, M validation images, V views, C classes; n and m of a sample of them.
"""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from kd_tune import results, teacher, user_code
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.engine import Student, advance, enrol
from kd_tune.errors import ConfigError
from kd_tune.records import EpochRow
from kd_tune.soft_targets import Bank
from kd_tune.stack import advance_together, kind_of
from kd_tune.trial_data import TrialData

IMAGES, VAL_IMAGES = 2000, 500
ROUNDS = 3


@dataclass(frozen=True)
class Speed:
    """What an epoch of a student takes of the place that trains it.

    Attributes:
        seconds: by parameter count.
        source: where they are from, in words.
    """

    seconds: Mapping[int, float]
    source: str

    def of(self, num_parameters: int) -> float:
        """Seconds of a student of this size: in a straight line between those known, and at the ends as they are."""
        sizes = sorted(self.seconds)
        return float(np.interp(num_parameters, sizes, [self.seconds[size] for size in sizes]))


@dataclass(frozen=True)
class Calibration:
    """What is timed; plain values, so that it crosses to the processes that do it.

    Attributes:
        trials: configs without ranges, one for every size of student.
        source: where the data lie.
        stack: students that are trained in one step, where they can be.
        device: `cpu` or `cuda`.
        threads: of a CPU.
        live: the folder of a teacher that is asked in every step.
        rounds: short epochs of each student, after a first that does not count.
        allowed: the user's packages whose code may run, and where to find them.
    """

    trials: Sequence[Mapping[str, Any]]
    source: Path | None
    stack: int = 1
    device: str = "cpu"
    threads: int = 1
    live: Path | None = None
    rounds: int = ROUNDS
    allowed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


def measure(calibration: Calibration, places: int) -> Speed:
    """Times students in as many processes side by side as will train: they share caches, and often cores.

    Raises:
        ConfigError: data or trials do not fit.
    """
    if places == 1:
        timed = [time_epochs(calibration)]
    else:
        with ProcessPoolExecutor(places, multiprocessing.get_context("spawn")) as pool:
            timed = list(pool.map(time_epochs, [calibration] * places))
    seconds = {size: median(one[size] for one in timed) for size in timed[0]}
    beside = f", {places} processes side by side" if places > 1 else ""
    together = f", up to {calibration.stack} in one step" if calibration.stack > 1 else ""
    return Speed(seconds, f"measured here{beside}{together}")


def time_epochs(calibration: Calibration) -> dict[int, float]:
    """Seconds that a whole epoch of each student would take of this process, by parameter count."""
    user_code.allow(*calibration.allowed)
    if calibration.device == "cpu":
        torch.set_num_threads(calibration.threads)
    dataset = load_dataset(calibration.trials[0]["dataset"], calibration.source)
    groups = [_residents(trial, dataset, calibration) for trial in calibration.trials]
    seconds: dict[int, list[float]] = defaultdict(list)
    for number in range(1 + calibration.rounds):
        for students, data in groups:
            row = _epoch(students, data)
            if number:  # the first loads kernels and allocates memory
                seconds[row.num_parameters].append(whole_epoch(row, data.dataset, dataset))
    return {size: median(values) for size, values in seconds.items()}


def whole_epoch(row: EpochRow, sample: Dataset, dataset: Dataset) -> float:
    """Seconds with all images of what was timed with some."""
    trained = len(sample.train) / row.images_per_second
    validated = row.seconds - trained
    return trained * len(dataset.train) / len(sample.train) + validated * len(dataset.val) / len(sample.val)


def recorded(run: Path, dataset: Dataset) -> Speed:
    """The median epoch of an earlier run's students, by size; as many images more, so much longer.

    Raises:
        ConfigError: no run, of other data, or without an epoch.
    """
    tables = results.read(run)
    images = tables.manifest.dataset
    if images.get("name") != dataset.name or not images.get("num_train"):
        raise ConfigError(f"--like {run}: its images are those of {images.get('name')}, not of {dataset.name}")
    by_size: dict[int, list[float]] = defaultdict(list)
    for trial in tables.state.trials.values():
        for row in trial.rows.values():
            if row.get("seconds") and row.get("num_parameters"):
                by_size[row["num_parameters"]].append(row["seconds"])
    if not by_size:
        raise ConfigError(f"--like {run}: no epoch of it says how long it took; name a run that has trained something")
    factor = len(dataset.train) / images["num_train"]
    seconds = {size: factor * median(values) for size, values in by_size.items()}
    return Speed(seconds, f"the median of {sum(map(len, by_size.values())):,} epochs of {run}")


def _residents(trial: Mapping[str, Any], dataset: Dataset, calibration: Calibration) -> tuple[list[Student], TrialData]:
    """As many students of a trial as a place trains in one step, and the sample that they are timed with."""
    batch_size = trial["training"].get("batch_size", 128)
    sample = _sample(dataset, max(batch_size, IMAGES))
    live = None if calibration.live is None or "teacher" not in trial else teacher.load(calibration.live, dataset)
    bank = _blank_answers(sample, trial["training"].get("views", 1)) if "teacher" in trial and live is None else None
    data = TrialData(sample, bank, torch.device(calibration.device), live)
    first = enrol(trial, data, seed=0)
    if calibration.stack == 1 or kind_of(first, data) is None:
        return [first], data
    return [first, *(enrol(trial, data, seed, order_seed=0) for seed in range(1, calibration.stack))], data


def _epoch(students: Sequence[Student], data: TrialData) -> EpochRow:
    return advance(students[0], data) if len(students) == 1 else advance_together(students, data)[0]


def _sample(dataset: Dataset, images: int) -> Dataset:
    return replace(dataset, train=dataset.train.first(images), val=dataset.val.first(VAL_IMAGES))


def _blank_answers(sample: Dataset, views: int) -> Bank:
    """Answers of which only the shape is right, `[V, n, C]` and `[m, C]`."""
    train = np.zeros((views, len(sample.train), sample.num_classes), np.float16)
    return Bank(train, np.zeros((len(sample.val), sample.num_classes), np.float16), "blank")
