"""Exported students: in every format the logits and the accuracy of the run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_tune import checkpoint, cli, export
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, ExitCode, NothingUsable
from kd_tune.export import Wanted, data_of, export_best
from kd_tune.export_formats import FLOAT_FORMATS, INT8_FORMAT, Run, answers, load_onnx
from kd_tune.ledger import replay
from kd_tune.manifest import MANIFEST
from kd_tune.model_card import write_card
from kd_tune.paths import read_json, write_json
from tests.searches import ROOT

FORMATS = [*FLOAT_FORMATS, INT8_FORMAT]
FILES = {"README.md", "SHA256SUMS", "config.json", "predict.py", "student.safetensors"}


@pytest.fixture(scope="module")
def exported(finished_run: Path, toy_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "students"
    lines = export_best(finished_run, target, Wanted(top=2), toy_dataset)
    assert len(lines) == 6
    assert all("; ONNX agrees with torch to " in line and "; int8 " in line for line in lines)
    return target


def config_of(student: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((student / "config.json").read_text())
    return config


def test_export_holds_what_a_user_needs(exported: Path) -> None:
    for student in exported.iterdir():
        config = config_of(student)
        assert config["architecture"]["name"] == "studentnet"
        assert config["input"] == {"num_classes": 3, "in_channels": 1, "image_size": 16}
        assert config["temperature"] > 0
        assert set(config["normalisation"]) == {"mean", "std"}
        assert {path.name for path in student.iterdir()} == FILES | {kind.file for kind in FORMATS}


def test_loaded_student_has_the_accuracy_that_the_run_recorded(
    exported: Path, finished_run: Path, toy_dataset: Dataset
) -> None:
    images = torch.from_numpy(toy_dataset.val.images).float() / 255
    for student in exported.iterdir():
        config = config_of(student)
        with torch.inference_mode():
            prediction = export.load_student(student)(images).argmax(-1).numpy()
        assert (prediction == toy_dataset.val.labels).mean() == config["val_accuracy"]
        assert config["val_accuracy"] == replay(finished_run).trials[config["trial"]["number"]].value


@pytest.mark.parametrize("kind", FLOAT_FORMATS, ids=lambda kind: kind.title)
def test_a_float_format_answers_every_validation_image_as_torch(
    kind: Any, exported: Path, toy_dataset: Dataset
) -> None:
    images = toy_dataset.val.images.astype(np.float32) / 255
    for student in exported.iterdir():
        with torch.inference_mode():
            expected = export.load_student(student)(torch.from_numpy(images)).numpy()
        logits = kind.load(student / kind.file)(images)
        assert np.abs(logits - expected).max() <= 1e-5
        config = config_of(student)
        assert config["formats"][kind.title]["val_accuracy"] == config["val_accuracy"]


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.title)
def test_every_format_takes_any_batch_size(kind: Any, exported: Path) -> None:
    run = kind.load(exported / "distil_1" / kind.file)
    for size in (1, 3, 17):
        assert run(np.zeros((size, 1, 16, 16), np.float32)).shape == (size, 3)


def test_int8_holds_8_bit_weights_and_its_accuracy_is_measured(exported: Path, toy_dataset: Dataset) -> None:
    onnx = pytest.importorskip("onnx")
    for student in exported.iterdir():
        config, path = config_of(student), student / INT8_FORMAT.file
        constants = onnx.load(path).graph.initializer
        matrices = [one for one in constants if len(one.dims) > 1 and np.prod(one.dims) > 1]  # not the normalisation
        assert {one.data_type for one in matrices} == {onnx.TensorProto.INT8}
        logits = answers(load_onnx(path), toy_dataset.val.images, 5)
        accuracy = (logits.argmax(-1) == toy_dataset.val.labels).mean()
        said = config["formats"]["int8"]
        assert said["val_accuracy"] == accuracy
        assert said["points_below_float32"] == pytest.approx(100 * (config["val_accuracy"] - accuracy), abs=1e-3)


def test_no_file_tells_of_the_machine_that_wrote_it(exported: Path, finished_run: Path) -> None:
    """Exporters like to note paths and lines of source for every node, also of the user's own networks."""
    for path in exported.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".pt2":
                with zipfile.ZipFile(path) as archive:
                    content = b"".join(archive.read(name) for name in archive.namelist())
            for told in (ROOT, finished_run, Path.home() / ".cache"):
                assert str(told).encode() not in content, path
            assert b"self.network(" not in content, path


