"""The formats of an exported student: each is a file, written from the student in torch and run without it.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_tune import checkpoint
from kd_tune.catalog import build_network
from kd_tune.paths import Record, read_record
from kd_tune.teacher import InputShape, Normalisation

CONFIG = "config.json"
ONNX = "student.onnx"
INT8 = "student_int8.onnx"
TORCH_EXPORT = "student.pt2"
OPSET = 18
INPUT, OUTPUT = "images", "logits"

Run = Callable[[np.ndarray], np.ndarray]  # images [B, channels, H, W] float32 from 0 to 1, to logits [B, C]


class ExportedConfig(Record):
    """`config.json`: what is needed to build the network again and to feed it."""

    architecture: dict[str, Any]
    input: InputShape
    normalisation: Normalisation


class Student(nn.Module):
    """A student with its normalisation inside: images `[B, channels, H, W]`, float32, 0 to 1, to logits `[B, C]`."""

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


@dataclass(frozen=True)
class Format:
    """A format beside the safetensors.

    Attributes:
        title: for a person.
        file: its name.
        needs: packages that are not kd_tune's own.
        write: writes the file: from the student, two of its images, float32, and the path. Of int8, which is made from
            the ONNX file beside it: from images to calibrate on.
        load: makes of a file what runs it.
        is_float: whether its logits are the student's but for rounding.
        facts: what `config.json` says of it.
    """

    title: str
    file: str
    needs: tuple[str, ...]
    write: Callable[[Student, Tensor, Path], None]
    load: Callable[[Path], Run]
    is_float: bool
    facts: dict[str, Any]

    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def write_onnx(student: Student, images: Tensor, path: Path) -> None:
    """Writes ONNX with a dynamic batch."""
    with _quiet():
        torch.onnx.export(
            student,
            (images[:2],),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    _forget_source(path)


def _forget_source(path: Path) -> None:
    """Takes out of an ONNX file where its nodes come from: the paths on this machine, and lines of the user's code."""
    import onnx

    model = onnx.load(path)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph, model):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def write_torch_export(student: Student, images: Tensor, path: Path) -> None:
    """Writes a program of torch.export with a dynamic batch."""
    with _quiet():
        program = torch.export.export(student, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # as `_forget_source`
        content = io.BytesIO()  # on a full disk torch would end the process
        torch.export.save(program, content)
    path.write_bytes(content.getvalue())


def write_int8(student: Student, images: Tensor, path: Path) -> None:
    """Writes ONNX in which convolutions and matrix products take 8-bit numbers, from the ONNX file beside it.

    Static quantisation as in Jacob et al. 2018 (arXiv:1712.05877): ranges of activations are those that the images
    bring about, weights have a scale for every channel. Weights use 7 of the 8 bits: without VNNI instructions an x86
    processor adds pairs of products in 16 bits, which 8 overflow, and the same file would answer otherwise there.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with _quiet(), tempfile.TemporaryDirectory(prefix="kd_tune_") as temporary:
        prepared = Path(temporary) / ONNX
        quant_pre_process(str(path.with_name(ONNX)), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Batches(images.numpy()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class _Batches:
    """Images as onnxruntime's calibration reads them."""

    def __init__(self, images: np.ndarray, batch_size: int = 64) -> None:
        self._batches: Iterator[np.ndarray] = iter(
            images[start : start + batch_size] for start in range(0, len(images), batch_size)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def load_onnx(path: Path) -> Run:
    """An ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {INPUT: images})[0])


def load_torch_export(path: Path) -> Run:
    """A program of torch.export. Reading one can run code: only of a file that this process has just written."""
    with _quiet():
        program = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(program(torch.from_numpy(images)).numpy())

    return run


def in_torch(student: Student) -> Run:
    """The student itself."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(student(torch.from_numpy(images)).numpy())

    return run


def answers(run: Run, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits `[N, C]` for images `[N, channels, H, W]`, uint8."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return np.concatenate([run(to_floats(batch)) for batch in batches])


def to_floats(images: np.ndarray) -> np.ndarray:
    """uint8 pixels as the formats take them: float32 from 0 to 1."""
    return images.astype(np.float32) / np.float32(255)


def reason(error: BaseException) -> str:
    """One line: an exporter's own errors are pages of advice, what the network did is their first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps exporters from printing whole programs where they fail, and from warning of their own dependencies."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    root = logging.getLogger()
    levels, handlers = [logger.level for logger in (*loggers, root)], root.handlers[:]
    for logger in (*loggers, root):
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip((*loggers, root), levels, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers  # `logging.warning` adds one that writes where errors are redirected to now


_ONNX_FACTS = {
    "opset": OPSET,
    "input": f"{INPUT}: [batch, channels, height, width], float32, 0 to 1 (pixels / 255)",
    "output": f"{OUTPUT}: [batch, classes]",
}
_ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
FLOAT_FORMATS: Sequence[Format] = (
    Format("ONNX", ONNX, _ONNX_NEEDS, write_onnx, load_onnx, True, _ONNX_FACTS),
    Format(
        "torch.export",
        TORCH_EXPORT,
        (),
        write_torch_export,
        load_torch_export,
        True,
        {"torch": torch.__version__, **{key: _ONNX_FACTS[key] for key in ("input", "output")}},
    ),
)
INT8_FORMAT = Format("int8", INT8, _ONNX_NEEDS, write_int8, load_onnx, False, _ONNX_FACTS)
