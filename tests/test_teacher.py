"""A teacher on disk: written whole, read back the same, refused when it is another's, damaged or unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_tune import teacher
from kd_tune.data import Dataset, Images, npz
from kd_tune.errors import ConfigError
from kd_tune.paths import read_json, write_json
from kd_tune.teacher import TeacherRecord

CPU = torch.device("cpu")
SaveTeacher = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, toy_dataset: Dataset, save_teacher: SaveTeacher) -> Path:
    return save_teacher(tmp_path / "teacher", toy_dataset)


def test_a_teacher_is_read_back_as_it_was_written(folder: Path, toy_dataset: Dataset) -> None:
    first, second = teacher.load(folder, toy_dataset), teacher.load(folder, toy_dataset)
    assert first.fingerprint == second.fingerprint
    assert first.record.architecture == {"name": "digits"}
    weights = second.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in first.network.state_dict().items())


def test_weights_are_those_that_were_saved(
    tmp_path: Path, toy_dataset: Dataset, folder: Path, save_teacher: SaveTeacher
) -> None:
    network = teacher.load(folder, toy_dataset).network
    with torch.no_grad():
        network.get_parameter("classifier.bias").copy_(torch.tensor([1.0, 2.0, 3.0]))
    teacher.save(tmp_path / "changed", network, read_json(folder / teacher.RECORD))
    changed = teacher.load(tmp_path / "changed", toy_dataset)
    assert changed.network.get_parameter("classifier.bias").tolist() == [1.0, 2.0, 3.0]
    assert changed.fingerprint != teacher.load(folder, toy_dataset).fingerprint


def test_a_loaded_teacher_is_in_evaluation_mode_and_asks_for_no_gradient(folder: Path, toy_dataset: Dataset) -> None:
    network = teacher.load(folder, toy_dataset).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_saving_leaves_nothing_beside_the_two_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [teacher.RECORD, teacher.WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["teacher"]


def test_a_new_teacher_takes_the_place_of_an_old_one_whole(
    folder: Path, toy_dataset: Dataset, save_teacher: SaveTeacher
) -> None:
    old = teacher.load(folder, toy_dataset).fingerprint
    save_teacher(folder, toy_dataset, seed=1)
    assert teacher.load(folder, toy_dataset).fingerprint != old
    assert [path.name for path in folder.parent.iterdir()] == ["teacher"]


def test_the_fingerprint_follows_weights_and_normalisation_and_not_the_place(
    tmp_path: Path, folder: Path, toy_dataset: Dataset, save_teacher: SaveTeacher
) -> None:
    original = teacher.load(folder, toy_dataset).fingerprint
    elsewhere = save_teacher(tmp_path / "elsewhere", toy_dataset)
    assert teacher.load(elsewhere, toy_dataset).fingerprint == original
    teacher.update_record(elsewhere, val_accuracy=0.5)
    assert teacher.load(elsewhere, toy_dataset).fingerprint == original
    teacher.update_record(elsewhere, normalisation={"mean": [0.5], "std": [0.25]})
    assert teacher.load(elsewhere, toy_dataset).fingerprint != original


def test_a_place_without_a_teacher_says_how_to_make_one(tmp_path: Path, toy_dataset: Dataset) -> None:
    assert not teacher.exists(tmp_path)
    with pytest.raises(ConfigError, match="no teacher here; `kd-tune teacher train` makes one"):
        teacher.load(tmp_path, toy_dataset)


def test_a_teacher_of_other_classes_and_images_is_refused_for_both(folder: Path, toy_dataset: Dataset) -> None:
    larger = Images(np.zeros((4, 3, 20, 20), np.uint8), np.zeros(4, np.int64))
    other = replace(toy_dataset, train=larger, val=larger, class_names=("a", "b"), name="other")
    with pytest.raises(ConfigError) as caught:
        teacher.load(folder, other)
    assert caught.value.problems == [
        f"{folder}: the teacher knows 3 classes, but other has 2",
        f"{folder}: the teacher takes 1 x 16 x 16 images, but those of other are 3 x 20 x 20",
    ]


def test_a_changed_weights_file_is_refused(folder: Path, toy_dataset: Dataset) -> None:
    path = folder / teacher.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"teacher\.safetensors: its content has changed since it was written"):
        teacher.load(folder, toy_dataset)


def test_a_missing_weights_file_is_refused_by_name(folder: Path, toy_dataset: Dataset) -> None:
    (folder / teacher.WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=r"teacher\.safetensors: cannot be read: No such file"):
        teacher.load(folder, toy_dataset)


def test_weights_of_another_network_are_refused(folder: Path, toy_dataset: Dataset) -> None:
    teacher.update_record(folder, architecture={"name": "compact"})
    with pytest.raises(ConfigError, match="these are weights of another network"):
        teacher.load(folder, toy_dataset)


@pytest.mark.parametrize(
    "architecture",
    [{"name": "resnet1001"}, {"name": "digits", "depth": 3}, {}, "digits"],
    ids=["unknown", "argument", "nameless", "no section"],
)
def test_an_architecture_that_is_not_in_the_tables_is_refused(
    architecture: Any, folder: Path, toy_dataset: Dataset
) -> None:
    """For example a teacher made by a newer version, or a record that was edited."""
    teacher.update_record(folder, architecture=architecture)
    with pytest.raises(ConfigError) as caught:
        teacher.load(folder, toy_dataset)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("key", ["architecture", "input", "normalisation", "weights_sha256"])
def test_a_record_that_lacks_something_is_refused(key: str, folder: Path, toy_dataset: Dataset) -> None:
    record = read_json(folder / teacher.RECORD)
    del record[key]
    write_json(folder / teacher.RECORD, record)
    with pytest.raises(ConfigError, match=rf"teacher\.json: not a valid record: {key}: Field required"):
        teacher.load(folder, toy_dataset)


def test_a_record_that_is_not_json_is_refused(folder: Path, toy_dataset: Dataset) -> None:
    (folder / teacher.RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"teacher\.json: cannot be read"):
        teacher.load(folder, toy_dataset)


def test_a_teachers_place_follows_from_its_section_and_the_data(toy_npz: Path, own_cache: Path) -> None:
    base, other_split = npz(toy_npz), npz(toy_npz, split_seed=1)
    place = teacher.folder_of({"name": "digits"}, base)
    assert place.parent == own_cache / "teachers"
    assert place.name.startswith("digits-npz-")
    assert teacher.folder_of({"name": "digits"}, npz(toy_npz)) == place
    assert teacher.folder_of({"name": "digits"}, other_split) != place
    assert teacher.folder_of({"name": "compact"}, base) != place


def test_answers_are_the_networks_for_normalised_images(folder: Path, toy_dataset: Dataset) -> None:
    found = teacher.load(folder, toy_dataset)
    images = torch.from_numpy(toy_dataset.val.images)
    mean, std = toy_dataset.normalisation["mean"][0], toy_dataset.normalisation["std"][0]
    with torch.inference_mode():
        expected = found.network((images.float() / 255 - mean) / std)
    answers = teacher.Answers(found, CPU)(images)
    assert answers.dtype == torch.float32
    assert not answers.requires_grad
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_asked_in_its_own_normalisation(folder: Path, toy_dataset: Dataset) -> None:
    """An imported teacher keeps the one that it was trained with, whatever the data's own."""
    images = torch.from_numpy(toy_dataset.val.images)
    before = teacher.Answers(teacher.load(folder, toy_dataset), CPU)(images)
    teacher.update_record(folder, normalisation={"mean": [0.1], "std": [2.0]})
    found = teacher.load(folder, toy_dataset)
    with torch.inference_mode():
        expected = found.network((images.float() / 255 - 0.1) / 2.0)
    answers = teacher.Answers(found, CPU)(images)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answers, before, atol=1e-3)


