"""torchvision's VGG networks, changed for small images so that the weights published for CIFAR-10 fit.

Two changes to torchvision's class: the last pooling goes to 1 x 1, and the first linear layer takes 512 inputs. The
state dicts then have the keys and shapes of huyvnphan/PyTorch_CIFAR10's. Five poolings halve the image, so it needs 32
pixels a side.
"""

from __future__ import annotations

import torch
from torch import nn

from kd_tune.models.sizes import check_size


def vgg11_bn(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """VGG-11 with batch norm: 28,149,514 parameters and 171.7 M multiply-adds on 3 x 32 x 32 images."""
    return _vgg("vgg11_bn", num_classes, in_channels, image_size)


def vgg13_bn(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """VGG-13 with batch norm: 28,334,410 parameters and 247.2 M multiply-adds on 3 x 32 x 32 images."""
    return _vgg("vgg13_bn", num_classes, in_channels, image_size)


def vgg16_bn(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """VGG-16 with batch norm: 33,646,666 parameters and 332.1 M multiply-adds on 3 x 32 x 32 images."""
    return _vgg("vgg16_bn", num_classes, in_channels, image_size)


def vgg19_bn(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """VGG-19 with batch norm: 38,958,922 parameters and 417.0 M multiply-adds on 3 x 32 x 32 images."""
    return _vgg("vgg19_bn", num_classes, in_channels, image_size)


def _vgg(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    check_size(name, image_size, 32)
    from torchvision import models  # a second or two to load; most trials have no need of it

    with torch.device("meta"):  # the stock class's first linear layer alone would take 411 MB and most of a second
        network = getattr(models, name)(weights=None, num_classes=num_classes)
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier[0] = nn.Linear(512, 4096)
        network.features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    assert isinstance(network, nn.Module)
    network.to_empty(device=torch.get_default_device())
    network.apply(_initialise)
    return network


def _initialise(module: nn.Module) -> None:
    """First weights as torchvision's class draws them."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
