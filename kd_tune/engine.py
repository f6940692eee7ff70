"""Training a student by itself, epoch by epoch. Knows nothing of Ray, of runs, or of files.

Everything random in epoch e follows from two seeds and e, the order of the images and their views from the one that a
search's trials share, so a training that goes on from a checkpoint needs no generator's state and, on a CPU, gives the
same numbers bit for bit.

Shapes: B batch, N training images, M validation images, V views, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_tune.augment import view_table
from kd_tune.catalog import build_objective, build_optimizer, build_student, find_transform
from kd_tune.config import TrainingConfig
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.losses import expected_calibration_error
from kd_tune.models import StartsFromImages
from kd_tune.models.cost import multiply_adds
from kd_tune.objectives import Objective
from kd_tune.optimizers import SCHEDULES
from kd_tune.records import EpochRow, derive_seed
from kd_tune.trial_data import TrialData

# Channels-last everywhere: on one CPU core it trains StudentNet 13 % faster and `compact` 47 % faster than the default
# layout, costs nothing at other widths, and GPUs want it for their tensor cores.
LAYOUT = torch.channels_last


class Evaluation(NamedTuple):
    """A student on the validation images; `EpochRow` says what each figure is."""

    accuracy: float
    loss: float
    agreement: float
    ece: float
    accuracy_even: float
    accuracy_odd: float


@dataclass
class Student:
    """A student in training.

    Attributes:
        trial: its config, without ranges.
        training: that section of it.
        objective: its loss.
        network: live.
        optimizer: live, over the network's parameters.
        peak_lr: the learning rate that the schedule's factor is applied to.
        seed: of first weights, and of what a network draws in training.
        order_seed: of the order of images and of views.
        multiply_adds: for one image.
        epoch: epochs done.
    """

    trial: Mapping[str, Any]
    training: TrainingConfig
    objective: Objective
    network: nn.Module
    optimizer: torch.optim.Optimizer
    peak_lr: float
    seed: int
    order_seed: int
    multiply_adds: int
    epoch: int = 0

    def learning_rate(self, step: int, steps_an_epoch: int) -> float:
        """The rate of a step, from 0, of the epoch that comes."""
        done = self.epoch * steps_an_epoch + step
        return self.peak_lr * SCHEDULES[self.training.schedule](done / (steps_an_epoch * self.training.num_epochs))


def enrol(trial: Mapping[str, Any], data: TrialData, seed: int, order_seed: int | None = None) -> Student:
    """A student before its first epoch.

    Args:
        trial: a trial's config, without ranges.
        data: images and soft targets on the device.
        seed: of first weights, and of what a network draws in training.
        order_seed: of the order of images and of views; None: the same.

    Raises:
        ConfigError: the trial does not fit the data.
    """
    training = TrainingConfig.model_validate(trial["training"])
    check_fit(training, data.dataset)
    objective = build_objective(trial["objective"], data.dataset)
    if objective.needs_teacher and not data.has_teacher:
        raise ConfigError(f"{trial['objective']['name']} needs a teacher; add trial.teacher")
    with _seeded(derive_seed(seed, "weights"), data.device):
        network = build_student(trial["student"], data.dataset)
        cost = multiply_adds(network, data.dataset.in_channels, data.dataset.image_size)
    network.to(data.device).to(memory_format=LAYOUT)
    if isinstance(network, StartsFromImages):
        network.initialise_from(data.first_images())
    optimizer = build_optimizer(trial["optimizer"], network)
    return Student(
        trial=trial,
        training=training,
        objective=objective,
        network=network,
        optimizer=optimizer,
        peak_lr=optimizer.param_groups[0]["lr"],
        seed=seed,
        order_seed=seed if order_seed is None else order_seed,
        multiply_adds=cost,
    )


def train(trial: Mapping[str, Any], data: TrialData, seed: int) -> Iterator[tuple[EpochRow, Student]]:
    """Trains a student by itself, yielding after every epoch; ends after the last one, or when it has diverged.

    Args:
        trial: a trial's config, without ranges.
        data: images and soft targets on the device.
        seed: of first weights, of order and views, and of what a network draws in training.

    Raises:
        ConfigError: the trial does not fit the data.
    """
    student = enrol(trial, data, seed)
    while student.epoch < student.training.num_epochs:
        row = advance(student, data)
        yield row, student
        if row.diverged:
            return


def advance(student: Student, data: TrialData) -> EpochRow:
    """A student's next epoch."""
    began = time.perf_counter()
    with arithmetic(student.training.precision, data.device):
        with _seeded(derive_seed(student.seed, "epoch", student.epoch + 1), data.device):
            losses = _train_epoch(student, data)
        trained = time.perf_counter() - began
        val = judge(answer(student.network, data), data)
    student.epoch += 1
    return row_of(student, losses, val, seconds=time.perf_counter() - began, trained=trained, images=len(data.labels))


