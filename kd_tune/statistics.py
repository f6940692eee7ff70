"""What a few retrainings say about an arm's accuracy: intervals, differences between arms, and many comparisons.

An arm's answers are crossed: S seeds (trainings) answered the same N test images. Another test set and other seeds
would have given another figure, so an interval must allow for both. The accuracy of one training on one image is taken
apart into an effect of the seed, one of the image, and their interaction (Searle, Casella & McCulloch 1992, chapter 4):

    variance of the mean = seeds / S + images / N + interaction / (S N)

A crossed bootstrap, which draws seeds and images again (Owen 2007, arXiv:0712.1111), estimates the same sum. Of a mean
its variance is known without drawing, and it errs with few seeds: it finds (S - 1) / S of the seeds' part and up to
three times the interaction, and its percentiles are nearly those of a normal distribution, where two degrees of
freedom need Student's. So the parts are computed and nothing is drawn; `benchmarks/confirm_statistics.md` shows how
often either interval holds the truth.

Shapes: S seeds, N test images, A arms, K configurations.
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


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two arms' accuracies.

    Attributes:
        p_value: how often arms that are equally good differ at least so much; not adjusted for other comparisons.
    """

    p_value: float


@dataclass(frozen=True)
class _Parts:
    """The variance of a mean, taken apart.

    What can be observed from image to image and from seed to seed holds the interaction twice, so once has to be taken
    off.

    Attributes:
        images: of the mean, from image to image, the interaction included.
        seeds: of the mean, from seed to seed, likewise.
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


def accuracy(right: np.ndarray) -> Interval:
    """An arm's expected test accuracy, over new seeds and new images.

    The interval is computed on the scale of log odds: near 1 the plain one is too narrow above and leaves [0, 1].

    Args:
        right: `[S, N]` bool, whether each training classified each image right; S at least 2.
    """
    value = float(right.mean())
    if value in (0.0, 1.0):  # no variance to see; N images alike are as likely as that where the odds are this
        bound = ((1 - LEVEL) / 2) ** (1 / right.shape[1])
        return Interval(value, bound, 1.0) if value else Interval(value, 0.0, 1 - bound)
    centre = special.logit(value)
    half = _parts([right], right.mean(0)).half_width(1 - LEVEL) / (value * (1 - value))
    return Interval(value, float(special.expit(centre - half)), float(special.expit(centre + half)))


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """How much more accurate the first arm is than the second: images are paired, seeds are not.

    Args:
        first: `[S, N]` bool.
        second: `[S', N]` bool, of the same images.
    """
    value = float(first.mean()) - float(second.mean())
    parts = _parts([first, second], first.mean(0) - second.mean(0))
    # Arms that find the same images hard differ by little but seeds and the interaction. Where all of it is left in the
    # seeds' part, theirs is Student's test; with half of it, identical arms would be called different in 6 % of runs.
    # Few seeds can by luck differ less than their answers on images let them; a quarter of what those say is the least.
    # Half of it or all would make intervals of three seeds hold in 97 or 98 %.
    parts = replace(parts, in_seeds=1.0, least=parts.images / 4)
    half = parts.half_width(1 - LEVEL)
    # Two seeds that differ much know nothing; an accuracy still lies between 0 and 1.
    return Difference(value, max(value - half, -1.0), min(value + half, 1.0), parts.p_value(value))


def _parts(arms: Sequence[np.ndarray], by_image: np.ndarray) -> _Parts:
    """Takes the variance of a mean, or of a difference of means, apart.

    Args:
        arms: `[S, N]` bool each.
        by_image: `[N]`, what the mean is of.
    """
    num_images = len(by_image)
    # At least what one image that went the other way would bring: no image that differed is no proof that none does.
    images = max(float(by_image.var(ddof=1)) / num_images, 1 / num_images**2)
    seeds = [float(right.mean(1).var(ddof=1)) / len(right) for right in arms]
    interaction = sum(_interaction(right) / right.size for right in arms)
    # Welch: as many degrees of freedom as the arms' own estimates add up to.
    spread = sum(part**2 / (len(right) - 1) for part, right in zip(seeds, arms, strict=True))
    degrees = sum(seeds) ** 2 / spread if spread else min(len(right) for right in arms) - 1
    return _Parts(images, sum(seeds), interaction, degrees)


def _interaction(right: np.ndarray) -> float:
    """The variance of a single answer that neither its seed nor its image explains."""
    num_seeds, num_images = right.shape
    mean, by_seed, by_image = right.mean(), right.mean(1), right.mean(0)
    total = mean * (1 - mean) * right.size  # so much is all of it, of zeros and ones
    explained = num_images * ((by_seed - mean) ** 2).sum() + num_seeds * ((by_image - mean) ** 2).sum()
    return float(max(total - explained, 0.0) / ((num_seeds - 1) * (num_images - 1)))


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
