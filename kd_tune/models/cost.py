"""What a network costs, counted without memory or time for its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def multiply_adds(build: Callable[[], nn.Module], in_channels: int, image_size: int) -> int:
    """Multiply-adds of one image in evaluation: of convolutions and matrix products, by torch's own counter.

    Args:
        build: makes the network; called on the meta device, where a tensor has a shape and no content.
        in_channels: of the image.
        image_size: pixels a side.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode():
        network = build().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, in_channels, image_size, image_size))
    return int(counter.get_total_flops()) // 2  # it counts a multiply-add as two operations
