"""What a network costs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def multiply_adds(network: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of one image in evaluation: of convolutions and matrix products, by torch's own counter.

    Args:
        network: on any device; on the meta device it takes neither memory nor time.
        in_channels: of the image.
        image_size: pixels a side.
    """
    from torch.utils.flop_counter import FlopCounterMode

    was_training = network.training
    device = next(network.parameters()).device
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network.eval()(torch.zeros(1, in_channels, image_size, image_size, device=device))
    finally:
        network.train(was_training)
    return int(counter.get_total_flops()) // 2  # it counts a multiply-add as two operations


def without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device, where a tensor has a shape and no content."""
    with torch.device("meta"):
        return build()
