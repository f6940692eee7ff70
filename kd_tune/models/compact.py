"""Compact teachers of our own, of the class of Keller Jordan's airbench networks (arXiv:2404.00498).

A 2x2 convolution that whitens, three blocks of two 3x3 convolutions with batch norm and GELU, a maximum over what is
left of the image, a linear layer. They train in minutes to an accuracy for which a VGG needs hours; section 3 of the
paper says what each of the starts below is worth.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd_tune.models.sizes import check_size

BIAS_SCALE = 8.0
LOGIT_SCALE = 1 / 9
WHITENING_EPSILON = 5e-4
SMALLEST = 9  # pixels a side: whitening leaves 8, which the blocks halve three times
_PATCH = 2

Width = Annotated[float, Field(gt=0)]


class Compact(nn.Module):
    """The network; `compact` and `digits` are its two sizes.

    Args:
        num_classes: logits.
        in_channels: 1 for grey, 3 for colour.
        blocks: channels of each block; every block halves the image.
    """

    def __init__(self, num_classes: int, in_channels: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        stem = 2 * in_channels * _PATCH**2
        self.whitening = nn.Conv2d(in_channels, stem, _PATCH)
        self.whitening.weight.requires_grad_(False)  # given by `initialise_from`, never learnt; its bias is
        layers: list[nn.Module] = [nn.GELU()]
        previous = stem
        for channels in blocks:
            layers += [_conv3x3(previous, channels), nn.MaxPool2d(2), _BatchNorm(channels), nn.GELU()]
            layers += [_conv3x3(channels, channels), _BatchNorm(channels), nn.GELU()]
            previous = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(previous, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.features(self.whitening(images))
        logits: Tensor = self.classifier(self.pool(hidden).flatten(1)) * LOGIT_SCALE
        return logits

    @torch.no_grad()
    def initialise_from(self, images: Tensor) -> None:
        """Makes the first convolution whiten 2x2 patches, and keep each direction with both signs (section 3.2).

        Args:
            images: normalised training images `[B, C, H, W]`.
        """
        patches = F.unfold(images, _PATCH).transpose(1, 2).flatten(0, 1).double()
        covariance = patches.T @ patches / len(patches)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        filters = (eigenvectors / torch.sqrt(eigenvalues + WHITENING_EPSILON)).T.reshape(
            -1, *self.whitening.weight.shape[1:]
        )
        self.whitening.weight.copy_(torch.cat([filters, -filters]))
        assert self.whitening.bias is not None
        self.whitening.bias.zero_()


def compact(num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: Width = 1.0) -> nn.Module:
    """Blocks of 64, 256 and 256 channels: 1,972,802 parameters and 0.12 G multiply-adds on 3 x 32 x 32 images.

    `width` multiplies every block's channels: narrow ones make weaker teachers, which small students may prefer.
    """
    check_size("compact", image_size, SMALLEST)
    return Compact(num_classes, in_channels, _scaled((64, 256, 256), width))


def digits(num_classes: int = 10, in_channels: int = 1, image_size: int = 32, width: Width = 1.0) -> nn.Module:
    """Blocks of 16, 32 and 64 channels, times `width`, for digits and other small grey images."""
    check_size("digits", image_size, SMALLEST)
    return Compact(num_classes, in_channels, _scaled((16, 32, 64), width))


def _scaled(blocks: tuple[int, ...], width: float) -> tuple[int, ...]:
    return tuple(max(1, round(channels * width)) for channels in blocks)


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm whose bias learns 64 times as fast: it is kept divided by 8, which scales gradient and step alike."""

    def forward(self, images: Tensor) -> Tensor:
        assert self.bias is not None
        assert self.momentum is not None
        bias = self.bias * BIAS_SCALE
        return F.batch_norm(
            images, self.running_mean, self.running_var, self.weight, bias, self.training, self.momentum, self.eps
        )


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A convolution that starts as the identity on its first channels (section 3.3)."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding="same", bias=False)
    nn.init.dirac_(convolution.weight[:in_channels].data)
    return convolution
