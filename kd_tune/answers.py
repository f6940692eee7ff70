"""The answers to test images that a confirmation keeps, read back. Neither torch nor Ray is loaded.

Shapes: M rows of `Confirmation.arms` (models at students), S seeds, N test images, C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_tune.confirmation import ANSWERS, Confirmation
from kd_tune.errors import ConfigError
from kd_tune.predictions import Model, Predictions

LOGITS, LABELS, TEACHER_LOGITS = "logits", "labels", "teacher_logits"


def read(folder: Path, confirmed: Confirmation) -> list[tuple[str, Predictions]]:
    """What the models of each student answered, for every student that has at least two to compare.

    Args:
        folder: the confirmation's.
        confirmed: what it found.

    Returns:
        Students in words, in the confirmation's order, each with its models' answers and the teacher's.

    Raises:
        ConfigError: the answers are damaged, or those of something else.
    """
    arrays = _load(folder / ANSWERS)
    if problem := _misfit(arrays, confirmed):
        raise ConfigError(
            f"{folder / ANSWERS}: does not fit the confirmation beside it: {problem}; "
            "put the right file back, or delete it for a report without these answers"
        )
    found = []
    for student in students_of(confirmed):
        models = [
            Model(arm.model, logits, arm.trainings.index(arm.exported))
            for arm, logits in zip(confirmed.arms, arrays[LOGITS], strict=True)
            if arm.student == student
        ]
        if len(models) > 1:
            teacher = _teacher(arrays, confirmed)
            answers = Predictions(arrays[LABELS], confirmed.class_names, models, teacher, confirmed.class_groups)
            found.append((student, answers))
    return found


def students_of(confirmed: Confirmation) -> list[str]:
    """A confirmation's students in words, each once."""
    return list(dict.fromkeys(arm.student for arm in confirmed.arms))


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # left to numpy, it may stay open
            return dict(archive)
    except Exception as error:  # numpy, zipfile, zlib and tokenize all raise their own on a damaged file
        raise ConfigError(
            f"{path}: cannot be read: {error}; put the right file back, or delete it for a report without these answers"
        ) from None


def _misfit(arrays: dict[str, np.ndarray], confirmed: Confirmation) -> str:
    """Why these cannot be the answers of a confirmation; empty if they can."""
    num_images, num_classes = confirmed.num_images, len(confirmed.class_names)
    expected: dict[str, tuple[int, ...]] = {
        LOGITS: (len(confirmed.arms), confirmed.num_seeds, num_images, num_classes),
        LABELS: (num_images,),
    }
    if confirmed.teacher is not None:
        expected[TEACHER_LOGITS] = (num_images, num_classes)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        return f"it holds arrays of shapes {shapes}, expected {expected}"
    labels = arrays[LABELS]
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= num_classes:
        return f"labels must be whole numbers from 0 to {num_classes - 1}"
    return ""


def _teacher(arrays: dict[str, np.ndarray], confirmed: Confirmation) -> Model | None:
    """Called so that it stands apart from a model of the same name."""
    if confirmed.teacher is None:
        return None
    return Model(f"teacher {confirmed.teacher}", arrays[TEACHER_LOGITS][None])
