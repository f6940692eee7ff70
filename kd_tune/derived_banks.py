"""Banks that no network is asked for: another bank's answers dealt out anew, and answers from a file.

Shapes: V views, N training images, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.paths import cache_folder, taking_turns
from kd_tune.soft_targets import is_filled, open_bank, read_fingerprint, write_bank
from kd_tune.turns import lock_of


def permute(folder: Path, dataset: Dataset, views: int, seed: int) -> Path:
    """The bank whose answers are another's, dealt out anew among the images; all views of an image change together.

    Args:
        folder: of a bank with at least so many views.
        dataset: whose answers it holds.
        views: how many to take over.
        seed: of the permutations of training and validation images.

    Returns:
        Its folder, beside the other's.

    Raises:
        ConfigError: either bank is damaged.
    """
    original = read_fingerprint(folder)
    fingerprint = hashlib.sha256(f"permuted/{original}/{seed}".encode()).hexdigest()[:16]
    target = folder.with_name(f"permuted-{fingerprint}")
    with _lacking(target, views) as lacking:
        if lacking:
            bank = open_bank(folder, original, len(dataset.train), dataset.num_classes, views)
            random = np.random.RandomState(seed)
            order, val_order = random.permutation(len(dataset.train)), random.permutation(len(dataset.val))
            write_bank(target, fingerprint, (view[order] for view in bank.logits), bank.val_logits[val_order])
    open_bank(target, fingerprint, len(dataset.train), dataset.num_classes, views)
    return target


def from_file(path: Path, dataset: Dataset, views: int) -> Path:
    """The bank of a teacher that cannot be run here, from a file of its logits.

    Args:
        path: `.npy`, `[N, C]` (clean images) or `[V, N, C]` (the first V views); N: all training images before the
            split.
        dataset: whose images, in their own order, the answers are about.
        views: how many are wanted.

    Raises:
        ConfigError: not such a file, another number of images or classes, too few views, or numbers that are not finite
            in float16; or the bank is damaged.
    """
    logits = _read_logits(path, dataset, views)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    fingerprint = hashlib.sha256(f"logits/{digest.hexdigest()}/{dataset.fingerprint}".encode()).hexdigest()[:16]
    target = cache_folder() / "banks" / f"logits-{dataset.name}-{fingerprint}"
    with _lacking(target, views) as lacking:
        if lacking:
            train = (_to_half(view[dataset.train_positions], path) for view in logits)
            write_bank(target, fingerprint, train, _to_half(logits[0, dataset.val_positions], path))
    open_bank(target, fingerprint, len(dataset.train), dataset.num_classes, views)
    return target


@contextmanager
def _lacking(folder: Path, views: int) -> Iterator[bool]:
    """Whether a bank lacks some of its first `views` views; if so, nobody else writes it meanwhile."""
    if is_filled(folder, views):
        yield False
        return
    with taking_turns(lock_of(folder)):
        yield not is_filled(folder, views)


def _read_logits(path: Path, dataset: Dataset, views: int) -> np.ndarray:
    """`[V, N, C]`, mapped from the file; ConfigError if it is not about these images or views."""
    try:
        logits: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read as .npy: {error}") from None
    num_images = dataset.num_before_split
    wanted = f"[{num_images}, {dataset.num_classes}] or [views, {num_images}, {dataset.num_classes}]"
    if not isinstance(logits, np.ndarray) or not np.issubdtype(logits.dtype, np.floating):
        raise ConfigError(f"{path}: must hold an array of floating point numbers, {wanted}")
    logits = logits.reshape(1, *logits.shape) if logits.ndim == 2 else logits
    if logits.ndim != 3 or logits.shape[1:] != (num_images, dataset.num_classes):
        raise ConfigError(
            f"{path}: has the shape {list(logits.shape)}, but {dataset.name} needs {wanted}: a row for every training "
            "image before the split, in the data set's own order"
        )
    if len(logits) < views:
        raise ConfigError(
            f"{path}: holds {len(logits)} views, but trial.training.views is {views}; lower that, or add the views"
        )
    return logits


def _to_half(logits: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        half: np.ndarray = logits.astype(np.float16)
    if not np.isfinite(half).all():
        raise ConfigError(f"{path}: holds numbers that are not finite, or beyond float16 (65504)")
    return half
