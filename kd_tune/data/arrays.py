"""Data sets in an .npz file."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from kd_tune.class_groups import GroupsArgument, named_groups
from kd_tune.data.dataset import Dataset, Images, Part, from_parts
from kd_tune.data.splits import NumTrain, SplitSeed
from kd_tune.errors import ConfigError, refused_by_system
from kd_tune.paths import check_fits_memory


def npz(
    source: Path | None = None,
    *,
    split_seed: SplitSeed = 0,
    num_train: NumTrain = None,
    flips: bool = True,
    groups: GroupsArgument = None,
) -> Dataset:
    """A file in MedMNIST's layout: `train_images`, `train_labels`, and where they exist `val_*` and `test_*`.

    Images are uint8, `[N, H, W]` (grey) or `[N, H, W, 3]`; labels are class numbers from 0, `[N]` or `[N, 1]`.

    Args:
        source: the file.
        split_seed: which tenth of the training images validates, if the file has no `val_images`.
        num_train: train on the first so many of a balanced random order; None: all.
        flips: whether a mirrored image keeps its class.
        groups: of classes that are alike, for the report of a confirmation: numbers of classes by name of group.
    """
    if source is None:
        raise ConfigError("the data set npz needs --data FILE.npz")
    parts, where = read_npz(source), str(source)
    return from_parts("npz", parts, None, flips, split_seed, num_train, where, named_groups(groups))


def read_npz(path: Path) -> dict[str, Part]:
    """The parts that a file holds; a part is read when it is asked for."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
            num_bytes = sum(member.file_size for member in archive.infolist())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except Exception as error:  # see _read_part
        refused = refused_by_system(error, path) if isinstance(error, OSError) else None
        raise refused or ConfigError(f"{path}: not an .npz file: {error}") from None
    check_fits_memory(path, num_bytes)
    missing = sorted({"train_images", "train_labels"} - keys)
    missing += [
        f"{part}_labels" for part in ("val", "test") if f"{part}_images" in keys and f"{part}_labels" not in keys
    ]
    if missing:
        raise ConfigError(
            f"{path}: the keys {', '.join(missing)} are missing; it holds {', '.join(sorted(keys)) or 'nothing'}"
        )
    return {
        part: Part(partial(_read_part, path, part), partial(_count, path, part))
        for part in ("train", "val", "test")
        if f"{part}_images" in keys
    }


def _count(path: Path, part: str) -> int:
    """How many labels there are: of images, numpy would have to read all."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return len(archive[f"{part}_labels"])
    except Exception as error:  # see _read_part
        raise ConfigError(f"{path}: {part} labels cannot be read: {error}") from None


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
