"""Many students trained in one step: what each would do by itself, up to rounding, in a fraction of the time.

The weights of K students of one shape are the rows of a matrix, which is what gradients are taken of; their losses are
added up, and since no student's loss depends on another's weights, every row's gradient is its own. Rows are made
before an epoch and given back after it, so that who is in a stack may change with every epoch, and what lies on disk
does not tell how a student was trained.

Narrower students lie in the corners of wider ones: the rest of their weights is zero, and as a unit without weights
answers 0 and has no gradient where it answers 0 (ReLU), it stays so.

Students whose next epoch shows them the same images in the same order see one batch; others each their own.

Shapes: K students, B batch, N training images, M validation images, P parameters of a student, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from kd_tune.engine import LAYOUT, Student, arithmetic, autocast, judge, plan_epoch, row_of
from kd_tune.models import Stackable
from kd_tune.objectives import stack_objectives
from kd_tune.records import EpochRow
from kd_tune.rows import Rows
from kd_tune.stacked_optimizers import STACKED_OPTIMIZERS, parameters_of
from kd_tune.trial_data import TrialData


def kind_of(student: Student, data: TrialData) -> Hashable | None:
    """What students must have in common to be trained in one stack; None for one that has to be trained by itself."""
    training = student.training
    shapes = _shapes(student, data)
    if (
        not shapes
        or not getattr(student.objective, "stackable", False)
        or training.transform != "none"
        or data.is_live
        or not data.dataset.resident
    ):
        return None
    common = training.batch_size, training.views, training.precision
    return type(student.network), tuple(shapes.items()), type(student.optimizer), *common


def _shapes(student: Student, data: TrialData) -> dict[str, torch.Size]:
    """The shapes that a student's parameters have in a stack; none if it cannot be in one."""
    network = student.network
    return network.stack_shapes(data.device) if isinstance(network, Stackable) else {}


def images_of(student: Student) -> tuple[int, int]:
    """What students of one kind must have in common for their next epoch to show them the same images."""
    return student.order_seed, student.epoch


def advance_together(students: Sequence[Student], data: TrialData) -> list[EpochRow]:
    """The next epoch of some students of one kind. If it raises, none of them has changed.

    Returns:
        A row for each; its seconds are its share of the stack's.
    """
    began = time.perf_counter()
    # A single group's convolution has another kernel on CPUs, which rounds otherwise: beside a copy of itself a student
    # does bit for bit what it does beside others. That costs a fifth of the time.
    stack = _Stack([*students, *students] if len(students) == 1 else students, data)
    with arithmetic(students[0].training.precision, data.device):
        losses = stack.train_epoch()
        trained = time.perf_counter() - began
        evaluations = [judge(answers, data) for answers in stack.answer()[: len(students)]]
    stack.hand_back()
    share = (time.perf_counter() - began) / len(students)
    rows = []
    for student, parts, evaluation in zip(students, losses, evaluations, strict=False):
        student.epoch += 1
        seconds = trained / len(students)
        rows.append(row_of(student, parts, evaluation, seconds=share, trained=seconds, images=len(data.labels)))
    return rows


