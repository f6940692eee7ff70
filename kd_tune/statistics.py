"""What a few retrainings say about an arm's accuracy: intervals, differences between arms, and many comparisons.

How an interval allows for both seeds and images stands in `influence`.

Shapes: S seeds, N test images, K configurations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_tune import influence
from kd_tune.influence import Difference, Interval


def accuracy(right: np.ndarray) -> Interval:
    """An arm's expected test accuracy, over new seeds and new images; a single network's, over new images alone.

    Args:
        right: `[S, N]` bool, whether each training classified each image right.
    """
    return influence.share(right, np.ones_like(right))


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """How much more accurate the first arm is than the second: images are paired, seeds are not.

    Args:
        first: `[S, N]` bool.
        second: `[S', N]` bool, of the same images.
    """
    value = float(first.mean()) - float(second.mean())
    return influence.difference(value, [first.astype(float), -second.astype(float)])


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for there being several (Holm 1979): the chance of any false finding stays below the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [1.0] * len(order), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(order) - rank) * p_values[index])
        adjusted[index] = min(highest, 1.0)
    return adjusted


def shrunken_maximum(even: np.ndarray, odd: np.ndarray) -> float:
    """What the best of many validation accuracies is worth: chosen on one half of the images, scored on the other.

    The largest of K noisy figures is too high, because it was chosen for its luck on these images too. The half that
    did not choose knows nothing of that luck, so its score is an unbiased one of its choice. It needs no model of how
    configurations differ, which shrinking towards their mean (empirical Bayes) would: a search draws them on purpose
    near the best. Its price: half of the images choose a little worse than all, so it errs downwards, by less.

    It knows nothing of luck in training, which both halves share; only retraining on fresh seeds does.

    Args:
        even: `[K]` accuracies on one half of the validation images.
        odd: `[K]` accuracies on the other.

    Returns:
        The mean of both directions.
    """
    return (float(odd[np.argmax(even)]) + float(even[np.argmax(odd)])) / 2