def test_hashes_are_those_of_the_files(exported: Path) -> None:
    for student in exported.iterdir():
        lines = dict(reversed(line.split("  ")) for line in (student / "SHA256SUMS").read_text().splitlines())
        assert lines.keys() == {path.name for path in student.iterdir()} - {"SHA256SUMS"}
        for name, said in lines.items():
            assert hashlib.sha256((student / name).read_bytes()).hexdigest() == said
        for found in config_of(student)["formats"].values():
            assert found["sha256"] == lines[found["file"]]


def test_the_card_says_what_the_student_is(exported: Path) -> None:
    student = exported / "distil_1"
    config, card = config_of(student), (student / "README.md").read_text()
    assert card.startswith("# studentnet for npz\n")
    for said in (
        f"{config['num_parameters']:,} parameters and {config['multiply_adds']:,} multiply-adds an image",
        f"Validation accuracy {config['val_accuracy']:.2%}",
        "unconfirmed",
        f"- {config['epoch']} of 6 epochs, seed {config['trial']['seed']}",
        "What its teacher gets wrong it may have learnt.\n- The licence",
        "uint8, [N, 16, 16]; needs",
        "student.onnx | ONNX, opset 18 |",
        config["formats"]["int8"]["sha256"],
        "all 12 validation images",
        "The licence of the data",
    ):
        assert said in card
    control = (exported / "cross_entropy_1" / "README.md").read_text()
    assert "A control: it learnt nothing from a teacher" in control
    assert "the student\n  does too.\n- The licence" in control


def test_the_card_leads_with_what_was_confirmed_and_owns_up_to_a_bad_int8(exported: Path, tmp_path: Path) -> None:
    config = config_of(exported / "distil_1")
    config["formats"]["int8"] |= {"val_accuracy": 0.5, "points_below_float32": 1.5}
    write_card(tmp_path, config)
    assert "That is 1.50 points less: more than one." in (tmp_path / "README.md").read_text()
    config["formats"]["int8"]["points_below_float32"] = 1.0
    config["confirmed"] = {"test_accuracies": [0.9, 0.8], "low": 0.79, "high": 0.91}
    write_card(tmp_path, config)
    card = (tmp_path / "README.md").read_text()
    assert "85.00%, the mean of 2 trainings on fresh seeds, 95 % interval 79.00% to 91.00%" in card
    assert "unconfirmed" not in card
    assert "more than one" not in card


def test_an_int8_file_more_than_a_point_below_is_said_in_the_line(
    finished_run: Path, toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "INT8_FORMAT", replace(INT8_FORMAT, load=_always(1.0)))  # always the first class
    (line,) = export_best(finished_run, tmp_path / "students", Wanted(trials=(best_trial(finished_run),)), toy_dataset)
    assert re.search(r"; int8 33\.33%, \d\d\.\d\d points below float32$", line)


def test_without_the_data_what_needs_them_is_left_out_and_said(finished_run: Path, tmp_path: Path) -> None:
    lines = export_best(finished_run, tmp_path / "students", Wanted(), None)
    assert all(line.endswith("; no int8 file: the run's data are not at hand (--data)") for line in lines)
    for student in (tmp_path / "students").iterdir():
        config = config_of(student)
        assert "calibration" not in config
        assert config["self_test"] == {"images": "256 random images", "val_accuracy": None}
        assert {path.name for path in student.iterdir()} == FILES | {kind.file for kind in FLOAT_FORMATS}
        assert "Confidence was not calibrated" in (student / "README.md").read_text()


def test_other_images_than_the_runs_are_refused(finished_run: Path, toy_cifar10_npz: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"these are not the images that .* learnt from"):
        data_of(finished_run, toy_cifar10_npz)


