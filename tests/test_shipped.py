"""The teachers that come with the package: whole, small enough, and as good as their records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kd_tune import teacher
from kd_tune.data import Dataset, cifar10
from kd_tune.data.dataset import Images
from kd_tune.paths import CACHE_VARIABLE

FOLDERS = sorted(path for path in teacher.SHIPPED.iterdir() if path.is_dir())
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def cifar10_dataset(cifar10_npz: Path) -> Dataset:
    return cifar10(cifar10_npz)


def test_compact_for_cifar10_is_shipped() -> None:
    assert [folder.name for folder in FOLDERS] == ["compact-cifar10"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_teacher_is_small_and_says_how_it_was_made(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {teacher.RECORD, teacher.WEIGHTS, "README.md"}
    assert (folder / teacher.WEIGHTS).stat().st_size <= MAX_BYTES
    record = json.loads((folder / teacher.RECORD).read_text())
    assert record["val_accuracy"] >= 0.93
    assert record["recipe"]["training"]["num_epochs"] == len(record["epochs"])
    assert {"seed", "versions", "hardware", "seconds_of_last_launch"} <= record.keys()
    assert record["dataset"]["split"] == {"split_seed": 0, "train": 45_000, "num_val": 5_000}


def test_its_accuracy_is_that_of_its_record(
    cifar10_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tenth of the validation images: within four standard errors of the whole."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    folder = teacher.find({"name": "compact"}, cifar10_dataset)
    assert folder is not None
    found = teacher.load(folder, cifar10_dataset)
    assert teacher.knows_validation_images(found.record, cifar10_dataset) is False
    some = Images(cifar10_dataset.val.images[::10].copy(), cifar10_dataset.val.labels[::10])
    assert found.record.val_accuracy is not None
    assert abs(teacher.accuracy(found, some, torch.device("cpu")) - found.record.val_accuracy) < 4 * 0.011