@pytest.mark.parametrize("batch_size", [5, 12, 500])
def test_accuracy_is_the_share_of_images_classified_right(
    batch_size: int, folder: Path, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "EVALUATION_BATCH", batch_size)
    found = teacher.load(folder, toy_dataset)
    images = toy_dataset.val
    prediction = teacher.Answers(found, CPU)(torch.from_numpy(images.images)).argmax(-1).numpy()
    expected = sum(int(p == y) for p, y in zip(prediction, images.labels, strict=True)) / len(images)
    assert teacher.accuracy(found, images, CPU) == expected
    told: list[int] = []
    teacher.predict(found, images, CPU, advance=lambda done, _: told.append(done))
    assert told[0] == min(batch_size, len(images))
    as_labelled = Images(images.images, prediction)
    assert teacher.accuracy(found, as_labelled, CPU) == 1.0


def test_a_teacher_describes_itself_in_a_line(folder: Path, toy_dataset: Dataset) -> None:
    assert "digits" in teacher.load(folder, toy_dataset).describe()
    teacher.update_record(folder, val_accuracy=0.985)
    assert "validation accuracy 98.50%" in teacher.load(folder, toy_dataset).describe()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": {"name": "cifar10", "fingerprint": "same"}}, False),
        ({"dataset": {"name": "cifar10", "fingerprint": "x", "split": {"split_seed": 0, "num_val": 12}}}, False),
        ({"dataset": {"name": "cifar10", "fingerprint": "x", "split": {"split_seed": 1, "num_val": 12}}}, True),
        ({"dataset": {"name": "mnist", "fingerprint": "x", "split": {"split_seed": 0, "num_val": 12}}}, None),
        ({"imported": {"seen_validation": True}}, True),
        ({"imported": {"seen_validation": None}}, None),
        ({"untrained": True}, False),
        ({}, None),
    ],
    ids=["same data", "same split", "other split", "other data", "published", "own weights", "untrained", "unknown"],
)
def test_whether_a_teacher_knows_the_validation_images(
    changes: dict[str, Any], expected: bool | None, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = teacher.base_record({"name": "digits"}, toy_dataset) | {"weights_sha256": ""}
    dataset = replace(toy_dataset, name="cifar10", split={"split_seed": 0, "train": 50, "num_val": 12})
    dataset.__dict__["fingerprint"] = "same"  # a cached property
    assert teacher.knows_validation_images(TeacherRecord.model_validate(base | changes), dataset) is expected
