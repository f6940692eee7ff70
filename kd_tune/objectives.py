"""OBJECTIVES: what a trial names as its loss.

An objective is a frozen dataclass of its hyperparameters. Called with logits it returns its weighted parts by name;
the loss is their sum, and every part is logged. `alpha` always weighs the teacher's term. Shapes are those of `losses`.

`stackable` ones take tensors `[K]` for their numbers, and then serve K students in one call (`stack_objectives`).

`inert` says what, at its present hyperparameters, changes neither the loss nor its gradient by a single bit: names of
its hyperparameters, and `TEACHER` for the teacher's answers. A search takes trials that differ only there for one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from kd_tune import losses

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]

TEACHER = "teacher"


class Objective(Protocol):
    """What the engine asks of an objective.

    Attributes:
        version: raised whenever the formula changes; stored with every result.
        needs_teacher: whether `teacher_logits` is used.
    """

    version: ClassVar[int]
    needs_teacher: ClassVar[bool]

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class MixedTarget:
    """The study's loss: `losses.mixed_target_parts`.

    Attributes:
        alpha: weight of the teacher's answer in the target, 0 to 1.
        temperature: softens teacher and student alike, above 0.
        scale: factor on the whole loss: 1, T or T^2. With `none` the gradient fades with T, so that temperature and
            learning rate are one knob under SGD.
    """

    alpha: Share = 0.5
    temperature: Temperature = 4.0
    scale: Literal["none", "T", "T2"] = "none"
    version: ClassVar[int] = 1
    stackable: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        assert teacher_logits is not None
        parts = losses.mixed_target_parts(student_logits, teacher_logits, labels, self.alpha, self.temperature)
        factor = {"none": 1.0, "T": self.temperature, "T2": self.temperature**2}[self.scale]
        return {name: factor * part for name, part in parts.items()}

    def inert(self) -> set[str]:
        """At alpha 0 not the temperature: it rescales the student's logits, and with them the gradient."""
        return ({TEACHER} if self.alpha == 0 else set()) | ({"scale"} if self.temperature == 1 else set())


@dataclass(frozen=True)
class Hinton:
    """Hinton's two-term loss: `losses.hinton_parts`.

    Attributes:
        alpha: weight of the teacher's term, 0 to 1.
        temperature: softens teacher and student in the teacher's term, above 0.
    """

    alpha: Share = 0.9
    temperature: Temperature = 4.0
    version: ClassVar[int] = 1
    stackable: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        assert teacher_logits is not None
        return losses.hinton_parts(student_logits, teacher_logits, labels, self.alpha, self.temperature)

    def inert(self) -> set[str]:
        return {TEACHER, "temperature"} if self.alpha == 0 else set()


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with the labels: the control without a teacher."""

    version: ClassVar[int] = 1
    stackable: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        return {"hard": losses.hard_loss(student_logits, labels)}

    def inert(self) -> set[str]:
        return {TEACHER}


@dataclass(frozen=True)
class LabelSmoothing:
    """Cross entropy with smoothed labels: the control whose teacher knows nothing.

    Attributes:
        smoothing: share of the target spread evenly over all classes, 0 to 1.
    """

    smoothing: Share = 0.1
    version: ClassVar[int] = 1
    stackable: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        return losses.label_smoothing_parts(student_logits, labels, self.smoothing)

    def inert(self) -> set[str]:
        return {TEACHER}


def stack_objectives(objectives: Sequence[Any], device: torch.device) -> list[tuple[Tensor, Any]]:
    """Stackable objectives as few: those that differ in nothing but numbers become one, whose numbers are tensors.

    Returns:
        Objectives, each with the places `[k]` of those that it stands for.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, objective in enumerate(objectives):
        settings = [(key, value) for key, value in vars(objective).items() if not _is_number(value)]
        groups.setdefault((type(objective), *settings), []).append(place)
    return [
        (torch.tensor(places, device=device), _with_tensors([objectives[place] for place in places], device))
        for places in groups.values()
    ]


def _with_tensors(objectives: Sequence[Any], device: torch.device) -> Any:
    """One objective for several that differ in their numbers."""
    numbers = [key for key, value in vars(objectives[0]).items() if _is_number(value)]
    columns = {key: torch.tensor([float(getattr(one, key)) for one in objectives], device=device) for key in numbers}
    return replace(objectives[0], **columns)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "mixed_target": MixedTarget,
    "hinton": Hinton,
    "cross_entropy": CrossEntropy,
    "label_smoothing": LabelSmoothing,
}
