"""Confirmations that kept answers to test images, made without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kd_tune.answers import LABELS, LOGITS, TEACHER_LOGITS
from kd_tune.confirmation import ANSWERS, Confirmation
from kd_tune.predictions import Predictions
from tests.confirmations import toy_confirmation


def keep(folder: Path, students: Mapping[str, Predictions]) -> Confirmation:
    """Writes the answers that students' models gave; the confirmation that they are of."""
    toy, first = toy_confirmation(), next(iter(students.values()))
    arms, logits = [], []
    for student, answers in students.items():
        for model in answers.models:
            numbers = [len(logits) + 10 * seed for seed in range(len(model.logits))]
            facts = {"student": student, "arm": model.name, "model": model.name, "trainings": numbers}
            arms.append(toy.arms[0].model_copy(update=facts | {"exported": numbers[model.median]}))
            logits.append(model.logits)
    teacher = {} if first.teacher is None else {TEACHER_LOGITS: first.teacher.logits[0]}
    np.savez(folder / ANSWERS, allow_pickle=False, **{LOGITS: np.stack(logits), LABELS: first.labels}, **teacher)
    facts = {
        "arms": arms,
        "comparisons": [],
        "num_seeds": logits[0].shape[0],
        "num_images": len(first.labels),
        "class_names": list(first.class_names),
        "class_groups": first.groups and {name: list(names) for name, names in first.groups.items()},
        "teacher": None if first.teacher is None else "digits",
    }
    return toy.model_copy(update=facts)
