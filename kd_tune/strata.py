"""Strata: sizes of student that compete among themselves, where a search wants the best student at every size.

Small students lose to large ones in every rung, so a search for one best student never trains them to the end.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kd_tune.space import Draw

MAX_SIZES = 6
NUM_STRATA = 4


def cut(counts: Iterable[int]) -> tuple[int, ...]:
    """The largest parameter count of every stratum, ascending.

    Up to MAX_SIZES different counts are a stratum each; more are cut into NUM_STRATA of equally many different counts.
    The cuts follow the order of the counts alone: a width drawn on a logarithmic scale gives strata on one.
    """
    sizes = sorted(set(counts))
    if len(sizes) <= MAX_SIZES:
        return tuple(sizes)
    return tuple(sizes[math.ceil(len(sizes) * part / NUM_STRATA) - 1] for part in range(1, NUM_STRATA + 1))


def stratum_of(num_parameters: int, edges: Sequence[int]) -> int:
    """The stratum of a student: the first whose edge it does not exceed, or the last; 0 where there are no edges."""
    return bisect_left(edges[:-1], num_parameters)


@dataclass(frozen=True)
class Students:
    """The students of a search by their size.

    Attributes:
        count: parameters of the student that a draw stands for.
        draws: of the student's own parameters, at random; with these every stratum can be filled.
    """

    count: Callable[[Draw], int]
    draws: tuple[Draw, ...]

    def edges(self) -> tuple[int, ...]:
        """The strata that these students fall into."""
        return cut(map(self.count, self.draws))

    def of_stratum(self, stratum: int, edges: Sequence[int]) -> list[Draw]:
        """The draws whose student lies in a stratum."""
        return [draw for draw in self.draws if stratum_of(self.count(draw), edges) == stratum]