def row_of(
    student: Student, losses: dict[str, float], val: Evaluation, seconds: float, trained: float, images: int
) -> EpochRow:
    """What is told of an epoch that a student has just done.

    Args:
        student: after it.
        losses: the mean of every part of its loss.
        val: on the validation images.
        seconds: of training and validation.
        trained: of these, seconds spent training.
        images: trained.
    """
    total = sum(losses.values())
    return EpochRow(
        epoch=student.epoch,
        train_loss=total,
        train_loss_parts=losses,
        learning_rate=student.optimizer.param_groups[0]["lr"],
        seconds=seconds,
        images_per_second=images / trained,
        num_parameters=count_parameters(student.network),
        multiply_adds=student.multiply_adds,
        diverged=not (math.isfinite(total) and math.isfinite(val.loss)),
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        val_agreement=val.agreement,
        val_ece=val.ece,
        val_accuracy_even=val.accuracy_even,
        val_accuracy_odd=val.accuracy_odd,
    )


def check_fit(training: TrainingConfig, dataset: Dataset) -> None:
    """Raises ConfigError if a trial asks for views or batches that its data set does not have."""
    problems = []
    num_views = len(view_table(dataset.flips))
    if training.views > num_views:
        without = "" if dataset.flips else " (a mirrored image would be another class)"
        problems.append(f"trial.training.views: {dataset.name} has {num_views} views{without}, not {training.views}")
    if training.batch_size > len(dataset.train):
        problems.append(
            f"trial.training.batch_size: {training.batch_size} is more than the {len(dataset.train)} training images"
        )
    if problems:
        raise ConfigError(problems)


def rehearse(trial: Mapping[str, Any], dataset: Dataset) -> None:
    """One forward and backward pass over two black images: what is wrong with the user's own code shows before Ray.

    Raises:
        ConfigError: the student or the objective does not do what it must.
    """
    objective = build_objective(trial["objective"], dataset)
    student, loss = trial["student"]["name"], trial["objective"]["name"]
    if objective.needs_teacher and "teacher" not in trial:
        raise ConfigError(f"{loss} needs a teacher; add trial.teacher")
    images = torch.zeros(2, dataset.in_channels, dataset.image_size, dataset.image_size)
    teacher_logits = torch.zeros(2, dataset.num_classes) if objective.needs_teacher else None
    with _seeded(0, torch.device("cpu")):
        logits = _attempt(student, lambda: build_student(trial["student"], dataset)(images))
        if not isinstance(logits, Tensor) or logits.shape != (2, dataset.num_classes):
            given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(
                f"{student} must answer images {list(images.shape)} with logits [2, {dataset.num_classes}], not {given}"
            )
        parts = _attempt(loss, lambda: objective(logits, torch.zeros(2, dtype=torch.long), teacher_logits))
        if not isinstance(parts, dict) or any(not isinstance(part, Tensor) or part.ndim for part in parts.values()):
            raise ConfigError(f"{loss} must return a dict of scalar tensors: its weighted parts by name")
        _attempt(loss, lambda: torch.stack(list(parts.values())).sum().backward())


