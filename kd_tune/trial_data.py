"""A data set and a teacher's answers on a device: the batches that a student is trained on.

Shapes: B batch, N training images, M validation images, V views, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from kd_tune.augment import apply_views, unchanged, view_table
from kd_tune.data import Dataset
from kd_tune.prefetch import prefetched
from kd_tune.soft_targets import Bank
from kd_tune.teacher import Answers, Teacher, evaluation_batch

Transform = Callable[[Tensor], Tensor]

INITIAL_PIXELS = 5000 * 32**2


def best_device() -> torch.device:
    """The fastest device of this process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TrialData:
    """A data set and a teacher's answers on a device, shared by all trials of a process.

    Images that are mapped from files stay there: `images` and `val_images` may be larger than memory, and come to the
    device batch by batch, through `read` and `val_batches`.

    Args:
        dataset: the images.
        bank: soft targets of at least as many views as trials will ask for; None without a teacher, or with a live one.
        device: where everything will lie.
        live: a teacher that is asked in every step.
    """

    def __init__(self, dataset: Dataset, bank: Bank | None, device: torch.device, live: Teacher | None = None) -> None:
        self.dataset = dataset
        self.device = device
        place = device if dataset.resident else torch.device("cpu")
        self.images = _tensor(dataset.train.images).to(place)  # [N, channels, H, W] uint8
        self.labels = torch.from_numpy(dataset.train.labels).to(device)  # [N]
        self.val_images = _tensor(dataset.val.images).to(place)  # [M, channels, H, W] uint8
        self.val_labels = torch.from_numpy(dataset.val.labels).to(device)  # [M]
        self.views = torch.from_numpy(view_table(dataset.flips)).to(device)  # [162 or 81, 3]
        self.teacher_logits = None if bank is None else _tensor(bank.logits).to(device)  # [V, N, C] float16
        self._live = None if live is None else Answers(live, device)
        self.val_teacher = self._val_teacher(bank)  # [M] class numbers, or None without a teacher
        mean, std = dataset.normalisation["mean"], dataset.normalisation["std"]
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)

    @property
    def has_teacher(self) -> bool:
        return self.teacher_logits is not None or self._live is not None

    @property
    def is_live(self) -> bool:
        """Whether the teacher is asked in every step."""
        return self._live is not None

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
        batch_size = evaluation_batch(self.dataset.image_size)
        return (images.to(self.device) for images in torch.split(self.val_images, batch_size))

    def first_images(self) -> Tensor:
        """Some normalised training images `[B, channels, H, W]`, for networks whose first weights follow from them."""
        count = INITIAL_PIXELS // self.dataset.image_size**2
        return self.normalise(self.images[:count].to(self.device))

    def batch(
        self,
        indices: Tensor,
        views: Tensor | None,
        pixels: Tensor | None = None,
        transform: Transform = unchanged,
        with_teacher: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Training images as the student sees them, their labels, and the teacher's answers to those very images.

        Args:
            indices: `[B]` image numbers.
            views: `[B]` view numbers; None: the clean image.
            pixels: these images as `read` gives them; None: they are fetched now.
            transform: what happens to the views; a bank knows nothing of it.
            with_teacher: whether the teacher's answers are wanted.

        Returns:
            Normalised images `[B, channels, H, W]`, labels `[B]`, teacher logits `[B, C]` float32 or None.
        """
        images = next(self.read(indices, len(indices))) if pixels is None else pixels
        if views is not None:
            images = apply_views(images, self.views[views])
        images = transform(images)
        logits = None
        if with_teacher and self._live is not None:
            logits = self._live(images)
        elif with_teacher and self.teacher_logits is not None:
            logits = (self.teacher_logits[0, indices] if views is None else self.teacher_logits[views, indices]).float()
        return self.normalise(images), self.labels[indices], logits

    def _fetch(self, indices: Tensor) -> Tensor:
        """Mapped training images, brought to the device."""
        self.dataset.train.announce(indices.tolist())
        return self.images[indices].to(self.device)

    def _val_teacher(self, bank: Bank | None) -> Tensor | None:
        if bank is not None:
            return torch.from_numpy(bank.val_logits).to(self.device).argmax(-1)
        if self._live is None:
            return None
        return torch.cat([self._live(images).argmax(-1) for images in self.val_batches()])


def _tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor, without a copy. Of one that is mapped read-only torch warns; nobody here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
