"""torchvision's VGG networks, changed for small images so that the weights published for CIFAR-10 fit.

Two changes to torchvision's class: the last pooling goes to 1 x 1, and the first linear layer takes 512 inputs. The
state dicts then have the keys and shapes of huyvnphan/PyTorch_CIFAR10's. Five poolings halve the image, so it needs 32
pixels a side.
"""

from __future__ import annotations

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

    network = getattr(models, name)(weights=None, num_classes=num_classes)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier[0] = nn.Linear(512, 4096)
    if in_channels != 3:
        network.features[0] = nn.Conv2d(in_channels, 64, 3, padding=1)
    assert isinstance(network, nn.Module)
    return network
