"""torchvision's ResNets, changed for small images so that the weights published for CIFAR-10 fit.

One change to torchvision's class: the first convolution is 3 x 3 with stride 1 in place of 7 x 7 with stride 2. The max
pool behind it stays: without it the same weights load too, and compute something else. The image is halved four times,
so it needs 16 pixels a side.
"""

from __future__ import annotations

from torch import nn

from kd_tune.models.sizes import check_size


def resnet18(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """ResNet-18: 11,173,962 parameters and 140.2 M multiply-adds on 3 x 32 x 32 images."""
    return _resnet("resnet18", num_classes, in_channels, image_size)


def resnet34(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """ResNet-34: 21,282,122 parameters and 291.2 M multiply-adds on 3 x 32 x 32 images."""
    return _resnet("resnet34", num_classes, in_channels, image_size)


def resnet50(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """ResNet-50: 23,520,842 parameters and 325.8 M multiply-adds on 3 x 32 x 32 images."""
    return _resnet("resnet50", num_classes, in_channels, image_size)


def _resnet(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    check_size(name, image_size, 16)
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = getattr(models, name)(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    assert isinstance(network, nn.Module)
    return network
