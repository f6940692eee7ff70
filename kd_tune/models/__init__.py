"""STUDENTS and TEACHERS: a file per family, a line per network.

Every entry is called with `num_classes`, `in_channels` and `image_size`, which the data set supplies, and with its own
arguments, which a search file may set; all have defaults. It returns a module from images `[B, C, H, W]` to logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kd_tune.models.compact import compact, digits
from kd_tune.models.densenet import densenet121, densenet161, densenet169
from kd_tune.models.googlenet import googlenet
from kd_tune.models.inception import inception_v3
from kd_tune.models.mobilenet import mobilenet_v2
from kd_tune.models.resnet import resnet18, resnet34, resnet50
from kd_tune.models.studentnet import StudentNet
from kd_tune.models.vgg import vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn


@runtime_checkable
class StartsFromImages(Protocol):
    """A network whose first weights follow from the training images; the engine calls this once, before training."""

    def initialise_from(self, images: Tensor) -> None:
        """Sets first weights from normalised training images `[B, C, H, W]`."""


@runtime_checkable
class Stackable(Protocol):
    """A network of which many can be trained in one step: it draws nothing at random, and learns by gradients alone."""

    def stack_shapes(self, device: torch.device) -> dict[str, torch.Size]:
        """What its parameters are padded to with zeros in a stack, by name; none where a stack does not pay.

        The zeros must change neither answers nor gradients, and must have no gradient themselves.
        """

    def forward_stack(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """What K networks answer.

        Args:
            weights: `[K, ...]` by parameter name, padded; the module's own are not used.
            images: `[B, C, H, W]`, which all of them see, or `[K, B, C, H, W]`, each its own.

        Returns:
            Logits `[K, B, classes]`.
        """


STUDENTS: dict[str, Callable[..., nn.Module]] = {"studentnet": StudentNet}
TEACHERS: dict[str, Callable[..., nn.Module]] = {
    "compact": compact,
    "digits": digits,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "densenet161": densenet161,
    "densenet169": densenet169,
    "mobilenet_v2": mobilenet_v2,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
}
