"""Reads a state dict from a file that somebody else wrote, without running anything in it.

Three kinds: safetensors; what `torch.save` writes (itself a zip archive, or in old files a bare pickle), read with
`weights_only`; and a zip archive with such files in it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from kd_tune.errors import ConfigError, refused_by_system
from kd_tune.paths import check_fits_memory

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the state dict beside other things
PREFIXES = ("module.", "model.")  # of DataParallel and of Lightning: on every key or on none


def read_state_dict(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file by key, on the CPU.

    Args:
        path: `.safetensors`; or a file of `torch.save`; or a `.zip` with several of these.
        name: which one of an archive: the member `NAME.pt`, in whatever folder.

    Raises:
        ConfigError: there is no such file or member, it cannot be read, it holds code, or no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return _without_prefix(load_file(path))
        with path.open("rb") as file:
            _check_archive(file, path)
            content = _load(_member(file, name, path) or file, path)
    except ConfigError:
        raise
    except OSError as error:
        raise refused_by_system(error, path) or ConfigError(
            f"{path}: cannot be read: {error.strerror or error}"
        ) from None
    except Exception as error:  # safetensors, zipfile and zlib all raise their own on a damaged file
        kind = "safetensors, or damaged ones" if path.suffix == ".safetensors" else "an archive, or a damaged one"
        raise ConfigError(f"{path}: cannot be read as {kind}: {error}") from None
    return _without_prefix(_state_dict(content, path))


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Compares an archive's members with their checksums: torch does not."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_fits_memory(path, sum(member.file_size for member in archive.infolist()))
            if (damaged := archive.testzip()) is not None:
                raise ConfigError(f"{path}: {damaged} in this archive is damaged: its checksum is another one")
    file.seek(0)


def _member(file: BinaryIO, name: str, path: Path) -> io.BytesIO | None:
    """One file of an archive, in memory: nothing is written where an archive says. None: it is no such archive."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return None
    with zipfile.ZipFile(file) as archive:
        members = [PurePosixPath(member) for member in archive.namelist()]
        if any(member.name == "data.pkl" for member in members):  # the archive that torch.save makes of one object
            file.seek(0)
            return None
        found = [str(member) for member in members if member.name == f"{name}.pt"]
        if len(found) != 1:
            known = ", ".join(str(member) for member in members if member.suffix == ".pt") or "no .pt file"
            problem = f"no member {name}.pt" if not found else f"{len(found)} members named {name}.pt"
            raise ConfigError(f"{path}: {problem} in this archive; it holds {known}")
        content = io.BytesIO(archive.read(found[0]))
    _check_archive(content, path)
    return content


def _load(file: BinaryIO, path: Path) -> Any:
    """What `torch.save` wrote; tensors and plain containers only."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch and pickle raise all kinds on a damaged file
        code = re.search(r"GLOBAL (\S+)", str(error))  # torch's text goes on with how to allow it: not to be passed on
        if code is None:
            raise ConfigError(f"{path}: not a file of torch.save, or a damaged one") from None
        raise ConfigError(
            f"{path}: refused: besides tensors it holds {code[1]}, and reading that could run code; "
            "if you trust the file, load it elsewhere and save its state_dict() alone"
        ) from None


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
        if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
            return dict(content)
    raise ConfigError(f"{path}: holds no state dict, which is tensors by name, alone or under the key 'state_dict'")


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what every key begins with, such as `module.model.`."""
    for prefix in PREFIXES * 2:
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
