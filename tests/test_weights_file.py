"""State dicts of others: every kind of file is read, none can run code, and what is wrong is said in a line."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kd_tune.errors import ConfigError
from kd_tune.weights_file import read_state_dict

WEIGHTS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.tensor([1.0, 2.0])}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(value, second[key]) for key, value in first.items())


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Like the published one: several state dicts in a folder, beside other things."""
    path = tmp_path / "state_dicts.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, weights in (("small", WEIGHTS), ("large", {"other": torch.zeros(3)})):
            packed.write(saved(tmp_path / f"{name}.pt", weights), f"cifar10_models/state_dicts/{name}.pt")
        packed.writestr("__MACOSX/cifar10_models/._small.pt", b"nothing")
        packed.writestr("README.md", "text")
    return path


class Opener:
    """Unpickled, it would leave a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": WEIGHTS, "accuracy": 0.9},
        {f"module.{key}": value for key, value in WEIGHTS.items()},
        {f"model.{key}": value for key, value in WEIGHTS.items()},
        {"state_dict": {f"model.module.{key}": value for key, value in WEIGHTS.items()}},
        {"state_dict": {f"module.model.{key}": value for key, value in WEIGHTS.items()}},
    ],
    ids=["plain", "state_dict", "model", "module.", "model.", "model.module.", "module.model."],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_of_torch_is_read_whatever_its_weights_are_wrapped_in(
    tmp_path: Path, content: Any, legacy: bool
) -> None:
    path = saved(tmp_path / "weights.pth", content, _use_new_zipfile_serialization=not legacy)
    assert same(read_state_dict(path, "any"), WEIGHTS)


def test_a_prefix_that_is_not_on_every_key_is_a_name(tmp_path: Path) -> None:
    weights = {"model.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    assert same(read_state_dict(saved(tmp_path / "weights.pt", weights), "any"), weights)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({f"module.{key}": value for key, value in WEIGHTS.items()}, tmp_path / "weights.safetensors")
    read = read_state_dict(tmp_path / "weights.safetensors", "any")
    assert same(dict(sorted(read.items())), dict(sorted(WEIGHTS.items())))


def test_one_of_an_archive_is_read_by_its_name(archive: Path) -> None:
    assert same(read_state_dict(archive, "small"), WEIGHTS)
    assert list(read_state_dict(archive, "large")) == ["other"]


def test_an_archive_without_the_name_says_what_it_holds(archive: Path) -> None:
    with pytest.raises(ConfigError, match=r"no member tiny\.pt in this archive; it holds .*/small\.pt, .*/large\.pt"):
        read_state_dict(archive, "tiny")


def test_two_members_of_one_name_are_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("older/small.pt", b"")
    with pytest.raises(ConfigError, match=r"2 members named small\.pt"):
        read_state_dict(archive, "small")


def test_nothing_is_unpacked_where_an_archive_says(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../small.pt", saved(tmp_path / "source", WEIGHTS).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert same(read_state_dict(path, "small"), WEIGHTS)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "member"])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pt"
    content = {"conv.weight": torch.zeros(1), "x": Opener(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Opener(trace), protocol=2))
    else:
        saved(path, content, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "member":
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as packed:
            packed.write(path, "any.pt")
        path = tmp_path / "archive.zip"
    with pytest.raises(ConfigError, match=r"refused: besides tensors it holds \w+\.system") as caught:
        read_state_dict(path, "any")
    assert "weights_only" not in str(caught.value), "torch's advice to turn the check off is not passed on"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "weights.pt: "),
        (b"some text\n", "weights.pt: not a file of torch.save"),
        (b"PK\x03\x04 and then nothing", "weights.pt: "),
    ],
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_state_dict(path, "any")


@pytest.mark.parametrize("cut", [10, 100, 400, 900])
def test_half_a_file_is_refused(tmp_path: Path, archive: Path, cut: int) -> None:
    for whole in (saved(tmp_path / "whole.pt", WEIGHTS), archive):
        half = tmp_path / f"half{whole.suffix}"
        half.write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(ConfigError, match="half"):
            read_state_dict(half, "small")


def test_a_damaged_archive_member_is_refused(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[200] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ConfigError, match=r"small\.pt in this archive is damaged: its checksum is another one"):
        read_state_dict(archive, "small")


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], {"a": 3}, {"a": torch.zeros(1), "b": 3}, {1: torch.zeros(1)}]
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConfigError, match="holds no state dict"):
        read_state_dict(saved(tmp_path / "weights.pt", content), "any")


@pytest.mark.parametrize("name", ["no.pt", "no.safetensors", "no.zip"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read: No such file"):
        read_state_dict(tmp_path / name, "any")


def test_a_folder_and_damaged_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_state_dict(tmp_path, "any")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        read_state_dict(tmp_path / "bad.safetensors", "any")
