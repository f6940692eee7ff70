"""torchvision's DenseNets, changed for small images so that the weights published for CIFAR-10 fit.

One change to torchvision's class: the first convolution is 3 x 3 with stride 1 in place of 7 x 7 with stride 2. The max
pool behind it stays. The image is halved four times, so it needs 16 pixels a side.
"""

from __future__ import annotations

from torch import nn

from kd_tune.models.sizes import check_size


def densenet121(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """DenseNet-121: 6,956,426 parameters and 223.4 M multiply-adds on 3 x 32 x 32 images."""
    return _densenet("densenet121", num_classes, in_channels, image_size)


def densenet161(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """DenseNet-161: 26,482,570 parameters and 618.9 M multiply-adds on 3 x 32 x 32 images."""
    return _densenet("densenet161", num_classes, in_channels, image_size)


def densenet169(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """DenseNet-169: 12,493,450 parameters and 266.3 M multiply-adds on 3 x 32 x 32 images."""
    return _densenet("densenet169", num_classes, in_channels, image_size)


def _densenet(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    check_size(name, image_size, 16)
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = getattr(models, name)(weights=None, num_classes=num_classes)
    channels = network.features.conv0.out_channels  # 64; 96 in DenseNet-161
    network.features.conv0 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    assert isinstance(network, nn.Module)
    return network
