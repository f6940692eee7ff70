"""`predict.py` of an exported student: alone with numpy and onnxruntime, and by way of what the README says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from kd_tune.data import Dataset
from kd_tune.export import Wanted, export_best
from kd_tune.export_formats import answers, load_onnx
from tests.searches import ROOT

# Refuses every module that is not Python's own, numpy's or onnxruntime's.
ALONE = """
import sys, runpy
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"numpy", "onnxruntime"} | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"no module named {name}, refused by the test", name=name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def student(finished_run: Path, toy_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("predict") / "students"
    export_best(finished_run, target, Wanted(), toy_dataset)
    return target / "distil_1"


def predict(student: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ALONE, str(student / "predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("model", "layout"), [("student.onnx", "npy"), ("student_int8.onnx", "npz")])
def test_it_prints_the_class_and_the_calibrated_probability(
    model: str, layout: str, student: Path, toy_dataset: Dataset, tmp_path: Path
) -> None:
    images, path = toy_dataset.val.images, tmp_path / f"images.{layout}"
    if layout == "npy":
        np.save(path, images[:, 0])  # grey: [N, H, W]
    else:
        np.savez(path, images=images.transpose(0, 2, 3, 1))
    ended = predict(student, path, "--model", model)
    assert ended.returncode == 0, ended.stderr
    config = json.loads((student / "config.json").read_text())
    logits = answers(load_onnx(student / model), images, 5)
    expected = special.softmax(logits.astype(np.float64) / config["calibration"]["temperature"], axis=-1)
    for number, (line, row) in enumerate(zip(ended.stdout.splitlines(), expected, strict=True)):
        assert line == f"{number}\t{config['class_names'][row.argmax()]}\t{row.max():.4f}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 16, 16), np.float32), "images are float32 [2, 16, 16], but must be uint8 [N, 16, 16]"),
        (np.zeros((2, 16, 16, 3), np.uint8), "images are uint8 [2, 16, 16, 3], but must be uint8 [N, 16, 16]"),
        (np.array([{"a": 1}]), "is no .npy or .npz file of numbers"),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=["floats", "colour", "a pickle", "nothing"],
)
def test_bad_images_are_told_without_a_traceback(
    content: np.ndarray | None, message: str, student: Path, tmp_path: Path
) -> None:
    path = tmp_path / "images.npy"
    if content is not None:
        np.save(path, content)
    ended = predict(student, path)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {path}: ")
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_model_that_cannot_be_used_is_told_by_its_name(student: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(student, tmp_path / "student")
    (copy / "student.onnx").write_bytes(b"damaged")
    np.save(tmp_path / "images.npy", np.zeros((1, 16, 16), np.uint8))
    ended = predict(copy, tmp_path / "images.npy")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {copy / 'student.onnx'}: cannot be used: ")
    assert "Traceback" not in ended.stderr


def test_the_readmes_code_runs(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python under "Use a student", as it stands there."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## Use a student") :].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert blocks
    shutil.copytree(student, tmp_path / "students" / "distil_61706_1")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.replace("32, 32", "16, 16"), {})  # noqa: S102 - our own page
