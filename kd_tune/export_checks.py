"""Whether an exported student answers as the trained one did, and how far its confidence can be believed.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import optimize, special

from kd_tune.data import Dataset
from kd_tune.export_formats import Run, Student, answers, in_torch
from kd_tune.losses import expected_calibration_error
from kd_tune.teacher import evaluation_batch

# Largest difference between a float format's logits and torch's that is put down to rounding, as a share of the largest
# logit (at least of 1). At logits of 30, torch was 0.6e-5 away from float64 and 1.1e-5 from onnxruntime.
TOLERANCE = 1e-5
# The same between torch here and the device that the student was trained on, by `training.precision`.
TRAINED = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}
RANDOM_IMAGES = 256
CALIBRATION_IMAGES = 512
MOST_PIXELS, FEWEST_IMAGES = 10_000 * 32**2, 2_000  # of the validation images that formats are tested on
ONE_POINT = 0.01


class SelfTestFailed(Exception):  # noqa: N818 - it says what is the case
    """What was exported does not answer as it should."""


@dataclass(frozen=True)
class Samples:
    """Images of the run's data that an export is tested and calibrated on.

    Attributes:
        val_images: `[N, channels, H, W]` uint8.
        val_labels: `[N]`.
        num_val: how many validation images there are; N where all are taken.
        train_images: for the ranges of int8, uint8.
    """

    val_images: np.ndarray
    val_labels: np.ndarray
    num_val: int
    train_images: np.ndarray

    @property
    def all_of_them(self) -> bool:
        return len(self.val_labels) == self.num_val

    @property
    def words(self) -> str:
        """Which images, for a person."""
        which = "all" if self.all_of_them else f"{len(self.val_labels):,} of"
        return f"{which} {self.num_val:,} validation images"


def samples_of(dataset: Dataset) -> Samples:
    """All validation images, or as many random ones of large images as are soon answered; and some training images."""
    random = np.random.default_rng(0)
    most = max(FEWEST_IMAGES, MOST_PIXELS // dataset.image_size**2)
    val = np.sort(random.permutation(len(dataset.val))[:most])
    train = np.sort(random.permutation(len(dataset.train))[:CALIBRATION_IMAGES])
    return Samples(
        np.ascontiguousarray(dataset.val.images[val]),
        dataset.val.labels[val],
        len(dataset.val),
        np.ascontiguousarray(dataset.train.images[train]),
    )


@dataclass(frozen=True)
class Yardstick:
    """What a student answers in torch, which its formats are compared with.

    Attributes:
        images: `[N, channels, H, W]` uint8.
        labels: `[N]`; None for random images.
        logits: `[N, C]`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    logits: np.ndarray

    @property
    def batch_size(self) -> int:
        return evaluation_batch(self.images.shape[-1])

    @property
    def accuracy(self) -> float | None:
        """On the images; None without labels."""
        return self.accuracy_of(self.logits)

    def accuracy_of(self, logits: np.ndarray) -> float | None:
        return None if self.labels is None else float((logits.argmax(-1) == self.labels).mean())


def yardstick_of(student: Student, samples: Samples | None, shape: Mapping[str, int]) -> Yardstick:
    """The student's answers in torch to validation images, or to random ones where the data are not at hand."""
    if samples is None:
        size = (RANDOM_IMAGES, shape["in_channels"], shape["image_size"], shape["image_size"])
        images, labels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8), None
    else:
        images, labels = samples.val_images, samples.val_labels
    return Yardstick(images, labels, answers(in_torch(student), images, evaluation_batch(shape["image_size"])))


