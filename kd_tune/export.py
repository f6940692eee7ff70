"""The best students of a run, ready to use: `student.safetensors` and `config.json`, and ONNX checked against torch."""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_tune import __version__, analysis, checkpoint, results
from kd_tune.catalog import build_network
from kd_tune.errors import ConfigError
from kd_tune.ledger import KEPT_CHECKPOINTS
from kd_tune.mirror import newest_checkpoint
from kd_tune.paths import Record, file_name, read_record, write_json, written_whole
from kd_tune.teacher import InputShape, Normalisation

CONFIG = "config.json"
ONNX = "student.onnx"
OPSET = 18
# Largest difference between onnxruntime's logits and torch's that is put down to rounding, as a share of the largest
# logit (at least of 1). At logits of 30, torch was 0.6e-5 away from float64 and 1.1e-5 from onnxruntime.
TOLERANCE = 1e-5
CHECKED_IMAGES = 256


class ExportedConfig(Record):
    """`config.json`: what is needed to build the network again and to feed it."""

    architecture: dict[str, Any]
    input: InputShape
    normalisation: Normalisation


class Student(nn.Module):
    """A student with its normalisation inside: images `[B, C, H, W]`, float32 from 0 to 1, to logits `[B, classes]`."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def load_student(folder: Path | str) -> Student:
    """An exported student, in evaluation mode.

    Raises:
        ConfigError: the folder holds no exported student, or a damaged one.
    """
    folder = Path(folder)
    config = read_record(folder / CONFIG, ExportedConfig)
    network = build_network(config.architecture, **config.input.model_dump())
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, network)
    return Student(network, config.normalisation.mean, config.normalisation.std).eval()


def export_best(run: Path, target: Path, top: int, replace: bool = False) -> list[str]:
    """Exports the best `top` students of every arm, and of every size where the search wanted the best at each.

    Args:
        run: the run's folder.
        target: the folder that will hold a folder for each student.
        top: how many of each.
        replace: whether an earlier export may lie there; it is replaced.

    Returns:
        A line about each student.

    Raises:
        ConfigError: no run here, no checkpoints, or something lies in the target folder.
    """
    if top > KEPT_CHECKPOINTS:
        raise ConfigError(f"--top {top}: a run keeps the checkpoints of each arm's best {KEPT_CHECKPOINTS} trials")
    tables = results.read(run)
    found: dict[str, Exported] = {}
    for name, number in _names(tables, top).items():
        newest = newest_checkpoint(run, number)
        if newest is None:
            raise ConfigError(f"{run}: trial {number} has no checkpoint")
        found[name] = Exported(newest)
    if not found:
        raise ConfigError(f"{run}: no trial has a figure yet; there is nothing to export")
    return export_students(found, target, replace)


@dataclass(frozen=True)
class Exported:
    """A student to export.

    Attributes:
        checkpoint: the folder that it lies in.
        facts: what `config.json` says of it beside what the checkpoint does.
    """

    checkpoint: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


def export_students(students: Mapping[str, Exported], target: Path, replace: bool = False) -> list[str]:
    """Writes students into folders of `target`, by name; returns a line about each.

    Raises:
        ConfigError: something lies in the target folder that may not be replaced.
    """
    with written_whole(target, replace) as temporary:
        temporary.mkdir()
        return [f"{target / name}: {_export_student(student, temporary / name)}" for name, student in students.items()]


def _names(tables: results.RunTables, top: int) -> dict[str, int]:
    """The best trials' numbers by what their students will be called: `distil_1`, or `distil_15738_1` by size."""
    names = {}
    strata = bool(tables.state.strata)
    for _, trials in analysis.best(tables, top, ended=True).groupby(["arm", "stratum"][: 1 + strata], sort=False):
        for rank, trial in enumerate(trials.to_dict("records"), start=1):
            size = [str(trial["num_parameters"])] if strata else []
            names["_".join([file_name(str(trial["arm"])), *size, str(rank)])] = int(trial["number"])
    return names


def _export_student(student: Exported, target: Path) -> str:
    """Writes one student; returns a line about it."""
    target.mkdir()
    record = checkpoint.read(student.checkpoint)
    shutil.copyfile(student.checkpoint / checkpoint.WEIGHTS, target / checkpoint.WEIGHTS)
    objective = record["trial"]["objective"]
    config: dict[str, Any] = {
        "kd_tune": __version__,
        "architecture": record["trial"]["student"],
        "input": record["input"],
        "class_names": record["class_names"],
        "normalisation": record["normalisation"],
        "objective": objective,
        "temperature": objective.get("temperature", 1.0),
        "val_accuracy": record["row"]["val_accuracy"],
        "val_ece": record["row"]["val_ece"],
        "num_parameters": record["row"]["num_parameters"],
        "trial": {key: record[key] for key in ("number", "arm", "seed", "trial", "dataset")},
        **student.facts,
    }
    write_json(target / CONFIG, config)
    about = f"trial {record['number']}, validation accuracy {config['val_accuracy']:.2%}"
    config["onnx"] = onnx = _add_onnx(target, config["input"])
    write_json(target / CONFIG, config)
    if "problem" in onnx:
        return f"{about}; no ONNX file: {onnx['problem']}"
    return f"{about}; ONNX agrees with torch to {onnx['largest_difference_from_torch']:.0e}"


def _add_onnx(target: Path, shape: dict[str, int]) -> dict[str, Any]:
    """Adds ONNX to an exported student if it can be had; returns what `config.json` says of it, or the problem."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        return {"problem": f"{', '.join(missing)} missing (pip install 'kd-tune[export]')"}
    student = load_student(target)
    try:
        difference = export_onnx(student, shape, target / ONNX)
    except Exception as error:  # whatever the exporter raises about a network; one without ONNX is no reason to stop
        (target / ONNX).unlink(missing_ok=True)
        return {"problem": _reason(error)}
    return {
        "file": ONNX,
        "opset": OPSET,
        "input": "images: [batch, channels, height, width], float32, 0 to 1 (pixels / 255)",
        "output": "logits: [batch, classes]",
        "largest_difference_from_torch": difference,
    }


def _reason(error: BaseException) -> str:
    """One line: the exporter's own errors are pages of advice, what the network did is their first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def export_onnx(student: Student, shape: dict[str, int], path: Path) -> float:
    """Writes ONNX with a dynamic batch, and compares its logits with torch's on random images.

    Returns:
        The largest difference between logits.

    Raises:
        RuntimeError: they differ by more than rounding explains.
    """
    images = torch.rand(
        CHECKED_IMAGES,
        shape["in_channels"],
        shape["image_size"],
        shape["image_size"],
        generator=torch.Generator().manual_seed(0),
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints whole programs where it fails
        warnings.simplefilter("ignore")  # the exporter's, about its own dependencies
        torch.onnx.export(
            student,
            (images[:2],),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    with torch.inference_mode():
        expected = student(images).numpy()
    difference = float(np.abs(run_onnx(path, images.numpy()) - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):  # so that NaN is refused
        raise RuntimeError(f"its logits differ from torch's by {difference:.1e}; please report this")
    return difference


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits of an exported student from onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])
