"""What an export is tested by: the temperature, the images that rounding may flip, and the images that are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

from kd_tune.data import Dataset
from kd_tune.export_checks import SelfTestFailed, Yardstick, calibrate, check_is_trained_one, samples_of


def test_the_temperature_is_the_one_that_labels_were_drawn_with() -> None:
    """Labels drawn from softmax(logits / 2.5): at 20,000 images the estimate is within a few hundredths."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=4.0, size=(20_000, 5))
    odds = special.softmax(logits / 2.5, axis=-1).cumsum(-1)
    labels = (random.random((20_000, 1)) > odds).sum(-1).clip(max=4)
    found = calibrate(logits, labels)
    assert found["temperature"] == pytest.approx(2.5, abs=0.08)
    assert found["nll_after"] < found["nll_before"]
    assert found["ece_after"] < 0.02 < found["ece_before"]


def test_two_answers_of_like_confidence_have_the_temperature_that_makes_it_their_accuracy() -> None:
    """Four images with logits (2, 0), three answered right: softmax((2, 0) / T) is 3/4 at T = 2 / ln 3."""
    found = calibrate(np.tile([2.0, 0.0], (4, 1)), np.array([0, 0, 0, 1]))
    assert found["temperature"] == pytest.approx(2 / np.log(3), rel=1e-3)
    assert found["ece_after"] == pytest.approx(0.0, abs=1e-3)


def test_where_every_answer_is_right_no_temperature_is_made_up() -> None:
    found = calibrate(np.array([[3.0, 0.0], [0.0, 3.0]]), np.array([0, 1]))
    assert found["temperature"] == 1.0
    assert "every answer is right" in found["problem"]


def yardstick(logits: list[list[float]], labels: list[int]) -> Yardstick:
    return Yardstick(np.zeros((len(labels), 1, 4, 4), np.uint8), np.array(labels), np.array(logits))


def record(val_accuracy: float, precision: str = "float32") -> dict[str, Any]:
    return {"trial": {"training": {"precision": precision}}, "row": {"val_accuracy": val_accuracy}}


@pytest.mark.parametrize(
    ("gap", "precision", "passes"),
    [(1e-4, "float32", True), (1e-2, "float32", False), (1e-2, "tf32", True), (0.5, "bfloat16", False)],
)
def test_an_image_more_or_less_is_explained_only_by_two_logits_close_together(
    gap: float, precision: str, passes: bool, toy_dataset: Dataset
) -> None:
    """Two of 12 images' accuracy: here both are right, in training one was wrong."""
    samples = samples_of(toy_dataset)
    logits = [[1.0, 1.0 - gap], *[[1.0, -1.0]] * 11]
    ours = yardstick(logits, [0] * 12)
    assert ours.accuracy == 1.0
    if passes:
        check_is_trained_one(ours, samples, record(11 / 12, precision))
    else:
        with pytest.raises(SelfTestFailed, match=r"100.00%, but its training ended with 91.67%, .* explains 0 of 12"):
            check_is_trained_one(ours, samples, record(11 / 12, precision))


def test_of_large_images_a_part_is_taken_and_said(toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert samples_of(toy_dataset).words == "all 12 validation images"
    monkeypatch.setattr("kd_tune.export_checks.FEWEST_IMAGES", 5)
    monkeypatch.setattr("kd_tune.export_checks.MOST_PIXELS", 0)
    some = samples_of(toy_dataset)
    assert some.words == "5 of 12 validation images"
    assert not some.all_of_them
    check_is_trained_one(yardstick([[1.0, 0.0]] * 5, [0] * 5), some, record(0.2))  # of other images, so not compared
