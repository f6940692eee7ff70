"""A data set: images and labels as uint8 arrays, split; the test set through a recorded opening only.

Arrays lie in memory, or are mapped from files that may be larger than memory; then nobody may ask for all of them.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kd_tune.class_groups import Groups, group_problems
from kd_tune.data.splits import VALIDATION_SHARE, interleave_classes, split_by_class
from kd_tune.errors import ConfigError

OpeningLog = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Attributes:
        images: `[N, C, H, W]` uint8; read-only where they are mapped.
        labels: `[N]` int64 class numbers.
        file: from whose beginning the images are mapped; None: they lie in memory.
    """

    images: np.ndarray
    labels: np.ndarray
    file: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Images:
        """Some of them, copied into memory."""
        return Images(np.ascontiguousarray(self.images[indices]), self.labels[indices])

    def first(self, count: int) -> Images:
        """The first so many, without a copy."""
        return Images(self.images[:count], self.labels[:count], self.file)

    def announce(self, indices: Iterable[int]) -> None:
        """Asks the kernel to read some mapped images, all at the same time.

        Without this it reads at each page that is missed, one after the other: 15 MB/s instead of 800 where 64 images
        of 110 kB were gathered at random from a virtual machine's disk, a file three times as large as the memory.
        """
        if self.file is None or not hasattr(os, "posix_fadvise"):  # macOS has none
            return
        size = self.images[0].nbytes
        with suppress(OSError), self.file.open("rb") as file:  # advice only
            for index in indices:
                os.posix_fadvise(file.fileno(), index * size, size, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class Part:
    """A part of a data set that was not read yet.

    Attributes:
        load: reads it.
        count: says how many images it holds, without reading one.
    """

    load: Callable[[], Images]
    count: Callable[[], int]


@dataclass(frozen=True)
class Mapped:
    """What was found out about images while they were decoded into files, so that no file is read again to know it.

    Attributes:
        fingerprint: of the images and labels, as `Dataset.fingerprint` has it.
        normalisation: of all training images, also where a trial takes only some.
    """

    fingerprint: str
    normalisation: dict[str, list[float]]

    def of_first(self, count: int) -> Mapped:
        """The same where only the first so many of the training images are taken."""
        digest = hashlib.sha256(f"{self.fingerprint}/{count}".encode())
        return Mapped(digest.hexdigest()[:16], self.normalisation)


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
        train_positions: `[N]` int64, where each training image stands in the data set's own order of all its training
            images, before the split.
        val_positions: `[M]` int64, likewise of the validation images; a data set's own validation images come after all
            its training images.
        num_before_split: how many there are in that order.
        mapped: what is known of images that are mapped from files; None: they lie in memory.
        class_groups: of classes that are alike, each class in one: names of classes by name of group. None: no groups.
    """

    name: str
    train: Images
    val: Images
    class_names: tuple[str, ...]
    flips: bool
    split: dict[str, Any]
    train_positions: np.ndarray
    val_positions: np.ndarray
    num_before_split: int
    _test: Part | None = field(repr=False)
    mapped: Mapped | None = None
    class_groups: Groups | None = None

    @property
    def resident(self) -> bool:
        """Whether all images lie in memory."""
        return self.mapped is None

    @property
    def num_test(self) -> int:
        """How many test images there are, which takes no look at them."""
        return 0 if self._test is None else self._test.count()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[2])

    @property
    def input_shape(self) -> dict[str, int]:
        """What a network for these images is built for, as every network takes it."""
        return {"num_classes": self.num_classes, "in_channels": self.in_channels, "image_size": self.image_size}

    @property
    def identity(self) -> dict[str, Any]:
        """Which data these are, for the records of what learnt from them."""
        return {"name": self.name, "fingerprint": self.fingerprint, "split": self.split}

    @cached_property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and standard deviation of the training images by channel, in units of 0 to 1."""
        if self.mapped is not None:
            return self.mapped.normalisation
        counts = [
            np.bincount(self.train.images[:, channel].ravel(), minlength=256) for channel in range(self.in_channels)
        ]
        return normalisation_of(counts)

    @cached_property
    def fingerprint(self) -> str:
        """Of every training and validation image and label, in order."""
        if self.mapped is not None:
            return self.mapped.fingerprint
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
        if self._test is None:
            raise ConfigError(f"{self.name}: the data set has no test images")
        log({"purpose": purpose, "dataset": self.name, "data_fingerprint": self.fingerprint})
        test = self._test.load()
        if test.labels.max() >= self.num_classes or test.images.shape[1:] != self.train.images.shape[1:]:
            raise ConfigError(f"{self.name}: the test images' shape or labels do not fit those of the training images")
        return test


def normalisation_of(counts: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation, in units of 0 to 1, from how often each of 256 levels occurs in each channel."""
    levels = np.arange(256) / 255
    means = [float(count @ levels / count.sum()) for count in counts]
    variances = [float(count @ (levels - mean) ** 2 / count.sum()) for count, mean in zip(counts, means, strict=True)]
    return {"mean": means, "std": [max(variance**0.5, 1e-3) for variance in variances]}


def from_parts(
    name: str,
    parts: Mapping[str, Part],
    class_names: tuple[str, ...] | None,
    flips: bool,
    split_seed: int,
    num_train: int | None,
    where: str,
    class_groups: Groups | None = None,
) -> Dataset:
    """Splits the parts of a data set that lies in memory.

    Args:
        name: its key in DATASETS.
        parts: `train` and, where they exist, `val` and `test`; the last is read when it is opened.
        class_names: by class number; None: the numbers themselves.
        flips: whether a mirrored image keeps its class.
        split_seed: which tenth of the training images validates, if there is no `val`.
        num_train: train on the first so many of a balanced random order; None: all.
        where: the data lie, for messages.
        class_groups: of classes that are alike.
    """
    train = parts["train"].load()
    split: dict[str, Any] = {"split_seed": split_seed}
    if "val" in parts:
        val = parts["val"].load()
        split["val"] = "the file's own"
        order, held_out = np.arange(len(train)), len(train) + np.arange(len(val))
    else:
        order, held_out = split_by_class(train.labels, VALIDATION_SHARE, split_seed)
        val = train.take(held_out)
    if num_train is not None:
        check_num_train(num_train, len(order), where)
        order = order[interleave_classes(train.labels[order], split_seed)[:num_train]]
    num_classes = int(train.labels.max()) + 1
    dataset = Dataset(
        name=name,
        train=train.take(order),
        val=val,
        class_names=class_names or tuple(str(label) for label in range(num_classes)),
        flips=flips,
        split=split | {"train": len(order), "num_val": len(val)},
        train_positions=order,
        val_positions=held_out,
        num_before_split=len(train) + (len(val) if "val" in parts else 0),
        _test=parts.get("test"),
        class_groups=class_groups,
    )
    check(dataset, where)
    return dataset


def check_num_train(num_train: int, available: int, where: str) -> None:
    """Raises ConfigError if there are fewer images."""
    if num_train > available:
        raise ConfigError(f"{where}: num_train is {num_train}, but there are {available} images to train on")


def check(dataset: Dataset, where: str) -> None:
    """Raises ConfigError if images or labels cannot be those of one classifier."""
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
    if dataset.class_groups is not None:
        problems += [f"{where}: {text}" for text in group_problems(dataset.class_groups, dataset.class_names)]
    if problems:
        raise ConfigError(problems)
