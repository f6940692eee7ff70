"""How close a student's accuracies by class come to its teacher's: their correlation over classes.

The classes are given, not drawn from others: the figure is of these. Measured accuracies are off by chance, and noise
in either makes a correlation smaller, the more the fewer images a class has; a model whose seeds differ more would be
called less like its teacher. So noise is taken off (Spearman 1904), with its size from images and seeds, and the
interval's ends are corrected as the estimate is (Hunter & Schmidt 2004, chapter 3). `benchmarks/class_profiles.md`: it
holds the truth in 95 to 99 % of runs, without the correction in 25 to 96 %. Percentiles of a crossed bootstrap hold it
in 0 to 90 %: every drawn profile has noise twice.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from kd_tune import influence
from kd_tune.influence import LEVEL, Interval
from kd_tune.predictions import Predictions, adjusted

FEWEST_CLASSES = 3  # two points always lie on a line


@dataclass(frozen=True)
class _Closeness:
    """One model's.

    Attributes:
        observed: correlation of the measured profiles.
        corrected: for noise; NaN if a profile's differences between classes are no larger than its noise.
        reliability: what the noise leaves of a correlation; NaN likewise.
        student: `[S, N]`, influence of every answer on `observed`.
        teacher: `[1, N]`, likewise.
        unit: what one answer can move its influence by.
    """

    observed: float
    corrected: float
    reliability: float
    student: np.ndarray
    teacher: np.ndarray
    unit: float

    @property
    def interval(self) -> Interval:
        """On Fisher's scale, where a correlation near 1 cannot pass it; all there is if nothing is known."""
        if math.isnan(self.corrected):
            return Interval(math.nan, -1.0, 1.0)
        shrunken = self.corrected * self.reliability
        if abs(shrunken) >= 1:
            return Interval(self.corrected, self.corrected, self.corrected)
        parts = influence.take_apart([self.student, self.teacher], self.unit)
        half = parts.half_width(1 - LEVEL) / (1 - shrunken**2)
        ends = (math.tanh(math.atanh(shrunken) + sign * half) / self.reliability for sign in (-1, 1))
        low, high = (min(max(end, -1.0), 1.0) for end in ends)
        return Interval(self.corrected, low, high)


def closeness(predictions: Predictions) -> pd.DataFrame:
    """Correlation of each student's accuracies by class with the teacher's.

    Returns:
        Columns `model`, `observed` (of the measured profiles, as a single study would report it),
        `correlation` (corrected for noise), `low`, `high`. Where noise hides the profile: NaN, -1 and 1. Empty without
        a teacher, or with fewer than three classes.

    Raises:
        ConfigError: a class has too few test images.
    """
    rows = []
    for model, found in _of_models(predictions).items():
        facts = {"observed": found.observed, "correlation": found.corrected}
        interval = found.interval
        rows.append({"model": model, **facts, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def closeness_differences(predictions: Predictions) -> pd.DataFrame:
    """Whether one model's profile is closer to the teacher's than another's.

    Returns:
        Columns `first`, `second`, `difference` (of corrected correlations), `low`, `high`, `p_value`, `p_holm` (over
        all pairs). Pairs with a profile that noise hides are left out.
    """
    known = {name: found for name, found in _of_models(predictions).items() if not math.isnan(found.corrected)}
    rows = []
    for (name, one), (other_name, other) in itertools.combinations(known.items(), 2):
        student, other_student = one.student / one.reliability, -other.student / other.reliability
        teacher = one.teacher / one.reliability - other.teacher / other.reliability
        unit = max(one.unit / one.reliability, other.unit / other.reliability)
        value = one.corrected - other.corrected
        found = asdict(influence.difference(value, [student, other_student, teacher], unit, largest=2.0))
        rows.append({"first": name, "second": other_name, "difference": found.pop("value"), **found})
    return adjusted(rows)


def _of_models(predictions: Predictions) -> dict[str, _Closeness]:
    """By model; none where profiles cannot be compared."""
    if predictions.teacher is None or len(predictions.class_names) < FEWEST_CLASSES:
        return {}
    predictions.check_every_class()
    teacher = predictions.right(predictions.teacher)[0].astype(float)
    return {
        model.name: _compare(predictions.right(model).astype(float), teacher, predictions.labels)
        for model in predictions.models
    }


def _compare(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> _Closeness:
    """The correlation of two profiles, from `[S, N]` and `[N]` of zeros and ones."""
    counts = np.bincount(labels)
    members = np.eye(len(counts))[labels]  # [N, C]
    profile, other = student.sum(0) @ members / (len(student) * counts), teacher @ members / counts
    centred, other_centred = profile - profile.mean(), other - other.mean()
    squares = np.array([centred @ centred, other_centred @ other_centred])
    if not np.ptp(profile) or not np.ptp(other):  # as accurate on every class: nothing to correlate
        return _Closeness(math.nan, math.nan, math.nan, student, teacher[None], 1.0)
    lengths = np.sqrt(squares)
    observed = float(centred @ other_centred / lengths.prod())
    by_class = (other_centred / lengths[1] - observed * centred / lengths[0]) / lengths[0]
    by_other = (centred / lengths[0] - observed * other_centred / lengths[1]) / lengths[1]
    weights = len(labels) / counts
    *noise, shared = _noise(student, teacher, labels, members)
    true = squares - noise
    known = bool((true > 0).all())
    corrected = float((centred @ other_centred - shared) / np.sqrt(true.prod())) if known else math.nan
    return _Closeness(
        observed,
        corrected=min(max(corrected, -1.0), 1.0) if known else math.nan,
        reliability=float(np.sqrt((true / squares).prod())) if known else math.nan,
        student=(weights * by_class)[labels] * (student - profile[labels]),
        teacher=((weights * by_other)[labels] * (teacher - other[labels]))[None],
        unit=float(np.abs(weights * by_class).max()),
    )


def _noise(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """What chance adds to the sums over classes of the student's profile squared, the teacher's, and their product."""
    num_seeds, counts = len(student), np.bincount(labels)
    by_image, by_seed = student.mean(0), student @ members / counts
    profile = by_seed.mean(0)
    left, other_left = by_image - profile[labels], teacher - (teacher @ members / counts)[labels]
    # Of a variance from image to image, of the interaction, which a seed's profile also holds: it is counted once.
    interaction = (
        ((student - by_image - by_seed[:, labels] + profile[labels]) ** 2).sum(0) / (num_seeds - 1) / num_seeds
    )
    of_images = np.stack([left**2 - interaction, other_left**2, left * other_left]) @ members / counts / (counts - 1)
    centring = 1 - 1 / len(counts)  # the mean over classes takes its share of what is independent from class to class
    seeds = by_seed - profile
    seeds = seeds - seeds.mean(1, keepdims=True)
    noise = of_images.sum(1) * centring
    noise[0] = max(noise[0] + (seeds**2).sum() / (num_seeds - 1) / num_seeds, 0.0)
    return np.asarray(noise)
