"""The student of the study that kd_tune starts from: two convolutions and three linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd_tune.models.sizes import check_size

KERNEL = 5
SMALLEST = 16  # pixels a side: one is left after both poolings

# CPUs compute 16 channels as fast as 6, so narrow students cost a stack of this width no more than they would cost by
# themselves; wider ones, which fill a CPU's vectors, are trained faster one by one (`benchmarks/stacked.md`).
WIDEST_ON_CPU = 1.0


class StudentNet(nn.Module):
    """conv 5x5, ReLU, pool 2; conv 5x5, ReLU, pool 2; linear, ReLU; linear, ReLU; linear.

    At width 1 on 3 x 32 x 32 images and 10 classes: 6, 16, 120 and 84 hidden units, 62,006 parameters, 0.652 M
    multiply-adds an image.

    Args:
        num_classes: logits.
        in_channels: 1 for grey, 3 for colour.
        image_size: pixels a side, at least 16.
        width: multiplies every hidden layer, which keeps at least one unit.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        check_size("studentnet", image_size, SMALLEST)
        self._images = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        side = _after_pool(_after_pool(image_size))
        c1, c2, f1, f2 = (max(1, round(units * width)) for units in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, c1, KERNEL)
        self.conv2 = nn.Conv2d(c1, c2, KERNEL)
        self.fc1 = nn.Linear(c2 * side * side, f1)
        self.fc2 = nn.Linear(f1, f2)
        self.fc3 = nn.Linear(f2, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        # The maximum commutes with ReLU: pooling first gives the same numbers from a quarter of the ReLUs.
        hidden = self.relu(self.pool(self.conv1(images)))
        hidden = self.relu(self.pool(self.conv2(hidden)))
        hidden = self.relu(self.fc1(hidden.flatten(1)))
        hidden = self.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits

    def stack_shapes(self, device: torch.device) -> dict[str, torch.Size]:
        """What parameters are padded to in a stack (`models.Stackable`)."""
        if device.type != "cpu":
            return _shapes(self)
        with torch.device("meta"):
            widest = StudentNet(**self._images, width=WIDEST_ON_CPU)
        return _shapes(widest) if self.conv1.out_channels <= widest.conv1.out_channels else {}

    def forward_stack(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The same for K students at once (`models.Stackable`), who lie side by side as groups of channels.

        Images that all of them see make the first convolution a dense one, from 3 channels to 6 K, which is what CPUs
        are fast at.
        """
        count = len(weights["fc3.bias"])
        own = images.ndim == 5
        hidden = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last) if own else images
        for name, groups in (("conv1", count if own else 1), ("conv2", count)):
            kernel, bias = weights[f"{name}.weight"].flatten(0, 1), weights[f"{name}.bias"].flatten()
            hidden = self.relu(self.pool(F.conv2d(hidden, kernel, bias, groups=groups)))
        hidden = hidden.unflatten(1, (count, -1)).flatten(2).transpose(0, 1)  # [K, B, units]
        for name in ("fc1", "fc2", "fc3"):
            hidden = torch.baddbmm(weights[f"{name}.bias"][:, None], hidden, weights[f"{name}.weight"].transpose(1, 2))
            hidden = hidden if name == "fc3" else self.relu(hidden)
        return hidden


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def _after_pool(side: int) -> int:
    return (side - KERNEL + 1) // 2
