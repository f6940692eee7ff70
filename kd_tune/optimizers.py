"""OPTIMIZERS and SCHEDULES: how a student's parameters are stepped, and how the learning rate moves over a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: Positive = 0.05,
    momentum: BelowOne = 0.9,
    weight_decay: NonNegative = 0.0,
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (plain SGD at momentum 0); weight decay is added to the gradient."""
    return torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=True
    )


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: Positive = 0.001,
    beta1: BelowOne = 0.9,
    beta2: BelowOne = 0.999,
    weight_decay: NonNegative = 0.01,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): weight decay apart from the gradient."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True)


def one_cycle(progress: float) -> float:
    """Up in a straight line from 1/25 to 1 over the first quarter, then down to 0 along a cosine.

    After Smith and Topin (2018, arXiv:1708.07120), without their cycle of the momentum.
    """
    if progress < 0.25:
        return 0.04 + 0.96 * progress / 0.25
    return cosine((progress - 0.25) / 0.75)


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}

# From the share of all steps done, 0 to 1, to a factor on the learning rate. Without state: a training that goes on
# from a checkpoint needs only to know its step.
SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}
