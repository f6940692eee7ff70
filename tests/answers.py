"""Answers on test images, made by hand or drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_tune.class_groups import Groups
from kd_tune.predictions import Model, Predictions

NAMES = ("ant", "bee", "cow")
GROUPS: Groups = {"insects": ["ant", "bee"], "cattle": ["cow"]}


def model(name: str, answers: Sequence[Sequence[int]], num_classes: int = 3, median: int = 0) -> Model:
    """One that gives these answers, a row a seed."""
    return Model(name, 5.0 * np.eye(num_classes)[np.asarray(answers)], median)


def by_hand() -> Predictions:
    """Two images of each of three classes; a student with four and five of six right, one that knows all, a teacher."""
    student = model("student", [[0, 1, 1, 1, 2, 0], [0, 0, 1, 2, 2, 2]])
    perfect = model("perfect", [[0, 0, 1, 1, 2, 2]] * 2)
    teacher = model("teacher", [[0, 1, 1, 1, 2, 1]])
    return Predictions(np.array([0, 0, 1, 1, 2, 2]), NAMES, [student, perfect], teacher, GROUPS)


def drawn(
    seed: int, num_models: int = 2, num_seeds: int = 3, num_classes: int = 4, images_a_class: int = 30
) -> Predictions:
    """Some that are better than chance, the first half of the classes in one group and the rest in another."""
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(num_classes), images_a_class)
    names = [f"class {number}" for number in range(num_classes)]
    hints = random.rand(num_classes)[labels][:, None] * 4 * np.eye(num_classes)[labels]

    def logits(seeds: int) -> np.ndarray:
        return np.asarray(hints + random.standard_normal((seeds, len(labels), num_classes)), dtype=np.float32)

    models = [Model(f"model {number}", logits(num_seeds), 1) for number in range(num_models)]
    groups = {"first": names[: num_classes // 2], "second": names[num_classes // 2 :]}
    return Predictions(labels, names, models, Model("teacher", logits(1)), groups)
