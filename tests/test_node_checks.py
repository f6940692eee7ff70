"""What doctor says of one machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import ray._private.utils
import torch

from kd_tune import node_checks
from kd_tune.cluster import slots_here
from kd_tune.config import ResourcesConfig
from kd_tune.findings import Verdict
from kd_tune.manifest import versions
from kd_tune.node_checks import (
    GB,
    Folder,
    Node,
    available_memory,
    check_devices,
    check_disk,
    check_folder,
    check_memory,
    check_node,
    check_same_versions,
    check_shared_memory,
    check_storage,
    num_cores,
    shared_memory,
)
from tests.object_store import Gate

PASS, WARN, FAIL = Verdict
Usage = namedtuple("Usage", "total used free")


def folder_of(path: Path, marker: str = "", must_be_shared: bool = True) -> Folder:
    return Folder("runs", str(path), str(path), marker, must_be_shared)


def test_another_version_of_what_trials_load_fails_and_of_the_drivers_own_does_not() -> None:
    here = versions()
    assert check_same_versions(here, here).verdict is PASS
    assert check_same_versions(here, here | {"optuna": "1.0", "commit": None}).verdict is PASS
    finding = check_same_versions(here, here | {"torch": "1.0", "numpy": None})
    assert finding.verdict is FAIL
    assert f"torch 1.0, not {here['torch']}; numpy None, not {here['numpy']}" in finding.found


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    finding = check_devices()
    assert finding.verdict is PASS
    assert finding.found == f"{num_cores()} CPU cores; GPUs: GPU 0, GPU 1"


def test_cores_are_those_that_ray_would_take_within_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(ray._private.utils, "_get_docker_cpus", lambda: 2.0)
    assert check_devices().found.startswith("2 CPU cores")
    assert check_memory(8 * GB).verdict is PASS
    assert slots_here(ResourcesConfig()) == 2


@pytest.mark.parametrize(("driver", "hidden", "verdict"), [(0, 0, PASS), (1, 0, WARN), (1, 1, PASS)])
def test_a_gpu_that_torch_does_not_see_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: int, hidden: int, verdict: Verdict
) -> None:
    device = tmp_path / "nvidiactl"
    monkeypatch.setattr(node_checks, "NVIDIA", device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if driver:
        device.touch()
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert check_devices().verdict is verdict


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 8 * GB), ("max", 8 * GB), (4 * GB, 2 * GB), (40 * GB, 8 * GB)], ids=str
)
def test_memory_is_what_machine_and_container_leave(tmp_path: Path, limit: str | int | None, expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99 kB\nMemAvailable:    {8 * GB // 1024} kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\n")  # read files, given back when needed
    assert available_memory(meminfo, tmp_path) == expected


def test_a_system_that_does_not_say_its_memory_is_no_failure(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "meminfo") is None
    assert check_memory(None).verdict is WARN


@pytest.mark.parametrize(("available", "verdict"), [(1.9, FAIL), (3.9, WARN), (4.0, PASS)])
def test_memory_must_do_for_all_cores(monkeypatch: pytest.MonkeyPatch, available: float, verdict: Verdict) -> None:
    monkeypatch.setattr(node_checks, "num_cores", lambda: 4)
    assert check_memory(int(available * GB)).verdict is verdict


def test_small_shared_memory_is_warned_of(tmp_path: Path) -> None:
    assert check_shared_memory(64 * 2**20, 5 * GB).verdict is WARN
    assert check_shared_memory(5 * GB, 5 * GB).verdict is PASS
    assert check_shared_memory(*shared_memory(tmp_path / "none")).verdict is PASS
    free, wanted = shared_memory(tmp_path)
    assert free > 0
    assert 0 < wanted <= 10 * GB


@pytest.mark.parametrize(("free", "verdict"), [(0.9, FAIL), (9.9, WARN), (10.0, PASS)])
def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, verdict: Verdict) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GB, 0, int(free * GB)))
    assert check_disk(folder_of(tmp_path)).verdict is verdict


def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "marker").touch()
    assert check_folder(folder_of(tmp_path, "marker")).verdict is PASS
    assert os.listdir(tmp_path) == ["marker"]


def test_a_folder_that_is_not_there_or_another_one_fails(tmp_path: Path) -> None:
    missing = check_folder(folder_of(tmp_path / "missing"))
    other = check_folder(folder_of(tmp_path, "marker"))
    assert (missing.verdict, other.verdict) == (FAIL, FAIL)
    assert "no such folder" in missing.found
    assert "of this node alone" in other.found
    assert check_folder(folder_of(tmp_path, "marker", must_be_shared=False)).verdict is WARN


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    finding = check_folder(folder_of(tmp_path))
    assert finding.verdict is FAIL
    assert f"{tmp_path}: cannot be written: No space left on device" in finding.found


def test_a_folder_to_be_made_is_named_with_the_one_that_it_will_be_in(tmp_path: Path) -> None:
    folder = Folder("runs", str(tmp_path / "a" / "b"), str(tmp_path))
    assert check_folder(folder).found == f"{tmp_path}: can be written, for {tmp_path / 'a' / 'b'}"


@pytest.mark.parametrize("is_head", [True, False])
def test_a_node_is_asked_everything(tmp_path: Path, is_head: bool) -> None:
    findings = check_node(Node((folder_of(tmp_path),), starts_ray=True, is_head=is_head, versions=versions()))
    checks = ["versions", "devices", "memory", "shared memory", "disk, runs"]
    checks += ["disk, temporary files (Ray's logs and objects)", "runs folder", "token"]
    assert [finding.check for finding in findings] == checks + ["telemetry"] * is_head
    assert all(bool(finding.mend) == (finding.verdict is not PASS) for finding in findings)


def test_a_storage_must_be_written(s3: Gate) -> None:
    assert check_storage(s3.url).verdict is PASS
    s3.always = 403
    finding = check_storage(s3.url)
    assert finding.verdict is FAIL
    assert "ACCESS_DENIED" in finding.found
    assert "AWS_ACCESS_KEY_ID" in finding.mend
    assert check_storage("s3://key:secret@bucket/runs").verdict is FAIL