def test_data_that_are_gone_are_said_and_data_that_were_named_must_be_there(
    finished_run: Path, tmp_path: Path, toy_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    write_json(run / MANIFEST, read_json(run / MANIFEST) | {"source": str(tmp_path / "gone.npz")})
    trial = ["--trial", str(best_trial(run))]

    def analyze(folder: str, *arguments: str) -> Any:
        with pytest.raises(SystemExit) as stop:
            cli.main(["analyze", str(run), "--export", str(tmp_path / folder), *trial, *arguments])
        return stop.value.code

    assert analyze("without") == ExitCode.DONE
    said = capsys.readouterr().out
    assert f"the run's data are not at hand ({tmp_path / 'gone.npz'}: no such file): no int8" in said
    assert analyze("x", "--data", str(tmp_path / "nor.npz")) == ExitCode.USAGE
    assert f"{tmp_path / 'nor.npz'}: no such file" in capsys.readouterr().err
    assert analyze("with", "--data", str(toy_npz)) == ExitCode.DONE
    assert "; int8 " in capsys.readouterr().out


def test_a_student_that_is_not_the_trained_one_is_not_exported(
    finished_run: Path, toy_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the images are answered otherwise than when it was trained."""
    read = checkpoint.read

    def of_another(folder: Path) -> dict[str, Any]:
        record = read(folder)
        return record | {"row": record["row"] | {"val_accuracy": (record["row"]["val_accuracy"] + 0.5) % 1}}

    monkeypatch.setattr(checkpoint, "read", of_another)
    with pytest.raises(NothingUsable, match=r"not exported, its self-test failed: validation accuracy .*ended with"):
        export_best(finished_run, tmp_path / "students", Wanted(), toy_dataset)
    assert list(tmp_path.iterdir()) == []


def test_export_never_writes_over_something_else(finished_run: Path, exported: Path) -> None:
    before = sorted(exported.rglob("*"))
    with pytest.raises(ConfigError, match="there is something already"):
        export_best(finished_run, exported, Wanted(), None)
    assert sorted(exported.rglob("*")) == before


def test_damaged_export_is_refused_by_name(exported: Path, tmp_path: Path) -> None:
    for name in ("config.json", "student.safetensors"):
        (tmp_path / name).write_bytes((exported / "distil_1" / name).read_bytes())
    (tmp_path / "student.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"student\.safetensors: cannot be read as safetensors"):
        export.load_student(tmp_path)


def _writes_half(model: Any, images: Any, path: Path) -> None:
    path.write_bytes(b"half")
    try:
        raise ValueError("data-dependent expression\nand a page of advice")
    except ValueError as cause:
        raise RuntimeError("Failed to export the model.\nNext steps: ...") from cause


def _always(value: float) -> Callable[[Path], Run]:
    return lambda path: lambda images: np.full((len(images), 3), value, np.float32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"write": _writes_half}, "ValueError: data-dependent expression"),
        ({"load": _always(1.0)}, "its logits differ from torch's by "),
        ({"load": _always(np.nan)}, "its logits differ from torch's by nan"),
    ],
    ids=["not expressible", "other answers", "no numbers"],
)
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.title)
def test_a_format_that_fails_its_self_test_is_left_out_and_the_others_are_there(
    kind: Any,
    changes: dict[str, Any],
    reason: str,
    finished_run: Path,
    toy_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind is INT8_FORMAT and reason.endswith("by "):
        changes, reason = {"load": _always(np.inf)}, reason + "inf"  # other answers it may have; they are measured
    monkeypatch.setattr(
        export, "FLOAT_FORMATS", [replace(one, **changes) if one is kind else one for one in FLOAT_FORMATS]
    )
    if kind is INT8_FORMAT:
        monkeypatch.setattr(export, "INT8_FORMAT", replace(kind, **changes))
    (line,) = export_best(finished_run, tmp_path / "students", Wanted(trials=(best_trial(finished_run),)), toy_dataset)
    assert f"; no {kind.title} file: {reason}" in line
    assert "\n" not in line
    (student,) = (tmp_path / "students").iterdir()
    left_out = {kind.file} | ({INT8_FORMAT.file} if kind.title == "ONNX" else set())
    assert {path.name for path in student.iterdir()} == (FILES | {one.file for one in FORMATS}) - left_out
    assert config_of(student)["formats"][kind.title]["problem"].startswith(reason)
    assert f"no {kind.title}: " in (student / "README.md").read_text()
    export.load_student(student)


def best_trial(run: Path) -> int:
    trials = [trial for trial in replay(run).trials.values() if trial.usable]
    return max(trials, key=lambda trial: trial.value or 0).number


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
