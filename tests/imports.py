"""Weights to import, made without training: the features of an untrained network, and a last layer fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_tune.catalog import build_network
from kd_tune.data import Dataset, cifar10

CLASSES = 10
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
COUNTS = {"train": 200, "val": 100, "test": 20}

Weights = dict[str, Tensor]


def write_toy_cifar10(path: Path) -> Path:
    """Coloured tiles under noise, a pattern a class, in CIFAR-10's shape."""
    random = np.random.RandomState(0)
    tiles = random.randint(40, 216, (CLASSES, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    arrays: dict[str, Any] = {}
    for part, count in COUNTS.items():
        labels = np.arange(count) % CLASSES
        noise = random.randint(-20, 21, (count, 3, 32, 32))
        arrays[f"{part}_images"] = (tiles[labels] + noise).astype(np.uint8).transpose(0, 2, 3, 1)
        arrays[f"{part}_labels"] = labels
    np.savez(path, **arrays)
    return path


def load_toy(path: Path) -> Dataset:
    """The file as CIFAR-10, with its own validation images."""
    return cifar10(path)


def fitted_weights(
    name: str,
    dataset: Dataset,
    normalisation: Mapping[str, Any],
    change: Callable[[Any], None] | None = None,
) -> Weights:
    """Weights of one of the TEACHERS that knows the training images when it is asked in this normalisation.

    Args:
        name: of the network.
        dataset: what it should know.
        normalisation: `mean` and `std` of its input.
        change: makes another network of it, in place, before it learns.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({"name": name}, **dataset.input_shape)
    if change is not None:
        change(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of this batch alone
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    mean, std = (torch.tensor(normalisation[key]).view(-1, 1, 1) for key in ("mean", "std"))
    images = ((torch.from_numpy(dataset.train.images) / 255 - mean) / std).to(memory_format=torch.channels_last)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        network.to(memory_format=torch.channels_last).train()(images)
        features.clear()
        network.eval()(images)
        _fit(last, features[0], torch.from_numpy(dataset.train.labels))
    return {key: value.clone() for key, value in network.state_dict().items()}


def reordered(weights: Weights) -> Weights:
    """As if the teacher had learnt with its classes in another order."""
    last = [key for key in weights if key.endswith(".weight")][-1]
    bias = last.replace("weight", "bias")
    return weights | {last: weights[last][ORDER], bias: weights[bias][ORDER]}


def _fit(last: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Least squares to the classes, with a little ridge."""
    centre = features.mean(0)
    x, y = (features - centre).double(), F.one_hot(labels, CLASSES).double() - 1 / CLASSES
    ridge = 1e-1 * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T.float()
    last.weight.copy_(weight)
    last.bias.copy_(-weight @ centre)
