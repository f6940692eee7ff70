"""Whether a model's confidence is its accuracy: at temperature 1, as a deployed model is asked.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from kd_tune import influence
from kd_tune.influence import LEVEL
from kd_tune.predictions import Model, Predictions

NUM_BINS = 15


@dataclass(frozen=True)
class _Answers:
    """`[S, N]` each.

    Attributes:
        confidence: the probability of the class that was answered.
        right: whether the answer is right.
        bins: the number of the bin of confidence.
    """

    confidence: np.ndarray
    right: np.ndarray
    bins: np.ndarray


def _answers(predictions: Predictions, model: Model) -> _Answers:
    confidence = special.softmax(model.logits.astype(float), axis=-1).max(-1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int), 1, NUM_BINS) - 1
    return _Answers(confidence, predictions.right(model), bins)


def calibration(predictions: Predictions) -> pd.DataFrame:
    """Expected calibration error of one network (Guo et al. 2017, arXiv:1706.04599, eq. 3), a mean over seeds.

    Even a perfect model shows some, because a bin's accuracy is off by chance: `if_calibrated`, from the binomial
    spread of the bins. The error is at most so much too large, the nearer the model is to perfect.

    Returns:
        Columns `model`, `teacher`, `ece`, `low`, `high`, `if_calibrated`, `confidence` (mean), `accuracy`.
    """
    rows = []
    for model in predictions.everyone:
        answers = _answers(predictions, model)
        gap = answers.confidence - answers.right
        # The sum of absolute gaps by bin is a mean over images of the gaps, each with the sign of its bin.
        signed = gap * np.stack([_signs(*of_seed)[of_seed[1]] for of_seed in zip(gap, answers.bins, strict=True)])
        ece = float(signed.mean())
        half = influence.take_apart([signed], unit=1.0).half_width(1 - LEVEL)
        interval = {"ece": ece, "low": max(ece - half, 0.0), "high": min(ece + half, 1.0)}
        means = {"confidence": float(answers.confidence.mean()), "accuracy": float(answers.right.mean())}
        rows.append(predictions.row(model, **interval, if_calibrated=_if_calibrated(answers), **means))
    return pd.DataFrame(rows)


def _signs(gap: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """`[NUM_BINS]`: whether a bin's answers of one seed, `[N]`, are too confident (1) or not confident enough (-1)."""
    return np.sign(np.bincount(bins, weights=gap, minlength=NUM_BINS))


def _if_calibrated(answers: _Answers) -> float:
    """The error's expectation if every answer were right as often as its confidence says."""
    chance = answers.confidence * (1 - answers.confidence)
    spreads = [
        np.sqrt(np.bincount(bins, weights=of_seed, minlength=NUM_BINS))
        for bins, of_seed in zip(answers.bins, chance, strict=True)
    ]
    return float(np.sqrt(2 / np.pi) * np.sum(spreads) / chance.size)  # the mean size of a normal error


def reliability(predictions: Predictions) -> pd.DataFrame:
    """Accuracy of the answers of like confidence, all seeds together.

    Returns:
        Columns `model`, `teacher`, `bin_low`, `bin_high`, `answers` (share of all), `confidence` (mean), `accuracy`,
        `low`, `high`. Bins without answers are left out.
    """
    rows = []
    for model in predictions.everyone:
        answers = _answers(predictions, model)
        for number in np.unique(answers.bins):
            mine = answers.bins == number
            interval = influence.share(answers.right & mine, mine)
            rows.append(
                predictions.row(
                    model,
                    bin_low=number / NUM_BINS,
                    bin_high=(number + 1) / NUM_BINS,
                    answers=float(mine.mean()),
                    confidence=float(answers.confidence[mine].mean()),
                    accuracy=interval.value,
                    low=interval.low,
                    high=interval.high,
                )
            )
    return pd.DataFrame(rows)
