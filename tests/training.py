"""Trainings as a test runs them: short trials of every kind, and what two of them are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_tune.engine import train
from kd_tune.records import EpochRow, finite_or_none
from kd_tune.trial_data import TrialData

CPU = torch.device("cpu")
CLOCK = ("seconds", "images_per_second", "restored", "note")  # all that may differ between two trainings from one seed
VIEWS = 8

Sections = Mapping[str, Mapping[str, Any]]

HINTON = {"name": "hinton", "alpha": 0.7, "temperature": 3.0}
KINDS: dict[str, Sections] = {
    "sgd": {},
    "adamw": {"optimizer": {"name": "adamw", "lr": 0.003}},
    "teacher and views": {"objective": HINTON, "training": {"views": VIEWS}},
    "batch norm": {"student": {"name": "digits"}, "objective": HINTON, "training": {"views": VIEWS, "num_epochs": 3}},
    "batch norm, adamw": {"student": {"name": "digits"}, "optimizer": {"name": "adamw"}, "training": {"num_epochs": 3}},
    "dropout": {"student": {"name": "forgetful"}, "training": {"views": 162}},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def trial(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A short trial; a section given is laid over the default one."""
    base: dict[str, dict[str, Any]] = {
        "dataset": {"name": "npz"},
        "student": {"name": "studentnet", "width": 0.5},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3},
        "training": {"num_epochs": 5, "batch_size": 25, "views": 1},
    }
    return {
        key: dict(value if "name" in value else base[key] | dict(value)) for key, value in (base | sections).items()
    }


def numbers(row: EpochRow) -> dict[str, Any]:
    """What two trainings from one seed must agree on to the last bit; NaN, unequal to itself, as None."""
    return {key: value for key, value in finite_or_none(asdict(row)).items() if key not in CLOCK}


def curve(rows: list[EpochRow]) -> list[dict[str, Any]]:
    return [numbers(row) for row in rows]


def run(config: Mapping[str, Any], data: TrialData, seed: int = 0) -> list[EpochRow]:
    return [row for row, _ in train(config, data, seed)]


class Forgetful(nn.Module):
    """One hidden layer with dropout, which draws from torch's global generator."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_channels * image_size**2, 16)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.dropout(self.hidden(images.flatten(1)).relu()))
        return logits
