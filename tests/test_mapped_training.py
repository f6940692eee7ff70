"""Training on images that are mapped from files: the numbers of images in memory, and never all images at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_tune import soft_targets, teacher, trial_data
from kd_tune.data import Dataset, Images, image_folder
from kd_tune.soft_targets import Bank
from kd_tune.trial_data import TrialData
from tests.data_files import opened, write_parts
from tests.training import CPU, KINDS, VIEWS, curve, every_kind, run, trial

pytestmark = pytest.mark.usefixtures("forgetful")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_parts(tmp_path_factory.mktemp("mapped"), "train", "val", "test")
    return image_folder(root, image_size=16)


def in_memory(dataset: Dataset) -> Dataset:
    def held(part: Images) -> Images:
        return Images(np.array(part.images), part.labels)

    return replace(dataset, train=held(dataset.train), val=held(dataset.val), mapped=None)


def answers(dataset: Dataset) -> Bank:
    random = np.random.RandomState(0)
    logits = random.standard_normal((VIEWS, len(dataset.train), 3)).astype(np.float16)
    return Bank(logits, random.standard_normal((len(dataset.val), 3)).astype(np.float16), "noise")


@every_kind
def test_mapped_images_train_to_the_same_numbers_as_images_in_memory(kind: str, mapped: Dataset) -> None:
    bank = answers(mapped) if "objective" in KINDS[kind] else None
    config = trial(**KINDS[kind])
    held, read = (curve(run(config, TrialData(data, bank, CPU))) for data in (in_memory(mapped), mapped))
    assert read == held
    assert len(read) == config["training"]["num_epochs"]


def test_mapped_images_are_moved_a_batch_at_a_time(mapped: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without storage stands for one whose memory the images exceed; `to` is what moves them."""
    monkeypatch.setattr(trial_data, "evaluation_batch", lambda image_size: 5)
    data = TrialData(mapped, None, torch.device("meta"))
    assert (data.images.device, data.val_images.device) == (CPU, CPU)
    assert [len(batch) for batch in data.read(torch.arange(60), 25)] == [25, 25, 10]
    assert [len(batch) for batch in data.val_batches()] == [5, 5, 2]
    assert {batch.device.type for batch in (*data.read(torch.arange(60), 25), *data.val_batches())} == {"meta"}


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")
def test_the_kernel_is_told_which_images_a_batch_needs(mapped: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *advice: told.append(advice))
    data = TrialData(mapped, None, CPU)
    (batch,) = data.read(torch.tensor([7, 3]), 2)
    assert told == [(7 * 768, 768, os.POSIX_FADV_WILLNEED), (3 * 768, 768, os.POSIX_FADV_WILLNEED)]
    assert mapped.train.file is not None
    content = mapped.train.file.read_bytes()
    assert batch.numpy().tobytes() == content[7 * 768 : 8 * 768] + content[3 * 768 : 4 * 768]


def test_larger_images_are_evaluated_in_smaller_batches(mapped: Dataset) -> None:
    sizes = {}
    for size in (16, 32, 64, 96, 512):
        images = Images(np.zeros((1000, 1, size, size), np.uint8), np.zeros(1000, np.int64))
        data = TrialData(replace(mapped, train=images, val=images), None, torch.device("meta"))
        sizes[size] = len(next(data.val_batches()))
    assert sizes == {16: 500, 32: 500, 64: 125, 96: 55, 512: 32}


def test_a_teacher_answers_for_mapped_images_as_for_those_in_memory(
    mapped: Dataset, save_teacher: object, tmp_path: Path
) -> None:
    assert callable(save_teacher)
    found = teacher.load(save_teacher(tmp_path / "teacher", in_memory(mapped)), mapped)
    banks = []
    for name, dataset in (("mapped", mapped), ("held", in_memory(mapped))):
        soft_targets.fill(tmp_path / name, found, dataset, 2, CPU)
        fingerprint = soft_targets.fingerprint_of(found, dataset)
        banks.append(soft_targets.open_bank(tmp_path / name, fingerprint, len(dataset.train), 3, 2))
    assert np.array_equal(banks[0].logits, banks[1].logits)
    assert 0 <= teacher.accuracy(found, opened(mapped), CPU) <= 1
