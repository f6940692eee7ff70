"""torchvision's VGG networks, changed for small images so that the weights published for CIFAR-10 fit."""

from __future__ import annotations

from torch import nn


def vgg13_bn(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """VGG-13 with batch norm: 28,334,410 parameters and 247.2 M multiply-adds on 3 x 32 x 32 images.

    Two changes to torchvision's class: the last pooling goes to 1 x 1, and the first linear layer takes 512 inputs. The
    state dict then has the keys and shapes of huyvnphan/PyTorch_CIFAR10's `vgg13_bn`.
    """
    if image_size < 32:
        raise ValueError(f"vgg13_bn needs images of at least 32 x 32 pixels, not {image_size}")
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = models.vgg13_bn(weights=None, num_classes=num_classes)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier[0] = nn.Linear(512, 4096)
    if in_channels != 3:
        network.features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    assert isinstance(network, nn.Module)
    return network
