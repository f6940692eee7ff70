"""How a result was made: versions, commit, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from kd_tune.paths import Record

MANIFEST = "manifest.json"
_PACKAGES = ("kd-tune", "ray", "torch", "torchvision", "optuna", "numpy", "pandas")


class Fingerprints(Record):
    """What a resumed run must find unchanged."""

    data: str
    teachers: dict[str, str]


def _holding(keys: type[Record]) -> AfterValidator:
    """Of a dict: the keys that are relied on are there, and what they must be."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            keys.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return value

    return AfterValidator(check)


class _DatasetKeys(Record):
    name: str
    split: dict[str, Any]
    class_names: list[str]
    num_train: int | None = None


class _HardwareKeys(Record):
    processor: str
    cores: int | None
    memory_gib: float
    gpus: list[str]


class _TeacherKeys(Record):
    test_openings: list[dict[str, Any]] = []


class TeacherFacts(Record):
    """One of a run's teachers.

    Attributes:
        val_accuracy: of its clean answers, on this search's validation images.
        num_parameters: of its network; None if there is none here.
        multiply_adds: of its network for one image; likewise.
        knows_validation_images: whether it learnt from images that this search selects on; None if nobody knows.
        record: how it came to be.
    """

    val_accuracy: float
    num_parameters: int | None
    multiply_adds: int | None
    knows_validation_images: bool | None
    record: Annotated[dict[str, Any], _holding(_TeacherKeys)]

    @property
    def is_control(self) -> bool:
        """Whether it knows nothing on purpose."""
        return bool(self.record.get("untrained")) or "permuted_by" in self.record


class Manifest(Record):
    """`manifest.json`: how a run was made.

    Attributes:
        created: when, in local time with its offset.
        search_file: the file that it was started from; the run keeps a copy with everything written out.
        seed: the search's.
        source: where the data lie; None: embedded.
        fingerprints: of data and teachers; a resumed run must find them unchanged.
        dataset: name, split, numbers of images (not in runs of before there was a budget in reports) and class names.
        teachers: by name, or label where a choice holds two of one name.
        versions: of everything that results depend on.
        hardware: of the machine that the search was launched on.
    """

    created: str
    search_file: str
    seed: int
    source: str | None
    fingerprints: Fingerprints
    dataset: Annotated[dict[str, Any], _holding(_DatasetKeys)]
    teachers: dict[str, TeacherFacts]
    versions: dict[str, Any]
    hardware: Annotated[dict[str, Any], _holding(_HardwareKeys)]


def versions() -> dict[str, str | None]:
    """Of Python, of kd_tune's commit where it runs from a checkout, and of what results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": _commit()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, and the GPUs that torch sees, if torch is loaded."""
    import sys

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus: list[str] = []
    if "torch" in sys.modules:
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus,
        "system": platform.platform(),
    }


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str | None:
    """The commit of the checkout that kd_tune runs from, `+` behind it where files were changed; None if installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.strip() else "")
