"""OBJECTIVES: what a trial names as its loss.

An objective is a frozen dataclass of its hyperparameters. Called with logits it returns its weighted parts by name;
the loss is their sum, and every part is logged. `alpha` always weighs the teacher's term. Shapes are those of `losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor

from kd_tune import losses

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


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
    needs_teacher: ClassVar[bool] = True

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        assert teacher_logits is not None
        parts = losses.mixed_target_parts(student_logits, teacher_logits, labels, self.alpha, self.temperature)
        factor = {"none": 1.0, "T": self.temperature, "T2": self.temperature**2}[self.scale]
        return {name: factor * part for name, part in parts.items()}


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
    needs_teacher: ClassVar[bool] = True

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        assert teacher_logits is not None
        return losses.hinton_parts(student_logits, teacher_logits, labels, self.alpha, self.temperature)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with the labels: the control without a teacher."""

    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = False

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        return {"hard": losses.hard_loss(student_logits, labels)}


@dataclass(frozen=True)
class LabelSmoothing:
    """Cross entropy with smoothed labels: the control whose teacher knows nothing.

    Attributes:
        smoothing: share of the target spread evenly over all classes, 0 to 1.
    """

    smoothing: Share = 0.1
    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = False

    def __call__(self, student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> dict[str, Tensor]:
        return losses.label_smoothing_parts(student_logits, labels, self.smoothing)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "mixed_target": MixedTarget,
    "hinton": Hinton,
    "cross_entropy": CrossEntropy,
    "label_smoothing": LabelSmoothing,
}