class _Stack:
    """Students of one kind in one epoch."""

    def __init__(self, students: Sequence[Student], data: TrialData) -> None:
        self._students = students
        self._data = data
        self._network = cast(Stackable, students[0].network)
        self._rows = Rows(_shapes(students[0], data))
        self._weights = torch.stack([self._rows.pack(parameters_of(one.optimizer)) for one in students])
        self._weights.requires_grad_()
        optimizers = [one.optimizer for one in students]
        self._optimizer = STACKED_OPTIMIZERS[type(optimizers[0])](optimizers, self._rows)
        self._objectives = stack_objectives([one.objective for one in students], data.device)

    def train_epoch(self) -> list[dict[str, float]]:
        """One pass over the training images; the mean of every part of every student's loss."""
        rates = self._rates()
        precision = self._students[0].training.precision
        sums: list[dict[str, Tensor]] = [{} for _ in self._objectives]
        num_images = len(self._data.labels)
        for rate, (images, labels, teacher_logits) in zip(rates, self._batches(), strict=True):
            with autocast(precision, self._data.device):
                logits = self._network.forward_stack(self._rows.by_name(self._weights), images)
            parts = self._losses(logits.float(), labels, teacher_logits)
            self._weights.grad = None
            torch.stack([part.sum() for group in parts for part in group.values()]).sum().backward()
            with torch.no_grad():
                assert self._weights.grad is not None
                self._optimizer.step(self._weights, self._weights.grad, rate)
            for group_sums, group in zip(sums, parts, strict=True):
                for name, part in group.items():
                    group_sums[name] = group_sums.get(name, 0) + part.detach() * (labels.shape[-1] / num_images)
        return self._by_student(sums)

    @torch.inference_mode()
    def answer(self) -> Tensor:
        """Logits `[K, M, C]` for the clean validation images."""
        named = self._rows.by_name(self._weights)
        batches = (self._data.normalise(images).contiguous(memory_format=LAYOUT) for images in self._data.val_batches())
        return torch.cat([self._network.forward_stack(named, images).float() for images in batches], dim=1)

    def hand_back(self) -> None:
        """Gives every student its weights and its optimizer's state."""
        for student, row in zip(self._students, self._weights.detach(), strict=True):
            self._rows.unpack(row, parameters_of(student.optimizer))
        self._optimizer.hand_back()

    def _rates(self) -> Tensor:
        """Every student's learning rate in every step of the epoch, `[steps, K, 1]`; the last is left for its row."""
        num_steps = math.ceil(len(self._data.labels) / self._students[0].training.batch_size)
        rates = [[one.learning_rate(step, num_steps) for one in self._students] for step in range(num_steps)]
        for student, rate in zip(self._students, rates[-1], strict=True):
            student.optimizer.param_groups[0]["lr"] = rate
        return torch.tensor(rates, device=self._data.device).unsqueeze(-1)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Images, labels and the teacher's answers: one batch for all, or, with a leading K, everybody's own."""
        shared = len({images_of(one) for one in self._students}) == 1
        plans = [plan_epoch(one, self._data) for one in (self._students[:1] if shared else self._students)]
        order = torch.stack([order for order, _ in plans])
        views = None if plans[0][1] is None else torch.stack([views for _, views in plans if views is not None])
        with_teacher = any(one.objective.needs_teacher for one in self._students)
        for indices, chosen in _split(order, views, self._students[0].training.batch_size):
            flat = None if chosen is None else chosen.flatten()
            images, labels, logits = self._data.batch(indices.flatten(), flat, with_teacher=with_teacher)
            images = images.contiguous(memory_format=LAYOUT)
            if shared:
                yield images, labels, logits
            else:
                lead = indices.shape
                yield (
                    images.unflatten(0, lead),
                    labels.view(lead),
                    None if logits is None else logits.unflatten(0, lead),
                )

    def _losses(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> list[dict[str, Tensor]]:
        """Every part of every objective, `[k]` for the k students that have it."""
        found = []
        for places, objective in self._objectives:
            mine = [
                tensor[places] if tensor is not None and tensor.ndim == full else tensor
                for tensor, full in ((labels, 2), (teacher_logits, 3))
            ]
            found.append(objective(logits[places], *mine))
        return found

    def _by_student(self, sums: Sequence[Mapping[str, Tensor]]) -> list[dict[str, float]]:
        losses: list[dict[str, float]] = [{} for _ in self._students]
        for (places, _), group in zip(self._objectives, sums, strict=True):
            for name, values in group.items():
                for place, value in zip(places.tolist(), values.tolist(), strict=True):
                    losses[place][name] = value
        return losses


def _split(order: Tensor, views: Tensor | None, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
    """Image numbers and view numbers `[L, N]` in batches `[L, B]`; the last may be smaller."""
    batches = order.split(batch_size, dim=1)
    return zip(batches, [None] * len(batches) if views is None else views.split(batch_size, dim=1), strict=True)
