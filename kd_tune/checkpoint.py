"""A trial on disk: `student.safetensors` and `trial.json`, and `state.pt` to go on from.

Nothing here can run code: safetensors and JSON hold data only, and `state.pt` is read with `weights_only`.
A checkpoint is a folder `epoch_0003`, written under another name first; so it is whole or not there. In a storage it is
whole where `trial.json` is, which is written last; it holds the hashes of the files beside it: safetensors have no
checksum of their own.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from kd_tune.errors import ConfigError, EnvironmentProblem, refused_by_system
from kd_tune.paths import naming, read_json, write_json, written_whole
from kd_tune.storage import Storage

WEIGHTS = "student.safetensors"
TRIAL = "trial.json"
STATE = "state.pt"
HASHES = "sha256"  # in trial.json, of the other two
_NAME = re.compile(r"epoch_(\d+)")


class DamagedCheckpoint(ConfigError):  # noqa: N818 - it says what is the case
    """A file of a checkpoint is not what was written."""


def save(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, trial: dict[str, Any]) -> None:
    """Writes a checkpoint; `trial` is whatever JSON says how the weights came to be."""
    state = io.BytesIO()  # on a full disk torch would raise an error of its own
    torch.save(optimizer.state_dict(), state)
    files = {WEIGHTS: weights_of(network), STATE: state.getvalue()}
    with written_whole(folder, replace=True) as temporary:
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        write_json(temporary / TRIAL, trial | {HASHES: {name: _hash(content) for name, content in files.items()}})


def read(folder: Path) -> dict[str, Any]:
    """The content of `trial.json`, after the files beside it were compared with their hashes.

    Raises:
        DamagedCheckpoint: one of them is missing, or not what was written.
        EnvironmentProblem: the operating system does not let it be read.
    """
    try:
        record = read_json(folder / TRIAL)
    except EnvironmentProblem:
        raise
    except ConfigError as error:
        raise DamagedCheckpoint(error.problems) from None
    for name, written in record.get(HASHES, {}).items():  # checkpoints of before there were hashes have none
        path = folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise refused_by_system(error, path) or DamagedCheckpoint(f"{path}: cannot be read: {error}") from None
        if _hash(content) != written:
            raise DamagedCheckpoint(f"{path}: its content is not what was written; the file is damaged")
    return record


def set_aside(folder: Path) -> Path:
    """Renames a checkpoint, so that it is none any more; returns where it is now."""
    aside = folder.with_name(f"damaged_{folder.name}")
    with naming(folder):
        if aside.exists():
            shutil.rmtree(aside)
        return folder.rename(aside)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
            with naming(other):
                shutil.rmtree(other)


class Shelf:
    """A trial's checkpoints in a storage; nothing of them stays on this machine.

    Args:
        storage: the folder that holds this trial's.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._names: set[str] = set()

    def newest(self, target: Path) -> Path | None:
        """Copies the checkpoint of the latest epoch into a folder, if there is one; returns where it is."""
        files = [Path(name) for name in self._storage.files()]
        folders = {file.parent for file in files if _NAME.fullmatch(file.parent.name)}
        self._names = {folder.name for folder in folders}
        whole = [folder for folder in folders if folder / TRIAL in files]
        if not whole:
            return None
        name = max(whole, key=epoch_of).name
        with written_whole(target / name) as temporary:
            temporary.mkdir()
            self._storage.child(name).download(temporary)
        return target / name

    def save(self, epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer, trial: dict[str, Any]) -> None:
        """Writes a checkpoint (see `save`), and deletes those that were there."""
        name = f"epoch_{epoch:04d}"
        with tempfile.TemporaryDirectory(prefix="kd_tune_") as temporary:
            save(Path(temporary, name), network, optimizer, trial)
            self._storage.upload(Path(temporary, name), name, last=TRIAL)
        older, self._names = self._names - {name}, {name}
        for other in sorted(older):
            self._storage.delete(other)

    def clear(self) -> None:
        """Deletes them all."""
        for name in sorted(self._names):
            self._storage.delete(name)
        self._names = set()


def weights_of(network: nn.Module) -> bytes:
    """A network's parameters and buffers as safetensors; tied ones under each of their names."""
    weights: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in network.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()  # safetensors refuses tensors that share memory
        storages.add(tensor.untyped_storage().data_ptr())
        weights[name] = tensor
    return serialise(weights)


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
