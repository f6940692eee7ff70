"""torchvision's MobileNetV2, changed for small images so that the weights published for CIFAR-10 fit."""

from __future__ import annotations

from torch import nn

from kd_tune.models.sizes import check_size

# Expansion, channels, blocks and stride of each group, as in torchvision, but for the second one's stride: 1, not 2.
GROUPS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenet_v2(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """MobileNetV2: 2,236,682 parameters and 88.0 M multiply-adds on 3 x 32 x 32 images.

    Two changes to torchvision's class: the first convolution and the second group have stride 1. No weight has another
    shape for it, so the stock class loads the same weights, and computes something else. The image is halved three
    times, so it needs 8 pixels a side.
    """
    check_size("mobilenet_v2", image_size, 8)
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = models.mobilenet_v2(weights=None, num_classes=num_classes, inverted_residual_setting=GROUPS)
    network.features[0][0] = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
    assert isinstance(network, nn.Module)
    return network
