"""A trial on disk: `student.safetensors` and `trial.json`, and `state.pt` to go on from.

Nothing here can run code: safetensors and JSON hold data only, and `state.pt` is read with `weights_only`.
A checkpoint is a folder `epoch_0003`, written under another name first; so it is whole or not there.
"""

from __future__ import annotations

import pickle
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd_tune.errors import ConfigError
from kd_tune.paths import write_json, written_whole

WEIGHTS = "student.safetensors"
TRIAL = "trial.json"
STATE = "state.pt"
_NAME = re.compile(r"epoch_(\d+)")


def save(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, trial: dict[str, Any]) -> None:
    """Writes a checkpoint; `trial` is whatever JSON says how the weights came to be."""
    with written_whole(folder, replace=True) as temporary:
        temporary.mkdir()
        save_weights(temporary / WEIGHTS, network)
        torch.save(optimizer.state_dict(), temporary / STATE)
        write_json(temporary / TRIAL, trial)


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint of the latest epoch in a trial's folder, if it has any."""
    found = [path for path in checkpoints.glob("epoch_*") if _NAME.fullmatch(path.name)]
    return max(found, key=epoch_of, default=None)


def epoch_of(folder: Path) -> int:
    """The epoch that a checkpoint folder's name tells."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def delete_older(checkpoint: Path) -> None:
    """Deletes the trial's checkpoints before this one."""
    for other in checkpoint.parent.glob("epoch_*"):
        if _NAME.fullmatch(other.name) and epoch_of(other) < epoch_of(checkpoint):
            shutil.rmtree(other)


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's parameters and buffers; tied ones under each of their names."""
    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in network.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()  # safetensors refuses tensors that share memory
        storages.add(tensor.untyped_storage().data_ptr())
        weights[name] = tensor
    save_file(weights, path)


def load_weights(path: Path, network: nn.Module) -> None:
    """Reads parameters and buffers into a network of the same shape.

    Raises:
        ConfigError: the file is missing, damaged, or of another network.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as safetensors: {error}") from None
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: these are weights of another network: {reason[:300]}") from None


def load_state(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Reads the optimizer's state, so that training can go on.

    Raises:
        ConfigError: the file is missing, damaged, or of another optimizer.
    """
    path = folder / STATE
    try:
        optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, struct.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
