"""What a search's teachers have to do before it: how many answers are missing, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_tune import soft_targets, speed, user_code
from kd_tune.arms import teachers_of
from kd_tune.catalog import build_student
from kd_tune.data import Dataset
from kd_tune.engine import LAYOUT
from kd_tune.prepare import find_teacher, network_of
from kd_tune.ranges import branch_name
from kd_tune.teacher import evaluation_batch
from kd_tune.teacher_training import recipe
from kd_tune.trial_data import best_device

ASKED_SECONDS = 1.0


@dataclass(frozen=True)
class Fill:
    """A teacher before a search.

    Attributes:
        teacher: the name of its section.
        wanted: answers that the search needs.
        missing: of these, answers that are not stored yet.
        seconds: that these take, of this machine alone.
        num_bytes: that these take in the cache.
        training: seconds that its own training takes first; 0 if it is there.
        note: what else is to be said of it.
    """

    teacher: str
    wanted: int
    missing: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    training: float = 0.0
    note: str = ""


def fills(trial: Mapping[str, Any], dataset: Dataset, source: Path | None) -> list[Fill]:
    """Every teacher of a trial with ranges, in the order in which a search prepares them.

    Raises:
        ConfigError: one does not fit the data.
    """
    return [_fill(section, trial, dataset, source) for section in teachers_of(trial)]


def _fill(section: Mapping[str, Any], trial: Mapping[str, Any], dataset: Dataset, source: Path | None) -> Fill:
    name, views = branch_name(section), trial["training"].get("views", 1)
    wanted = views * len(dataset.train) + len(dataset.val)
    if section["name"] == "logits":
        return Fill(name, wanted, num_bytes=_bytes(wanted, dataset), note=f"answers come from {section['file']}")
    found = find_teacher(section, dataset)
    untrained = found is None and section["name"] != "random" and "weights" not in section
    training = _training_seconds(network_of(section), trial["dataset"], dataset, source) if untrained else 0.0
    if section.get("mode") == "live":
        return Fill(name, 0, training=training, note="live: asked in every step of every trial, nothing is stored")
    missing = wanted
    if found is not None:
        missing = soft_targets.missing_answers(soft_targets.folder_of(found, dataset), dataset, views)
    if not missing:
        return Fill(name, wanted, training=training)
    network = build_student(network_of(section), dataset) if found is None else found.network
    seconds = missing / answers_per_second(network, dataset, best_device())
    copies = 2 if section["name"] == "permuted" else 1
    return Fill(name, wanted, missing, seconds, copies * _bytes(missing, dataset), training)


def answers_per_second(network: nn.Module, dataset: Dataset, device: torch.device) -> float:
    """How fast a network answers for images of a data set, in the batches in which it fills a bank."""
    size = dataset.image_size
    images = torch.zeros(evaluation_batch(size), dataset.in_channels, size, size, device=device)
    images = images.to(memory_format=LAYOUT)
    network = network.eval().to(device).to(memory_format=LAYOUT)
    with torch.no_grad():
        network(images[:32]).cpu()  # loads kernels and allocates memory
        began, asked = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < ASKED_SECONDS:
            network(images).cpu()
            asked += len(images)
    network.cpu()
    return asked / passed


def _training_seconds(
    architecture: Mapping[str, Any], dataset_section: Mapping[str, Any], dataset: Dataset, source: Path | None
) -> float:
    made_by = recipe(architecture, dataset_section, dataset)
    allowed = (user_code.allowed(), user_code.search_path())
    device, threads = best_device().type, torch.get_num_threads()
    calibration = speed.Calibration([made_by], source, 1, device, threads, rounds=1, allowed=allowed)
    (an_epoch,) = speed.time_epochs(calibration).values()
    return float(made_by["training"]["num_epochs"] * an_epoch)


def _bytes(answers: int, dataset: Dataset) -> int:
    return 2 * dataset.num_classes * answers  # float16
