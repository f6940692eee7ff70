"""torchvision's GoogLeNet, changed for small images so that the weights published for CIFAR-10 fit."""

from __future__ import annotations

from torch import nn

from kd_tune.models.sizes import check_size


def googlenet(num_classes: int = 10, in_channels: int = 3, image_size: int = 32) -> nn.Module:
    """GoogLeNet: 5,490,986 parameters and 1337.1 M multiply-adds on 3 x 32 x 32 images.

    Changes to torchvision's class: one 3 x 3 convolution of stride 1 to 192 channels replaces the stem of three
    convolutions and two poolings; the two poolings that are left have a window of 3 and padding; no auxiliary outputs.
    The image is halved twice, so it needs 4 pixels a side.
    """
    check_size("googlenet", image_size, 4)
    from torchvision import models  # a second or two to load; most trials have no need of it

    network = models.googlenet(weights=None, num_classes=num_classes, aux_logits=False, init_weights=False)
    block = type(network.conv1)  # BasicConv2d: its module cannot be imported by name, a function hides it
    network.conv1 = block(in_channels, 192, kernel_size=3, padding=1)
    for name in ("maxpool1", "conv2", "conv3", "maxpool2"):
        setattr(network, name, nn.Identity())
    for name in ("maxpool3", "maxpool4"):
        setattr(network, name, nn.MaxPool2d(3, stride=2, padding=1))
    assert isinstance(network, nn.Module)
    return network
