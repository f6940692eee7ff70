"""Calibration: the error by hand, and as training reports it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from kd_tune import calibration, losses
from kd_tune.predictions import Model, Predictions
from tests.answers import drawn


def sure(confidences: list[float], labels: list[int]) -> Predictions:
    """Two trainings that answer class 0 with these probabilities."""
    probabilities = np.array([[one, 1 - one] for one in confidences])
    model = Model("model", np.repeat(np.log(probabilities)[None], 2, 0))
    return Predictions(np.array(labels), ("yes", "no"), [model])


def test_calibration_by_hand() -> None:
    """Of four answers three at 90 %, two of them right, and one at 60 %, which is right."""
    answers = sure([0.9, 0.9, 0.9, 0.6] * 2, [0, 0, 1, 0] * 2)
    row = calibration.calibration(answers).iloc[0]
    assert row["ece"] == pytest.approx(0.75 * abs(0.9 - 2 / 3) + 0.25 * abs(0.6 - 1))
    assert (row["confidence"], row["accuracy"]) == pytest.approx((0.825, 0.75))


def test_reliability_by_hand() -> None:
    """Bins of a fifteenth: 60 % is the last of the ninth."""
    table = calibration.reliability(sure([0.9, 0.9, 0.9, 0.6] * 2, [0, 0, 1, 0] * 2))
    assert list(table["bin_low"] * 15) == pytest.approx([8, 13])
    assert list(table["bin_high"] * 15) == pytest.approx([9, 14])
    assert list(table["answers"]) == pytest.approx([0.25, 0.75])
    assert list(table["confidence"]) == pytest.approx([0.6, 0.9])
    assert list(table["accuracy"]) == pytest.approx([1, 2 / 3])


@given(some.integers(0, 10_000))
def test_the_error_is_the_one_that_training_reports(seed: int) -> None:
    answers = drawn(seed)
    table = calibration.calibration(answers).set_index("model")
    for model in answers.everyone:
        logits, labels = torch.from_numpy(model.logits.astype(float)), torch.from_numpy(answers.labels)
        expected = [losses.expected_calibration_error(of_seed, labels, calibration.NUM_BINS) for of_seed in logits]
        assert table["ece"][model.name] == pytest.approx(np.mean(expected))


def test_a_calibrated_model_shows_the_error_that_is_stated_beside_it() -> None:
    """Labels drawn from the model's own probabilities, 40 times."""
    random = np.random.RandomState(0)
    logits = 2 * random.standard_normal((3000, 5))
    probabilities = torch.softmax(torch.from_numpy(logits), -1).numpy()
    errors, stated = [], []
    for _ in range(40):
        labels = (random.random_sample((3000, 1)) > probabilities.cumsum(1)).sum(1).clip(max=4)
        model = Model("model", np.stack([logits, logits]))
        row = calibration.calibration(Predictions(labels, list("abcde"), [model])).iloc[0]
        errors.append(row["ece"])
        stated.append(row["if_calibrated"])
    assert np.mean(errors) == pytest.approx(np.mean(stated), rel=0.08)  # two standard errors


def test_an_interval_of_a_large_error_holds_what_all_images_would_show() -> None:
    """Too confident by 20 points: every answer at 80 %, of which 60 % are right; seeds scatter by two points."""
    random, runs, held = np.random.RandomState(1), 400, 0
    labels = np.repeat([0, 1], 300)
    for _ in range(runs):
        rates = 0.6 + 0.02 * random.standard_normal((4, 1))
        wrong = random.random_sample((4, 600)) > rates
        logits = np.log(4) * np.eye(2)[labels ^ wrong]
        row = calibration.calibration(Predictions(labels, ("a", "b"), [Model("model", logits)])).iloc[0]
        held += row["low"] <= 0.2 <= row["high"]
    assert 0.93 - 0.02 < held / runs < 0.98 + 0.01