def check_is_trained_one(yardstick: Yardstick, samples: Samples, record: Mapping[str, Any]) -> None:
    """Compares the student's accuracy with the one that its training ended with.

    They may differ by the images whose two largest logits lie so close together that rounding decides.

    Args:
        yardstick: the student's answers.
        samples: the images; nothing is compared where they are not all validation images.
        record: of the checkpoint.

    Raises:
        SelfTestFailed: they differ by more.
    """
    if not samples.all_of_them or yardstick.accuracy is None:
        return
    tolerance = TRAINED[record["trial"].get("training", {}).get("precision", "float32")]
    recorded, count = record["row"]["val_accuracy"], len(yardstick.images)
    close = _num_close(yardstick.logits, tolerance)
    if not abs(recorded - yardstick.accuracy) * count <= close + 0.5:
        raise SelfTestFailed(
            f"validation accuracy {yardstick.accuracy:.2%}, but its training ended with {recorded:.2%}, and rounding "
            f"explains {close} of {count:,} images"
        )


def _num_close(logits: np.ndarray, tolerance: float) -> int:
    """Images whose answer may change if every logit changes by a share of the largest one."""
    second, first = np.partition(logits, -2, axis=-1)[:, -2:].T
    return int((first - second <= 2 * tolerance * _scale(logits)).sum())


def _scale(logits: np.ndarray) -> float:
    return max(1.0, float(np.abs(logits).max()))


def check_format(run: Run, yardstick: Yardstick, is_float: bool) -> dict[str, Any]:
    """Compares a format's logits and accuracy with those in torch.

    Args:
        run: the format.
        yardstick: the answers in torch.
        is_float: whether its logits are to be those in torch but for rounding.

    Returns:
        What `config.json` says of it.

    Raises:
        SelfTestFailed: they differ by more than they may, or are no numbers.
    """
    logits = answers(run, yardstick.images, yardstick.batch_size)
    run_once = run(np.zeros((1, *yardstick.images.shape[1:]), np.float32))
    if logits.shape != yardstick.logits.shape or run_once.shape != (1, logits.shape[1]):
        raise SelfTestFailed(f"its logits are {logits.shape}, but torch's {yardstick.logits.shape}; please report this")
    difference = float(np.abs(logits - yardstick.logits).max())
    limit = TOLERANCE * _scale(yardstick.logits) if is_float else np.inf
    if not (difference <= limit and np.isfinite(difference)):  # so that NaN is refused
        raise SelfTestFailed(f"its logits differ from torch's by {difference:.1e}; please report this")
    found = {"largest_difference_from_torch": difference, "largest_logit": float(np.abs(yardstick.logits).max())}
    found["same_answers"] = float((logits.argmax(-1) == yardstick.logits.argmax(-1)).mean())
    accuracy = yardstick.accuracy_of(logits)
    return found if accuracy is None else found | {"val_accuracy": accuracy}


def calibrate(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Temperature scaling (Guo et al. 2017, arXiv:1706.04599, eq. 9): probabilities are softmax(logits / temperature).

    The temperature is the one with the least negative log-likelihood, which is convex in its inverse.

    Args:
        logits: `[N, C]`.
        labels: `[N]`.

    Returns:
        `temperature`, and `nll` (a mean, in nats) and `ece` (15 bins) of these images before and after. Where every
        answer is right the likelihood only grows as the temperature falls; then it is 1, and `problem` says so.
    """
    rows, wide = np.arange(len(labels)), logits.astype(np.float64)

    def nll(log_temperature: float) -> float:
        return float(-special.log_softmax(wide / np.exp(log_temperature), axis=-1)[rows, labels].mean())

    def ece(temperature: float) -> float:
        return expected_calibration_error(torch.from_numpy(wide / temperature), torch.from_numpy(labels))

    before = {"nll_before": nll(0.0), "ece_before": ece(1.0)}
    if (logits.argmax(-1) == labels).all():
        return {"temperature": 1.0, "problem": "every answer is right, which no temperature can fit", **before}
    best = optimize.minimize_scalar(nll, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    temperature = float(np.exp(best.x))
    return {"temperature": temperature, **before, "nll_after": nll(best.x), "ece_after": ece(temperature)}
