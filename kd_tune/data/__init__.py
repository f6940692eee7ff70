"""DATASETS: images and labels as uint8 arrays, to train and validate; the test set through a recorded opening only.

A loader is called with `source`, where the data lie (None: the usual place), and with the arguments that a search file
may set. Splits follow from `split_seed` alone and are balanced by class.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kd_tune.data.arrays import npz
from kd_tune.data.dataset import Dataset, Images, OpeningLog
from kd_tune.data.folder import image_folder
from kd_tune.data.published import (
    DOWNLOADABLE,
    PUBLISHED,
    cifar10,
    cifar100,
    default_source,
    download,
    fashion_mnist,
    mnist,
    mnist5k,
)

__all__ = [
    "DATASETS",
    "DOWNLOADABLE",
    "Dataset",
    "Images",
    "OpeningLog",
    "cifar10",
    "cifar100",
    "default_source",
    "download",
    "fashion_mnist",
    "files_of",
    "image_folder",
    "mnist",
    "mnist5k",
    "npz",
    "resolve_source",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "mnist5k": mnist5k,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "npz": npz,
    "image_folder": image_folder,
}


def resolve_source(name: str, source: Path | None) -> Path | None:
    """Where the data of a data set lie, absolute, so that every process looks in the same place."""
    if source is not None:
        return source.resolve()
    return default_source(name).resolve() if name in DOWNLOADABLE else None


def files_of(name: str, source: Path) -> list[str] | None:
    """What is read of a data set's place: names below it; None: all of it, or the file itself."""
    return [PUBLISHED[name].folder] if name in PUBLISHED and source.is_dir() else None
