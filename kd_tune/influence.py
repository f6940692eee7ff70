"""Intervals of figures that are no plain means: shares of some answers, correlations, calibration errors.

To first order such a figure is a mean all the same, of each answer's influence on it (the delta method; Hampel 1974,
Deville 1999). So its variance is taken apart as `kd_tune.statistics` does for an accuracy, with the same quantiles.

Shapes: S seeds, N test images. A network that was not trained several times has S = 1: it stands for itself, and only
images vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from kd_tune.statistics import LEVEL, Difference, Interval, _Parts

UNKNOWN = Interval(math.nan, math.nan, math.nan)


def spread(influences: Sequence[np.ndarray], unit: float) -> _Parts:
    """The variance of a figure, taken apart.

    Args:
        influences: `[S, N]` each: of every answer of one set of trainings on the figure. Images are common to the
            sets, seeds are not.
        unit: what one answer can move its influence by. No image that differed is no proof that none does.
    """
    by_image = np.sum([values.mean(0) for values in influences], axis=0)
    num_images = len(by_image)
    images = max(float(by_image.var(ddof=1)) / num_images, (unit / num_images) ** 2)
    repeated = [values for values in influences if len(values) > 1]
    seeds = [float(values.mean(1).var(ddof=1)) / len(values) for values in repeated]
    interaction = sum(_interaction(values) / values.size for values in repeated)
    welch = sum(part**2 / (len(values) - 1) for part, values in zip(seeds, repeated, strict=True))
    fewest = min((len(values) - 1 for values in repeated), default=1)
    return _Parts(images, sum(seeds), interaction, sum(seeds) ** 2 / welch if welch else fewest)


def _interaction(values: np.ndarray) -> float:
    """The variance of a single value that neither its seed nor its image explains."""
    left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((left**2).sum() / ((len(values) - 1) * (values.shape[1] - 1)))


def share(part: np.ndarray, whole: np.ndarray) -> Interval:
    """Which share of some answers has a property, over new seeds and new images.

    Of all answers it is `statistics.accuracy`, and like that computed on the scale of log odds.

    Args:
        part: `[S, N]` bool, the answers that have the property.
        whole: `[S, N]` bool, the answers that are counted; every one of `part` is among them.

    Returns:
        NaN if no answer is counted.
    """
    size = float(whole.mean())
    if size == 0:
        return UNKNOWN
    value = float(part.mean()) / size
    if value in (0.0, 1.0):  # no variance to see; as many images alike are as likely as that where the odds are this
        bound = ((1 - LEVEL) / 2) ** (1 / (size * whole.shape[1]))
        return Interval(value, bound, 1.0) if value else Interval(value, 0.0, 1 - bound)
    centre = float(special.logit(value))
    parts = spread([(part - value * whole) / size], unit=1 / size)
    half = parts.half_width(1 - LEVEL) / (value * (1 - value))
    return Interval(value, float(special.expit(centre - half)), float(special.expit(centre + half)))


def difference(value: float, influences: Sequence[np.ndarray], unit: float, largest: float) -> Difference:
    """A difference of two figures on the same images.

    Args:
        value: the estimate.
        influences: of every set of trainings on the difference, so of the second figure with a minus.
        unit: as `spread` takes it.
        largest: the difference that there can be.
    """
    parts = spread(influences, unit)
    parts = replace(parts, least=parts.images)  # as `statistics.difference` does, for the same reason
    half = parts.half_width(1 - LEVEL)
    return Difference(value, max(value - half, -largest), min(value + half, largest), parts.p_value(value))
