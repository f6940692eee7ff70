"""The finite set of views of an image: pad-4 crops and mirror images, applied to whole batches on the device.

A view is (flip, dy, dx): mirror the image left to right if `flip`, then move it by `dy` rows and `dx` columns, at most
four of each; what comes in from outside is black. The set is finite so that a teacher can be asked once about every
view of every image that a student will ever see ("consistent teaching", Beyer et al. 2022, arXiv:2106.05237).

Shapes: B batch, C channels, H x W pixels, V views.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SHIFT = 4
_SIDE = 2 * MAX_SHIFT + 1

# Steps of 31 through the 81 shifts, starting at the one that moves nothing: 31 / 81 is close to the golden section, so
# every prefix of the walk is spread evenly over the square, and 31 shares no factor with 81, so all are visited.
_STRIDE = 31


def view_table(flips: bool) -> np.ndarray:
    """All views in their fixed order: the clean image, its mirror image, then shifts.

    The first V rows are what `views: V` means, so a bank of V views is a prefix of one of V + 1. Shifts alternate
    between plain and mirrored; the second half of the table holds each shift's other orientation.

    Args:
        flips: whether a mirrored image keeps its class; without, there are 81 views and none is mirrored.

    Returns:
        `[162, 3]` or `[81, 3]` integers: flip (0 or 1), dy, dx.
    """
    start = _SIDE * _SIDE // 2
    cells = [(start + step * _STRIDE) % (_SIDE * _SIDE) for step in range(1, _SIDE * _SIDE)]
    shifts = [(cell // _SIDE - MAX_SHIFT, cell % _SIDE - MAX_SHIFT) for cell in cells]
    if not flips:
        return np.array([(0, 0, 0)] + [(0, dy, dx) for dy, dx in shifts])
    clean = [(0, 0, 0), (1, 0, 0)]
    first = [(index % 2, dy, dx) for index, (dy, dx) in enumerate(shifts)]
    second = [(1 - flip, dy, dx) for flip, dy, dx in first]
    return np.array(clean + first + second)


def apply_views(images: Tensor, views: Tensor) -> Tensor:
    """Every image's own view.

    Args:
        images: `[B, C, H, W]`, any type.
        views: `[B, 3]` integers, rows of `view_table`, on the images' device.

    Returns:
        `[B, C, H, W]`, the images' type.
    """
    flip, dy, dx = views.unbind(1)
    height, width = images.shape[-2:]
    mirrored = torch.where(flip.bool()[:, None, None, None], images.flip(-1), images)
    windows = F.pad(mirrored, [MAX_SHIFT] * 4).unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 9, 9, H, W], no copy
    batch = torch.arange(len(images), device=images.device)
    return windows[batch, :, MAX_SHIFT - dy, MAX_SHIFT - dx]


def unchanged(images: Tensor) -> Tensor:
    """The views as they are."""
    return images


def trivial_augment(images: Tensor) -> Tensor:
    """One random operation at a random strength for every image (Mueller and Hutter 2021, arXiv:2103.10158).

    Args:
        images: `[B, C, H, W]` uint8.

    Returns:
        The same shape and type. Draws from torch's global generator.
    """
    from torchvision.transforms import v2  # a second or two to load

    augment = v2.TrivialAugmentWide()
    return torch.stack([augment(image) for image in images])


# What may happen to a batch after its views were taken. Endlessly many images come out, so no bank can hold a teacher's
# answers to them: with anything but `none` a teacher has to be live.
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"none": unchanged, "trivial_augment": trivial_augment}
