"""Other networks that the same weights load into.

A stride and a pooling leave no trace in a state dict, so strict loading cannot tell whether the weights were trained in
this network or in its neighbour. What is listed here is tried when an imported teacher does badly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Variant:
    """A neighbour of one of the TEACHERS.

    Attributes:
        difference: what it has that ours has not, after "a network with".
        change: makes one of ours into it, in place.
    """

    difference: str
    change: Callable[[Any], None]


def _resnet_without_pool(network: Any) -> None:
    network.maxpool = nn.Identity()


def _resnet_stem_stride(network: Any) -> None:
    network.conv1.stride = (2, 2)


def _densenet_without_pool(network: Any) -> None:
    network.features.pool0 = nn.Identity()


def _densenet_stem_stride(network: Any) -> None:
    network.features.conv0.stride = (2, 2)


def _mobilenet_stem_stride(network: Any) -> None:
    network.features[0][0].stride = (2, 2)


def _mobilenet_stock(network: Any) -> None:
    _mobilenet_stem_stride(network)
    network.features[2].conv[1][0].stride = (2, 2)


def _googlenet_stock_pools(network: Any) -> None:
    network.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    network.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)


def _googlenet_stem_stride(network: Any) -> None:
    network.conv1.conv.stride = (2, 2)


def _inception_stem_stride(network: Any) -> None:
    network.Conv2d_1a_3x3.conv.stride = (2, 2)


def _inception_stem_padding(network: Any) -> None:
    network.Conv2d_1a_3x3.conv.padding = (0, 0)


_STEM_STRIDE = "stride 2 in the first convolution, not 1"
_NO_POOL = "no max pool after the first convolution"
_RESNET = (Variant(_NO_POOL, _resnet_without_pool), Variant(_STEM_STRIDE, _resnet_stem_stride))
_DENSENET = (Variant(_NO_POOL, _densenet_without_pool), Variant(_STEM_STRIDE, _densenet_stem_stride))

# VGG's have none: their poolings have no usual alternative, and the last one's size shows in a weight's shape.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "densenet121": _DENSENET,
    "densenet161": _DENSENET,
    "densenet169": _DENSENET,
    "mobilenet_v2": (
        Variant("torchvision's own strides: 2 in the first convolution and in the second group", _mobilenet_stock),
        Variant(_STEM_STRIDE, _mobilenet_stem_stride),
    ),
    "googlenet": (
        Variant("torchvision's own third and fourth max pool", _googlenet_stock_pools),
        Variant(_STEM_STRIDE, _googlenet_stem_stride),
    ),
    "inception_v3": (
        Variant(_STEM_STRIDE, _inception_stem_stride),
        Variant("no padding in the first convolution", _inception_stem_padding),
    ),
}
