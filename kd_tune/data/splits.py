"""Which images validate and in which order the rest is taken: both follow from a seed alone, balanced by class.

`RandomState` is numpy's frozen generator: its streams are promised never to change.

Shapes: N images.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

VALIDATION_SHARE = 0.1

NumTrain = Annotated[int, Field(ge=1)] | None
SplitSeed = Annotated[int, Field(ge=0, lt=2**32)]


def split_by_class(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rest and of a balanced `share` of every class, both sorted."""
    random = np.random.RandomState(seed)
    held_out: list[np.ndarray] = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: max(1, round(share * len(members)))])
    taken = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def interleave_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order in which every prefix holds the classes in balance."""
    random = np.random.RandomState(seed)
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, rank))
