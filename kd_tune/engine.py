"""Training one student: a generator of epochs. Knows nothing of Ray, of runs, or of files.

Everything random in epoch e follows from (seed, e), so a training that goes on from a checkpoint needs no generator's
state and, on a CPU, gives the same numbers bit for bit.

Shapes: B batch, N training images, M validation images, V views, C classes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_tune.augment import apply_views, view_table
from kd_tune.catalog import build_objective, build_optimizer, build_student
from kd_tune.config import TrainingConfig
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.losses import expected_calibration_error
from kd_tune.optimizers import SCHEDULES
from kd_tune.prefetch import prefetched
from kd_tune.records import EpochRow, derive_seed
from kd_tune.soft_targets import Bank

VAL_BATCH = 500
# Images of over 32 x 32 pixels are evaluated in smaller batches, or a network's hidden layers would take gigabytes.
VAL_PIXELS = VAL_BATCH * 32**2
MIN_VAL_BATCH = 32

# Channels-last everywhere: on one CPU core it trains StudentNet 13 % faster and `compact` 47 % faster than the default
# layout, costs nothing at other widths, and GPUs want it for their tensor cores.
LAYOUT = torch.channels_last


class TrialData:
    """A data set and a teacher's answers on a device, shared by all trials of a process.

    Images that are mapped from files stay there: `images` and `val_images` may be larger than memory, and come to the
    device batch by batch, through `read` and `val_batches`.

    Args:
        dataset: the images.
        bank: soft targets of at least as many views as trials will ask for; None without a teacher.
        device: where everything will lie.
    """

    def __init__(self, dataset: Dataset, bank: Bank | None, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        place = device if dataset.resident else torch.device("cpu")
        self.images = _tensor(dataset.train.images).to(place)  # [N, channels, H, W] uint8
        self.labels = torch.from_numpy(dataset.train.labels).to(device)  # [N]
        self.val_images = _tensor(dataset.val.images).to(place)  # [M, channels, H, W] uint8
        self.val_labels = torch.from_numpy(dataset.val.labels).to(device)  # [M]
        self.views = torch.from_numpy(view_table(dataset.flips)).to(device)  # [162 or 81, 3]
        self.teacher_logits = None if bank is None else torch.from_numpy(bank.logits).to(device)  # [V, N, C] float16
        self.val_teacher = None if bank is None else torch.from_numpy(bank.val_logits).to(device).argmax(-1)  # [M]
        mean, std = dataset.normalisation["mean"], dataset.normalisation["std"]
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `[B, channels, H, W]` to float32 of mean 0 and standard deviation 1 over the training images."""
        return torch.addcmul(self._shift, images.float(), self._scale)

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Training images on the device, uint8 `[B, channels, H, W]`; mapped ones are read ahead by a thread.

        Args:
            order: `[N]` image numbers.
            batch_size: B; the last batch may be smaller.
        """
        if self.dataset.resident:
            return (self.images[indices] for indices in order.split(batch_size))
        return prefetched(map(self._fetch, order.cpu().split(batch_size)))

    def val_batches(self) -> Iterator[Tensor]:
        """The validation images on the device, uint8 `[B, channels, H, W]`."""
        batch_size = min(VAL_BATCH, max(MIN_VAL_BATCH, VAL_PIXELS // self.dataset.image_size**2))
        return (images.to(self.device) for images in torch.split(self.val_images, batch_size))

    def batch(
        self, indices: Tensor, views: Tensor | None, pixels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Training images as the student sees them, their labels, and the teacher's answers to those very views.

        Args:
            indices: `[B]` image numbers.
            views: `[B]` view numbers; None: the clean image.
            pixels: these images as `read` gives them; None: they are fetched now.

        Returns:
            Normalised images `[B, channels, H, W]`, labels `[B]`, teacher logits `[B, C]` float32 or None.
        """
        images = next(self.read(indices, len(indices))) if pixels is None else pixels
        if views is not None:
            images = apply_views(images, self.views[views])
        logits = None
        if self.teacher_logits is not None:
            logits = (self.teacher_logits[0, indices] if views is None else self.teacher_logits[views, indices]).float()
        return self.normalise(images), self.labels[indices], logits

    def _fetch(self, indices: Tensor) -> Tensor:
        """Mapped training images, brought to the device."""
        self.dataset.train.announce(indices.tolist())
        return self.images[indices].to(self.device)


class Evaluation(NamedTuple):
    """A student on the validation images; `EpochRow` says what each figure is."""

    accuracy: float
    loss: float
    agreement: float
    ece: float