def _attempt(name: str, call: Callable[[], Any]) -> Any:
    """What the user's code returns; whatever it raises, as an error of the configuration that named it."""
    try:
        return call()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{name} failed on two black images: {type(error).__name__}: {error}") from error


def judge(logits: Tensor, data: TrialData) -> Evaluation:
    """Accuracy, loss, agreement with the teacher and calibration of answers `[M, C]` to the clean validation images."""
    prediction = logits.argmax(-1)
    agreement = math.nan if data.val_teacher is None else float((prediction == data.val_teacher).double().mean())
    right = (prediction == data.val_labels).double()
    return Evaluation(
        accuracy=float(right.mean()),
        loss=float(F.cross_entropy(logits, data.val_labels)),
        agreement=agreement,
        ece=expected_calibration_error(logits, data.val_labels),
        accuracy_even=float(right[::2].mean()),
        accuracy_odd=float(right[1::2].mean()),
    )


@torch.inference_mode()
def answer(network: nn.Module, data: TrialData) -> Tensor:
    """Logits `[M, C]` for the clean validation images."""
    network.eval()
    batches = (data.normalise(images).contiguous(memory_format=LAYOUT) for images in data.val_batches())
    return torch.cat([network(images).float() for images in batches])


def count_parameters(network: nn.Module) -> int:
    """Parameters, learnt and fixed."""
    return sum(parameter.numel() for parameter in network.parameters())


def _train_epoch(student: Student, data: TrialData) -> dict[str, float]:
    """One pass over the training images; returns the mean of every part of the loss."""
    network, optimizer, training = student.network.train(), student.optimizer, student.training
    transform = find_transform(training.transform)
    order, views = plan_epoch(student, data)
    num_steps = math.ceil(len(order) / training.batch_size)
    sums: dict[str, Tensor] = {}
    for step, pixels in enumerate(data.read(order, training.batch_size)):
        chosen = slice(step * training.batch_size, (step + 1) * training.batch_size)
        images, labels, teacher_logits = data.batch(
            order[chosen],
            None if views is None else views[chosen],
            pixels,
            transform,
            student.objective.needs_teacher,
        )
        with autocast(training.precision, data.device):
            logits = network(images.contiguous(memory_format=LAYOUT))
        parts = student.objective(logits.float(), labels, teacher_logits)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = student.learning_rate(step, num_steps)
        optimizer.step()
        for name, part in parts.items():
            sums[name] = sums.get(name, torch.zeros((), device=data.device)) + part.detach() * len(labels)
    return {name: float(value) / len(order) for name, value in sums.items()}


def plan_epoch(student: Student, data: TrialData) -> tuple[Tensor, Tensor | None]:
    """The order of the images in a student's next epoch, and each one's view number.

    Drawn on the CPU, so that it is equal on every device.

    Returns:
        `[N]` image numbers and `[N]` view numbers on the device; None for views where all are the clean image.
    """
    num_images, num_views = len(data.labels), student.training.views
    generator = torch.Generator().manual_seed(derive_seed(student.order_seed, "order", student.epoch + 1))
    order = torch.randperm(num_images, generator=generator).to(data.device)
    if num_views == 1:
        return order, None
    return order, torch.randint(num_views, (num_images,), generator=generator).to(data.device)


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Lets a GPU round the factors of float32 products to TF32 for the length of the body, or forbids it.

    PyTorch by itself allows it for convolutions alone, whatever the precision.

    Args:
        precision: `TrainingConfig.precision`.
        device: where the body computes.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Has the body's products computed in bfloat16, if that is the precision and a GPU computes them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16" and device.type == "cuda")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators (first weights, dropout) and gives them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
