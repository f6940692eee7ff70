"""Why an imported teacher does badly: its weights are tried with the usual mistakes undone, one at a time.

Shapes: M validation images, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from scipy.optimize import linear_sum_assignment

from kd_tune.data import Dataset
from kd_tune.models.published import MEAN, OLDER_VGG_STD, STD
from kd_tune.models.variants import VARIANTS, Variant
from kd_tune.progress import progress
from kd_tune.teacher import Normalisation, Teacher, predict

TRIED_ON = 500  # validation images: a gain of 3 to 4 points is told from chance, in a minute for most networks
MIN_GAIN = 0.02  # below it, a cause is no explanation
MIN_Z = 4.0  # standard errors of the difference on the same images; some ten causes are tried
BATCH = 100
CHANCE_ERRORS = 3.0  # standard errors above chance that a teacher must reach: one guesser in 700 does


@dataclass(frozen=True)
class Cause:
    """A mistake that explains a low accuracy.

    Attributes:
        text: what is wrong and what to do.
        accuracy: without the mistake, 0 to 1.
        before: with it, on the same images.
        num_images: how many those are.
    """

    text: str
    accuracy: float
    before: float
    num_images: int

    def __str__(self) -> str:
        return f"{self.text} ({self.accuracy:.1%} in place of {self.before:.1%} on {self.num_images} validation images)"


@dataclass(frozen=True)
class Chance:
    """What a guesser gets right on some images: always the commonest class.

    Attributes:
        accuracy: its share of them, 0 to 1.
        error: the standard error of that.
    """

    accuracy: float
    error: float

    def explains(self, accuracy: float) -> bool:
        """Whether a guesser could have got so many right."""
        return accuracy <= self.accuracy + CHANCE_ERRORS * self.error


def chance_of(labels: np.ndarray) -> Chance:
    """What a guesser gets right on images with these labels `[M]`."""
    commonest = float(np.bincount(labels).max() / len(labels))
    return Chance(commonest, math.sqrt(commonest * (1 - commonest) / len(labels)))


def diagnose(
    teacher: Teacher, dataset: Dataset, predictions: np.ndarray, device: torch.device, console: Console
) -> Cause | None:
    """The usual mistake that, undone, helps most; None if none of them explains anything.

    Args:
        teacher: the one in question.
        dataset: its validation images are used.
        predictions: `[M]`, the class that the teacher names for each validation image.
        device: where to compute.
        console: shows progress.
    """
    causes = _class_order(predictions, dataset)
    chosen = _shuffled(len(dataset.val))[:TRIED_ON]
    images, before = dataset.val.take(chosen), predictions[chosen]
    trials = list(_alternatives(teacher, dataset))
    with progress(console, "trying the usual mistakes") as advance:
        for number, (text, other) in enumerate(trials, start=1):
            causes += _cause(text, predict(other, images, device, BATCH), before, images.labels)
            advance(number, len(trials))
    return max(causes, key=lambda cause: cause.accuracy, default=None)


def _class_order(predictions: np.ndarray, dataset: Dataset) -> list[Cause]:
    """Another order of the classes, if it fits better: found on one half of the images, judged on the other."""
    labels, names = dataset.val.labels, dataset.class_names
    found_on, judged_on = np.array_split(_shuffled(len(labels)), 2)
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (predictions[found_on], labels[found_on]), 1)
    order = linear_sum_assignment(confusion, maximize=True)[1]  # the teacher's class i is the data set's order[i]
    listed = ", ".join(names[index] for index in order)
    text = f"wrong class order: the weights' classes seem to be, in this order, {listed}; reorder the last layer's rows"
    return _cause(text, order[predictions[judged_on]], predictions[judged_on], labels[judged_on])


def _cause(text: str, after: np.ndarray, before: np.ndarray, labels: np.ndarray) -> list[Cause]:
    """The cause, if undoing it helps by more than chance would: McNemar's test on the images that change sides."""
    mended, broken = (
        int(((after == labels) & (before != labels)).sum()),
        int(((after != labels) & (before == labels)).sum()),
    )
    gain = (mended - broken) / len(labels)
    if gain < MIN_GAIN or mended - broken < MIN_Z * math.sqrt(mended + broken):
        return []
    return [Cause(text, float((after == labels).mean()), float((before == labels).mean()), len(labels))]


def _shuffled(num_images: int) -> np.ndarray:
    """Image numbers in a random order that is always the same: files are often sorted by class."""
    return np.random.RandomState(0).permutation(num_images)


def _alternatives(teacher: Teacher, dataset: Dataset) -> Iterator[tuple[str, Teacher]]:
    """The teacher with another normalisation, then with other strides and poolings; made when they are asked for."""
    for name, normalisation in _normalisations(dataset).items():
        if normalisation != teacher.record.normalisation:
            record = teacher.record.model_copy(update={"normalisation": normalisation})
            mean, std = (",".join(f"{value:.6g}" for value in part) for part in (normalisation.mean, normalisation.std))
            text = f"wrong normalisation: the weights expect {name}; import them with --mean {mean} --std {std}"
            yield text, replace(teacher, record=record)
    for variant in _variants(teacher):
        network = copy.deepcopy(teacher.network)
        variant.change(network)
        name = teacher.record.architecture["name"]
        text = (
            f"wrong stride or pooling: the weights expect a {name} with {variant.difference}; "
            "kd_tune's is another network, which needs other weights"
        )
        yield text, replace(teacher, network=network)


def _variants(teacher: Teacher) -> tuple[Variant, ...]:
    return VARIANTS.get(teacher.record.architecture["name"], ())


def _normalisations(dataset: Dataset) -> dict[str, Normalisation]:
    channels = dataset.in_channels
    usual = {
        "the data set's own": (dataset.normalisation["mean"], dataset.normalisation["std"]),
        "mean 0.5 and deviation 0.5": ([0.5] * channels, [0.5] * channels),
        "pixels from 0 to 1": ([0.0] * channels, [1.0] * channels),
        "pixels from 0 to 255": ([0.0] * channels, [1 / 255] * channels),
    }
    if channels == 3:
        usual |= {
            "the published CIFAR-10 teachers'": (list(MEAN), list(STD)),
            "CIFAR-10's mean and older deviations": (list(MEAN), list(OLDER_VGG_STD)),
            "ImageNet's": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        }
    return {name: Normalisation(mean=mean, std=std) for name, (mean, std) in usual.items()}