@dataclass(frozen=True)
class State:
    """What a checkpoint keeps beside the row: the live network and optimizer, valid until the next epoch starts."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


def train(
    trial: Mapping[str, Any], data: TrialData, seed: int, resume: tuple[int, Any] | None = None
) -> Iterator[tuple[EpochRow, State]]:
    """Trains a student, yielding after every epoch; ends after the last one, or when the loss is no longer finite.

    Args:
        trial: a trial's config, without ranges.
        data: images and soft targets on the device.
        seed: of first weights, order and views.
        resume: the epochs done, and a function that loads that checkpoint into (network, optimizer).

    Raises:
        ConfigError: the trial does not fit the data.
    """
    training = TrainingConfig.model_validate(trial["training"])
    check_fit(training, data.dataset)
    objective = build_objective(trial["objective"])
    if objective.needs_teacher and data.teacher_logits is None:
        raise ConfigError(f"{trial['objective']['name']} needs a teacher; add trial.teacher")
    with _seeded(derive_seed(seed, "weights"), data.device):
        network = build_student(trial["student"], data.dataset)
    network.to(data.device).to(memory_format=LAYOUT)
    optimizer = build_optimizer(trial["optimizer"], network)
    peak_lr = optimizer.param_groups[0]["lr"]
    start = 0
    if resume is not None:
        start, load = resume
        load(network, optimizer)
    for epoch in range(start + 1, training.num_epochs + 1):
        began = time.perf_counter()
        with _seeded(derive_seed(seed, "epoch", epoch), data.device):
            losses = _train_epoch(network, optimizer, objective, data, training, epoch, seed, peak_lr)
        trained = time.perf_counter() - began
        val = evaluate(network, data)
        total = sum(losses.values())
        row = EpochRow(
            epoch=epoch,
            train_loss=total,
            train_loss_parts=losses,
            learning_rate=optimizer.param_groups[0]["lr"],
            seconds=time.perf_counter() - began,
            images_per_second=len(data.labels) / trained,
            num_parameters=count_parameters(network),
            diverged=not (math.isfinite(total) and math.isfinite(val.loss)),
            val_accuracy=val.accuracy,
            val_loss=val.loss,
            val_agreement=val.agreement,
            val_ece=val.ece,
        )
        yield row, State(network, optimizer)
        if row.diverged:
            return


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


@torch.inference_mode()
def evaluate(network: nn.Module, data: TrialData) -> Evaluation:
    """Accuracy, loss, agreement with the teacher and calibration on the clean validation images."""
    network.eval()
    batches = (data.normalise(images).contiguous(memory_format=LAYOUT) for images in data.val_batches())
    logits = torch.cat([network(images).float() for images in batches])
    prediction = logits.argmax(-1)
    agreement = math.nan if data.val_teacher is None else float((prediction == data.val_teacher).double().mean())
    return Evaluation(
        accuracy=float((prediction == data.val_labels).double().mean()),
        loss=float(F.cross_entropy(logits, data.val_labels)),
        agreement=agreement,
        ece=expected_calibration_error(logits, data.val_labels),
    )


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Any,
    data: TrialData,
    training: TrainingConfig,
    epoch: int,
    seed: int,
    peak_lr: float,
) -> dict[str, float]:
    """One pass over the training images; returns the mean of every part of the loss."""
    network.train()
    schedule = SCHEDULES[training.schedule]
    order, views = _plan_epoch(len(data.labels), training.views, derive_seed(seed, "order", epoch))
    order = order.to(data.device)
    views = None if views is None else views.to(data.device)
    steps_an_epoch = math.ceil(len(order) / training.batch_size)
    num_steps = steps_an_epoch * training.num_epochs
    half = training.precision == "bfloat16" and data.device.type == "cuda"
    sums: dict[str, Tensor] = {}
    for step, pixels in enumerate(data.read(order, training.batch_size)):
        chosen = slice(step * training.batch_size, (step + 1) * training.batch_size)
        images, labels, teacher_logits = data.batch(order[chosen], None if views is None else views[chosen], pixels)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=half):
            logits = network(images.contiguous(memory_format=LAYOUT))
        parts = objective(logits.float(), labels, teacher_logits)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * schedule(((epoch - 1) * steps_an_epoch + step) / num_steps)
        optimizer.step()
        for name, part in parts.items():
            sums[name] = sums.get(name, torch.zeros((), device=data.device)) + part.detach() * len(labels)
    return {name: float(value) / len(order) for name, value in sums.items()}


def _plan_epoch(num_images: int, num_views: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """The order of the images in an epoch, and each one's view number; drawn on the CPU, so equal on every device."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_images, generator=generator)
    if num_views == 1:
        return order, None
    return order, torch.randint(num_views, (num_images,), generator=generator)


def _tensor(images: np.ndarray) -> Tensor:
    """An array as a tensor, without a copy. Of one that is mapped read-only torch warns; nobody here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators (first weights, dropout) and gives them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
