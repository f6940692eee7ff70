"""Classifies images with an exported student. Needs this folder, Python, numpy and onnxruntime.

    python predict.py images.npy

An array of uint8, [N, height, width] (grey) or [N, height, width, channels], in an .npy file, or under `images` in an
.npz file. Prints, for each image: its number, the class, and the probability, which is calibrated by the temperature
in config.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent


def load(folder: Path = FOLDER, model: str = "student.onnx") -> tuple[Any, dict[str, Any]]:
    """A session of onnxruntime and the content of config.json."""
    import onnxruntime

    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return onnxruntime.InferenceSession(str(folder / model), providers=["CPUExecutionProvider"]), config


def predict(session: Any, config: dict[str, Any], images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Probabilities `[N, classes]`.

    Args:
        session: of onnxruntime.
        config: the content of config.json.
        images: uint8 `[N, height, width]` or `[N, height, width, channels]`.
        batch_size: images at once.

    Raises:
        ValueError: these are other images than the student takes.
    """
    shape = config["input"]
    size, channels = shape["image_size"], shape["in_channels"]
    grey = channels == 1 and images.shape[1:] == (size, size)
    if images.dtype != np.uint8 or not (grey or images.shape[1:] == (size, size, channels)):
        wanted = f"[N, {size}, {size}]" if channels == 1 else f"[N, {size}, {size}, {channels}]"
        raise ValueError(f"images are {images.dtype} {list(images.shape)}, but must be uint8 {wanted}")
    images = images[..., None] if grey else images
    temperature = config.get("calibration", {}).get("temperature", 1.0)
    found = [np.zeros((0, shape["num_classes"]))]
    for start in range(0, len(images), batch_size):
        pixels = images[start : start + batch_size].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        logits = session.run(None, {"images": np.ascontiguousarray(pixels)})[0].astype(np.float64) / temperature
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(odds / odds.sum(axis=1, keepdims=True))
    return np.concatenate(found)


def read_images(path: str) -> np.ndarray:
    """The array in an .npy file, or under `images` in an .npz file; pickles are refused."""
    try:
        content = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise ValueError("is no .npy or .npz file of numbers") from None
    if isinstance(content, np.ndarray):
        return content
    if "images" not in content:
        raise ValueError(f"no array `images`; it holds {', '.join(content) or 'nothing'}")
    return np.asarray(content["images"])


def main() -> int:
    """The command line; 2 where something is wrong with it or with the file."""
    parser = argparse.ArgumentParser(description="Classify images with the student in this folder.")
    parser.add_argument("images", help="an .npy file, or an .npz file with an array `images`, of uint8")
    parser.add_argument("--model", default="student.onnx", help="or student_int8.onnx")
    arguments = parser.parse_args()
    try:
        session, config = load(FOLDER, arguments.model)
    except Exception as error:  # whatever onnxruntime raises about a file
        print(f"error: {FOLDER / arguments.model}: cannot be used: {error}", file=sys.stderr)
        return 2
    try:
        probabilities = predict(session, config, read_images(arguments.images))
    except ValueError as error:
        print(f"error: {arguments.images}: {error}", file=sys.stderr)
        return 2
    for number, row in enumerate(probabilities):
        best = int(row.argmax())
        print(f"{number}\t{config['class_names'][best]}\t{row[best]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
