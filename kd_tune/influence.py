"""Intervals of figures about answers that are crossed: S seeds (trainings) answered the same N test images.

Another test set and other seeds would have given another figure, so an interval must allow for both. What one training
says on one image is taken apart into an effect of the seed, one of the image, and their interaction (Searle, Casella &
McCulloch 1992, chapter 4):

    variance of the mean = seeds / S + images / N + interaction / (S N)

A crossed bootstrap, which draws seeds and images again (Owen 2007, arXiv:0712.1111), estimates the same sum. Of a mean
its variance is known without drawing, and it errs with few seeds: it finds (S - 1) / S of the seeds' part and up to
three times the interaction, and its percentiles are nearly those of a normal distribution, where two degrees of
freedom need Student's. So the parts are computed and nothing is drawn; `benchmarks/confirm_statistics.md` shows how
often either interval holds the truth.

Figures that are no plain means (shares of some answers, correlations, calibration errors) are, to first order, means
all the same: of each answer's influence on them (the delta method; Hampel 1974, Deville 1999).

Shapes: S seeds, N test images. A network that was not trained several times has S = 1: it stands for itself, and only
images vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

LEVEL = 0.95
SMALLEST_P = 1e-12  # what is smaller is not known better


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, over new seeds and new test images.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two figures on the same images.

    Attributes:
        p_value: how often figures that are equal differ at least so much; not adjusted for other comparisons.
    """

    p_value: float


@dataclass(frozen=True)
class Parts:
    """The variance of a figure, taken apart.

    What can be observed from image to image and from seed to seed holds the interaction twice, so once has to be taken
    off.

    Attributes:
        images: of the figure, from image to image, the interaction included.
        seeds: of the figure, from seed to seed, likewise.
        interaction: of the two.
        degrees: of freedom of `seeds`.
        in_seeds: the share of the interaction that is left in `seeds`; the rest is left in `images`.
        least: what the whole is at least.
    """

    images: float
    seeds: float
    interaction: float
    degrees: float
    in_seeds: float = 0.5
    least: float = 0.0

    def half_width(self, alpha: float) -> float:
        """Half of the interval of level 1 - alpha: each part with a quantile of its own (Banerjee 1960).

        One quantile for their sum, by Satterthwaite's degrees of freedom, holds the truth in 91 % of runs where three
        seeds differ much.
        """
        normal, student = special.ndtri(alpha / 2) ** 2, special.stdtrit(self.degrees, alpha / 2) ** 2
        images = max(self.images - self.in_seeds * self.interaction, 0.0)
        seeds = max(self.seeds - (1 - self.in_seeds) * self.interaction, 0.0)
        return math.sqrt(max(normal * self.least, normal * images + student * seeds))

    def p_value(self, value: float) -> float:
        """The largest alpha whose interval round `value` does not hold 0."""
        if self.half_width(SMALLEST_P) < abs(value):
            return SMALLEST_P
        return float(optimize.brentq(lambda alpha: self.half_width(alpha) - abs(value), SMALLEST_P, 1.0, xtol=1e-14))


def share(part: np.ndarray, whole: np.ndarray) -> Interval:
    """Which share of some answers has a property, over new seeds and new images.

    The interval is computed on the scale of log odds: near 1 the plain one is too narrow above and leaves [0, 1].

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
    parts = take_apart([(part - value * whole) / size], unit=1 / size)
    half = parts.half_width(1 - LEVEL) / (value * (1 - value))
    return Interval(value, float(special.expit(centre - half)), float(special.expit(centre + half)))


def difference(value: float, influences: Sequence[np.ndarray], unit: float = 1.0, largest: float = 1.0) -> Difference:
    """A difference of two figures on the same images.

    Args:
        value: the estimate.
        influences: of every set of trainings on the difference, so of the second figure with a minus.
        unit: as `take_apart` takes it.
        largest: the difference that there can be.
    """
    parts = take_apart(influences, unit)
    # Models that find the same images hard differ by little but seeds and the interaction. Where all of it is left in
    # the seeds' part, theirs is Student's test; with half of it, identical ones would be called different in 6 % of
    # runs. Few seeds can by luck differ less than their answers on images let them; a quarter of what those say is the
    # least. Half of it or all would make intervals of three seeds hold in 97 or 98 %.
    parts = replace(parts, in_seeds=1.0, least=parts.images / 4)
    half = parts.half_width(1 - LEVEL)
    # Two seeds that differ much know nothing; a share still lies between 0 and 1.
    return Difference(value, max(value - half, -largest), min(value + half, largest), parts.p_value(value))


def take_apart(influences: Sequence[np.ndarray], unit: float) -> Parts:
    """The variance of a figure, taken apart.

    Args:
        influences: `[S, N]` float each: of every answer of one set of trainings on the figure. Images are common to the
            sets, seeds are not.
        unit: what one answer can move its influence by. No image that differed is no proof that none does.
    """
    by_image = np.sum([values.mean(0) for values in influences], axis=0)
    num_images = len(by_image)
    images = max(float(by_image.var(ddof=1)) / num_images, (unit / num_images) ** 2)
    repeated = [values for values in influences if len(values) > 1]
    seeds = [float(values.mean(1).var(ddof=1)) / len(values) for values in repeated]
    interaction = sum(_interaction(values) / values.size for values in repeated)
    # Welch: as many degrees of freedom as the sets' own estimates add up to.
    welch = sum(part**2 / (len(values) - 1) for part, values in zip(seeds, repeated, strict=True))
    fewest = min((len(values) - 1 for values in repeated), default=1)
    return Parts(images, sum(seeds), interaction, sum(seeds) ** 2 / welch if welch else fewest)


def _interaction(values: np.ndarray) -> float:
    """The variance of a single value that neither its seed nor its image explains."""
    num_seeds, num_images = values.shape
    mean, by_seed, by_image = values.mean(), values.mean(1), values.mean(0)
    total = np.vdot(values, values) - values.size * mean**2
    explained = num_images * ((by_seed - mean) ** 2).sum() + num_seeds * ((by_image - mean) ** 2).sum()
    return float(max(total - explained, 0.0) / ((num_seeds - 1) * (num_images - 1)))
