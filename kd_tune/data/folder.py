"""Image files in folders by class, as torchvision's ImageFolder takes them.

Shapes: N training images, M validation images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from kd_tune.class_groups import GroupsArgument, group_problems, named_groups
from kd_tune.data.dataset import Dataset, Images, Part, check_num_train
from kd_tune.data.decoded import Files, decoded
from kd_tune.data.splits import VALIDATION_SHARE, NumTrain, SplitSeed, interleave_classes, split_by_class
from kd_tune.errors import ConfigError

PARTS = ("train", "val", "test")
NAMES_OF_PARTS = {*PARTS, "training", "valid", "validation", "testing"}  # in any case; too likely parts to be classes

ImageSize = Annotated[int, Field(ge=8, le=1024)]
Channels = Literal[1, 3]


def image_folder(
    source: Path | None = None,
    *,
    image_size: ImageSize = 32,
    channels: Channels = 3,
    split_seed: SplitSeed = 0,
    num_train: NumTrain = None,
    flips: bool = True,
    groups: GroupsArgument = None,
) -> Dataset:
    """Images in FOLDER/train/CLASS and, where they exist, FOLDER/val/CLASS and FOLDER/test/CLASS; or in FOLDER/CLASS.

    They are decoded once, into a cache from which they are mapped, so there may be more of them than memory holds. The
    shorter side is resized, the longer one cut. Training images are stored in a random order in which every prefix
    holds the classes in balance, so `num_train` is a prefix of the file.

    Args:
        source: the folder.
        image_size: pixels a side.
        channels: 1 for grey, 3 for colour.
        split_seed: which tenth of the training images validates, if there is no `val`; and the order of the rest.
        num_train: train on the first so many; None: all.
        flips: whether a mirrored image keeps its class.
        groups: of classes that are alike, for the report of a confirmation: names of classes by name of group.
    """
    if source is None:
        raise ConfigError("the data set image_folder needs --data FOLDER")
    folders = _find_parts(source)
    listings: dict[str, Listing] = {name: _list(folders[name]) for name in ("train", "val") if name in folders}
    class_names = listings["train"].classes
    _check_classes(folders, class_names)
    class_groups = named_groups(groups)
    if class_groups is not None and (problems := group_problems(class_groups, class_names)):
        raise ConfigError([f"{source}: {text}" for text in problems])
    positions = _split(listings, split_seed, source)
    available = len(positions["train"])
    count = available if num_train is None else num_train
    check_num_train(count, available, str(source))
    files = {name: _at(listings, positions[name]) for name in ("train", "val")}
    images, mapped = decoded(source, files, image_size, channels)
    split: dict[str, Any] = {"split_seed": split_seed} | ({"val": "the folder's own"} if "val" in folders else {})
    return Dataset(
        name="image_folder",
        train=images["train"].first(count),
        val=images["val"],
        class_names=class_names,
        flips=flips,
        split=split | {"train": count, "num_val": len(images["val"])},
        train_positions=positions["train"][:count],
        val_positions=positions["val"],
        num_before_split=sum(len(listing.labels) for listing in listings.values()),
        _test=_test_part(source, folders["test"], image_size, channels) if "test" in folders else None,
        mapped=mapped if count == available else mapped.of_first(count),
        class_groups=class_groups,
    )


@dataclass(frozen=True)
class Listing:
    """What ImageFolder finds in a folder, sorted by class, then by name.

    Attributes:
        paths: of the image files.
        labels: `[N]` int64.
        classes: by number.
    """

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]


def _find_parts(source: Path) -> dict[str, Path]:
    """The folders of train, val and test; `train` is the folder itself if it has no such parts."""
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder")
    found = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if "train" not in found:
        if parts := [name for name in found if name.lower() in NAMES_OF_PARTS]:
            raise ConfigError(
                f"{source}: holds {', '.join(parts)} but no train; if these are parts, rename the folders to train, "
                "val and test (train is needed), and if they are classes, give them other names"
            )
        return {"train": source}
    others = [name for name in found if name not in PARTS]
    if others:
        raise ConfigError(
            f"{source}: holds train, so beside it only val and test may lie, not {', '.join(others)}; "
            "lay images out as FOLDER/train/CLASS, or all classes as FOLDER/CLASS without one called train"
        )
    return {name: source / name for name in found}


def _list(folder: Path) -> Listing:
    """Raises ConfigError if there are no classes, one without images or with parts, or a name that is no text."""
    from torchvision import datasets  # a second or two to load; most processes have no need of it

    try:
        found = datasets.ImageFolder(str(folder))
    except OSError as error:
        raise ConfigError(f"{folder}: {error}") from None
    for path, _ in found.samples:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{path.encode(errors='backslashreplace').decode()}: the name is not UTF-8") from None
    _check_inner(folder, [path for path, _ in found.samples])
    labels = np.array([label for _, label in found.samples], np.int64)
    return Listing([path for path, _ in found.samples], labels, tuple(found.classes))


def _check_inner(folder: Path, paths: list[str]) -> None:
    """Raises ConfigError for FOLDER/CLASS/test: ImageFolder takes all within a class, so test images would train."""
    problems = []
    for inner in sorted({os.path.dirname(path) for path in paths}):
        _, *within_class = Path(inner).relative_to(folder).parts
        if any(name.lower() in NAMES_OF_PARTS for name in within_class):
            problems.append(f"{inner}: is within a class; lay parts out as FOLDER/train/CLASS, or rename it")
    if problems:
        raise ConfigError(problems)


def _check_classes(folders: Mapping[str, Path], expected: tuple[str, ...]) -> None:
    """Raises ConfigError if parts differ in their classes: ImageFolder would number them differently."""
    problems = []
    if len(expected) < 2:
        problems.append(f"{folders['train']}: holds the class {expected[0]} alone; a classifier needs two")
    for name in folders.keys() - {"train"}:
        found = {entry.name for entry in folders[name].iterdir() if entry.is_dir()}
        if missing := sorted(set(expected) - found):
            problems.append(f"{folders[name]}: the classes {', '.join(missing)} of train are missing")
        if unknown := sorted(found - set(expected)):
            problems.append(f"{folders[name]}: the classes {', '.join(unknown)} are not those of train")
    if problems:
        raise ConfigError(sorted(problems))


def _split(listings: Mapping[str, Listing], split_seed: int, source: Path) -> dict[str, np.ndarray]:
    """Which images train, in the order in which they are stored, and which validate: numbers over all listings."""
    train = listings["train"]
    if "val" in listings:
        rest = np.arange(len(train.labels))
        val = len(rest) + np.arange(len(listings["val"].labels))
    else:
        counts = np.bincount(train.labels, minlength=len(train.classes))
        lonely = [train.classes[label] for label in np.flatnonzero(counts < 2)]
        if lonely:
            raise ConfigError(
                f"{source}: only one image of {', '.join(lonely)}; one of each class validates, so there must be two"
            )
        rest, val = split_by_class(train.labels, VALIDATION_SHARE, split_seed)
    return {"train": rest[interleave_classes(train.labels[rest], split_seed)], "val": val}


def _at(listings: Mapping[str, Listing], positions: np.ndarray) -> Files:
    """The files with these numbers over all listings."""
    paths = [path for listing in listings.values() for path in listing.paths]
    labels = np.concatenate([listing.labels for listing in listings.values()])
    return Files([paths[position] for position in positions], labels[positions])


def _test_part(source: Path, folder: Path, image_size: int, channels: int) -> Part:
    return Part(partial(_load_test, source, folder, image_size, channels), lambda: len(_list(folder).labels))


def _load_test(source: Path, folder: Path, image_size: int, channels: int) -> Images:
    listing = _list(folder)
    images, _ = decoded(source, {"test": Files(listing.paths, listing.labels)}, image_size, channels)
    return images["test"]
