"""Data small enough to train on in a test: lying stripes, standing stripes and a chessboard, under noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIZE = 16
CLASSES = 3


def write_stripes(path: Path, train: int = 120, test: int = 40) -> Path:
    """Writes grey images, 16 x 16, as an .npz file. Shifts and mirror images keep the class.

    Args:
        path: of the file.
        train: how many images to train on.
        test: how many test images.
    """
    random = np.random.RandomState(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % CLASSES
        arrays[f"{part}_images"] = _stripes(labels, random)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    np.savez(path, **arrays)
    return path


def _stripes(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    row, column = np.indices((SIZE, SIZE)) // 2 % 2
    patterns = np.stack([row, column, row ^ column])
    noise = random.randint(0, 120, (len(labels), SIZE, SIZE))
    images: np.ndarray = (patterns[labels] * 60 + noise).astype(np.uint8)
    return images
