"""torchvision's Inception v3, changed for small images so that the weights published for CIFAR-10 fit."""

from __future__ import annotations

from torch import nn

from kd_tune.models.sizes import check_size


def inception_v3(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """Inception v3: 21,638,954 parameters and 3460.5 M multiply-adds on 3 x 32 x 32 images.

    Changes to torchvision's class: one 3 x 3 convolution of stride 1 to 192 channels replaces the stem of five
    convolutions and two poolings; no auxiliary outputs. Two blocks halve the image without padding, so it needs 7
    pixels a side.
    """
    check_size("inception_v3", image_size, 7)
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = models.inception_v3(weights=None, num_classes=num_classes, aux_logits=False, init_weights=False)
    block = type(network.Conv2d_1a_3x3)  # BasicConv2d: its module cannot be imported by name, a function hides it
    network.Conv2d_1a_3x3 = block(in_channels, 192, kernel_size=3, padding=1)
    for name in ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"):
        setattr(network, name, nn.Identity())
    assert isinstance(network, nn.Module)
    return network
