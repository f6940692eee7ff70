"""Exported students: the same logits in torch and in onnxruntime as in the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_tune import checkpoint, export
from kd_tune.data import npz
from kd_tune.errors import ConfigError
from kd_tune.ledger import replay


@pytest.fixture(scope="module")
def exported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "students"
    lines = export.export_best(finished_run, target, top=2)
    assert len(lines) == 6
    return target


def test_export_holds_what_a_user_needs(exported: Path) -> None:
    for student in exported.iterdir():
        config = json.loads((student / "config.json").read_text())
        assert config["architecture"]["name"] == "studentnet"
        assert config["input"] == {"num_classes": 3, "in_channels": 1, "image_size": 16}
        assert config["temperature"] > 0
        assert set(config["normalisation"]) == {"mean", "std"}
        assert (student / "student.safetensors").exists()


def test_loaded_student_has_the_accuracy_that_the_run_recorded(
    exported: Path, finished_run: Path, toy_npz: Path
) -> None:
    val = npz(toy_npz).val
    images = torch.from_numpy(val.images).float() / 255
    for student in exported.iterdir():
        config = json.loads((student / "config.json").read_text())
        with torch.inference_mode():
            prediction = export.load_student(student)(images).argmax(-1).numpy()
        assert (prediction == val.labels).mean() == config["val_accuracy"]
        assert config["val_accuracy"] == replay(finished_run).trials[config["trial"]["number"]].value


def test_onnx_agrees_with_torch_on_the_whole_validation_set(exported: Path, toy_npz: Path) -> None:
    images = npz(toy_npz).val.images.astype(np.float32) / 255
    for student in exported.iterdir():
        with torch.inference_mode():
            expected = export.load_student(student)(torch.from_numpy(images)).numpy()
        assert np.abs(export.run_onnx(student / "student.onnx", images) - expected).max() <= 1e-5


def test_onnx_takes_any_batch_size(exported: Path) -> None:
    for size in (1, 3, 17):
        logits = export.run_onnx(exported / "distil_1" / "student.onnx", np.zeros((size, 1, 16, 16), np.float32))
        assert logits.shape == (size, 3)


def test_export_never_writes_over_something_else(finished_run: Path, exported: Path) -> None:
    before = sorted(exported.rglob("*"))
    with pytest.raises(ConfigError, match="there is something already"):
        export.export_best(finished_run, exported, top=1)
    assert sorted(exported.rglob("*")) == before


def test_more_students_than_checkpoints_are_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps the checkpoints of each arm's best 5"):
        export.export_best(finished_run, tmp_path / "students", top=6)


def test_damaged_export_is_refused_by_name(exported: Path, tmp_path: Path) -> None:
    for name in ("config.json", "student.safetensors"):
        (tmp_path / name).write_bytes((exported / "distil_1" / name).read_bytes())
    (tmp_path / "student.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"student\.safetensors: cannot be read as safetensors"):
        export.load_student(tmp_path)


def _writes_half(model: Any, args: Any, path: str, **options: Any) -> None:
    Path(path).write_bytes(b"half")
    try:
        raise ValueError("data-dependent expression\nand a page of advice")
    except ValueError as cause:
        raise RuntimeError("Failed to export the model.\nNext steps: ...") from cause


@pytest.mark.parametrize(
    ("place", "attribute", "broken", "reason"),
    [
        (torch.onnx, "export", _writes_half, "ValueError: data-dependent expression"),
        (export, "run_onnx", lambda path, images: np.ones((len(images), 3), np.float32), "RuntimeError: its logits"),
        (export, "run_onnx", lambda path, images: np.full((len(images), 3), np.nan), "RuntimeError: its logits"),
    ],
    ids=["not expressible", "other answers", "no numbers"],
)
def test_a_student_without_onnx_is_exported_all_the_same(
    place: Any,
    attribute: str,
    broken: Any,
    reason: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(place, attribute, broken)
    lines = export.export_best(finished_run, tmp_path / "students", top=1)
    assert len(lines) == 3, "of every arm"
    assert all(f"; no ONNX file: {reason}" in line and "\n" not in line for line in lines)
    for student in (tmp_path / "students").iterdir():
        assert sorted(path.name for path in student.iterdir()) == ["config.json", "student.safetensors"]
        assert json.loads((student / "config.json").read_text())["onnx"]["problem"].startswith(reason)
        export.load_student(student)


class Tied(nn.Module):
    """Two layers with one matrix, and a view of a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("part", self.first.weight.detach()[:2])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(images))
        return logits


def test_tied_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    network, other = Tied(), Tied()
    (tmp_path / "tied.safetensors").write_bytes(checkpoint.weights_of(network))
    checkpoint.load_weights(tmp_path / "tied.safetensors", other)
    assert other.second.weight is other.first.weight
    images = torch.rand(3, 4)
    assert torch.equal(other(images), network(images))
    assert torch.equal(other.state_dict()["part"], network.state_dict()["part"])
