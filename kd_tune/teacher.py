"""A teacher on disk, loaded and verified: `teacher.safetensors` and `teacher.json`.

`teacher.json` says how the weights came to be: recipe, seed, split, validation accuracy, and every opening of the
test set. Teachers are kept in the cache by architecture and data, so that a search finds the one that an earlier one
trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from kd_tune import checkpoint
from kd_tune.catalog import build_network
from kd_tune.data import Dataset, Images
from kd_tune.errors import ConfigError
from kd_tune.models import TEACHERS
from kd_tune.paths import (
    Record,
    cache_folder,
    file_name,
    read_json,
    read_record,
    taking_turns,
    write_json,
    written_whole,
)
from kd_tune.turns import lock_of
from kd_tune.user_code import is_reference

WEIGHTS = "teacher.safetensors"
RECORD = "teacher.json"
FILES = (WEIGHTS, RECORD)
EVALUATION_BATCH = 500
OWN_DATA = ("npz", "image_folder")
SHIPPED = Path(__file__).resolve().parent / "shipped"


class Normalisation(Record):
    """Mean and standard deviation by channel, of pixels from 0 to 1."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class InputShape(Record):
    """What a network was built for."""

    model_config = ConfigDict(extra="forbid")
    num_classes: Annotated[int, Field(ge=2)]
    in_channels: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=1)]


class TeacherRecord(Record):
    """`teacher.json`.

    Attributes:
        architecture: name and arguments of the network.
        input: what it was built for.
        normalisation: of its input.
        weights_sha256: of the weights file.
        dataset: name, fingerprint and split of what it learnt, if kd_tune trained it.
        recipe: the trial by which it was trained, likewise.
        untrained: it has its first weights.
        started_from: the record of the teacher whose weights its training began with.
        epochs: the course of that training, an epoch a row.
        val_accuracy: on its own validation images, 0 to 1.
        num_parameters: of the network.
        test_openings: every look at the test set, with what was measured.
        imported: file and provenance of weights that were made elsewhere; `dataset` is then what they were measured on.
    """

    architecture: dict[str, Any]
    input: InputShape
    normalisation: Normalisation
    weights_sha256: str
    dataset: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    imported: dict[str, Any] | None = None
    untrained: bool = False
    started_from: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = []
    val_accuracy: float | None = None
    num_parameters: int | None = None
    test_openings: list[dict[str, Any]] = []


def evaluation_batch(image_size: int) -> int:
    """Images to ask a network about at once: fewer of large ones, or its hidden layers would take gigabytes."""
    return min(EVALUATION_BATCH, max(32, EVALUATION_BATCH * 32**2 // image_size**2))


@dataclass(frozen=True)
class Teacher:
    """A network that answers for images.

    Attributes:
        folder: where it lies.
        record: the content of `teacher.json`.
        network: in evaluation mode, on the CPU.
        fingerprint: of weights, architecture and normalisation.
    """

    folder: Path
    record: TeacherRecord
    network: nn.Module
    fingerprint: str

    def describe(self) -> str:
        """One line for a log."""
        accuracy = self.record.val_accuracy
        measured = f", validation accuracy {accuracy:.2%}" if accuracy is not None else ""
        return f"{self.record.architecture['name']} ({self.fingerprint}{measured}) in {self.folder}"


def folder_of(section: Mapping[str, Any], dataset: Dataset) -> Path:
    """The place in the cache of a teacher that was trained for exactly these data."""
    arguments = json.dumps({key: section[key] for key in sorted(section)}, sort_keys=True)
    key = hashlib.sha256(f"{arguments}/{dataset.fingerprint}".encode()).hexdigest()[:12]
    return cache_folder() / "teachers" / f"{file_name(section['name'])}-{dataset.name}-{key}"


def imported_folder(name: str, dataset_name: str) -> Path:
    """The place in the cache of a teacher whose weights were imported."""
    return cache_folder() / "teachers" / f"{file_name(name)}-{dataset_name}-imported"


def find(section: Mapping[str, Any], dataset: Dataset) -> Path | None:
    """The folder of the teacher with this architecture: trained for these data, imported, or shipped; or None."""
    found = locate(section, dataset)
    return None if found is None else writable(found)


def locate(section: Mapping[str, Any], dataset: Dataset) -> Path | None:
    """The same where it lies: a shipped one is not copied into the cache."""
    trained = folder_of(section, dataset)
    if exists(trained):
        return trained
    for folder in (imported_folder(section["name"], dataset.name), SHIPPED / f"{section['name']}-{dataset.name}"):
        if exists(folder):
            record = read_record(folder / RECORD, TeacherRecord)
            if record.architecture == dict(section) and _is_for(record, dataset):
                return folder
    return None


def _is_for(record: TeacherRecord, dataset: Dataset) -> bool:
    """Whether a teacher was made for a data set, in any split; the user's own have one name for many data sets."""
    made_for = record.dataset or {}
    same = made_for.get("fingerprint") == dataset.fingerprint
    return same or (made_for.get("name") == dataset.name and dataset.name not in OWN_DATA)


def copy_of_shipped(folder: Path) -> Path:
    """The place in the cache of a shipped teacher's copy."""
    sha256 = read_record(folder / RECORD, TeacherRecord).weights_sha256
    return cache_folder() / "teachers" / f"{folder.name}-shipped-{sha256[:12]}"


def writable(folder: Path) -> Path:
    """The folder itself, or a shipped teacher's copy: openings of the test set are written beside the weights."""
    if folder.resolve().parent != SHIPPED:
        return folder
    copy = copy_of_shipped(folder)
    if not exists(copy):
        with taking_turns(lock_of(copy)):
            if not exists(copy):
                with written_whole(copy) as temporary:
                    shutil.copytree(folder, temporary)
    return copy


def knows_validation_images(record: TeacherRecord, dataset: Dataset) -> bool | None:
    """Whether a teacher learnt from images that this data set validates on; None if nobody knows.

    Splits with one seed hold out the same images, whatever share of the rest is trained on.
    """
    if record.untrained:
        return False
    if record.imported is not None:
        return record.imported.get("seen_validation")
    if record.started_from is not None and record.started_from.get("knows_validation_images") is not False:
        return record.started_from.get("knows_validation_images")
    if record.dataset is None:
        return None
    if record.dataset.get("fingerprint") == dataset.fingerprint:
        return False
    if record.dataset.get("name") != dataset.name or dataset.name in OWN_DATA:
        return None
    split = record.dataset.get("split", {})
    return any(split.get(key) != dataset.split.get(key) for key in ("split_seed", "num_val", "val"))


def exists(folder: Path) -> bool:
    """Whether a teacher lies here."""
    return (folder / RECORD).exists()


def base_record(architecture: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The part of `teacher.json` that every teacher for a data set has."""
    return {
        "architecture": dict(architecture),
        "input": dataset.input_shape,
        "class_names": list(dataset.class_names),
        "normalisation": dataset.normalisation,
    }


def save(folder: Path, network: nn.Module, record: dict[str, Any]) -> None:
    """Writes a teacher, whole or not at all."""
    with written_whole(folder, replace=exists(folder)) as temporary:
        temporary.mkdir(parents=True)
        weights = checkpoint.weights_of(network)
        (temporary / WEIGHTS).write_bytes(weights)
        write_json(temporary / RECORD, record | {"weights_sha256": hashlib.sha256(weights).hexdigest()})


def load(folder: Path, dataset: Dataset) -> Teacher:
    """Reads a teacher for a data set.

    Raises:
        ConfigError: it is missing or damaged, or made for other images or classes.
    """
    if not exists(folder):
        raise ConfigError(f"{folder}: no teacher here; `kd-tune teacher train` makes one")
    record = read_record(folder / RECORD, TeacherRecord)
    shape = record.input
    problems = []
    if shape.num_classes != dataset.num_classes:
        problems.append(f"the teacher knows {shape.num_classes} classes, but {dataset.name} has {dataset.num_classes}")
    if (shape.in_channels, shape.image_size) != (dataset.in_channels, dataset.image_size):
        problems.append(
            f"the teacher takes {shape.in_channels} x {shape.image_size} x {shape.image_size} images, "
            f"but those of {dataset.name} are {dataset.in_channels} x {dataset.image_size} x {dataset.image_size}"
        )
    name = record.architecture.get("name")
    if not isinstance(name, str) or (name not in TEACHERS and not is_reference(name)):
        problems.append(f"unknown teacher {name!r}; known: {', '.join(TEACHERS)}")
    if {len(record.normalisation.mean), len(record.normalisation.std)} != {shape.in_channels}:
        problems.append(f"normalisation must have {shape.in_channels} means and deviations")
    if problems:
        raise ConfigError([f"{folder}: {problem}" for problem in problems])
    try:
        sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{folder / WEIGHTS}: cannot be read: {error.strerror}") from None
    if sha256 != record.weights_sha256:
        raise ConfigError(f"{folder / WEIGHTS}: its content has changed since it was written; train it again")
    try:
        network = build_network(record.architecture, **shape.model_dump()).eval().requires_grad_(False)
    except ConfigError as error:
        raise ConfigError(f"{folder / RECORD}: {error}") from None
    checkpoint.load_weights(folder / WEIGHTS, network)
    identity = json.dumps([sha256, record.architecture, record.normalisation.model_dump()], sort_keys=True)
    return Teacher(folder, record, network, hashlib.sha256(identity.encode()).hexdigest()[:16])


def update_record(folder: Path, **changes: Any) -> None:
    """Changes fields of `teacher.json`."""
    write_json(folder / RECORD, read_json(folder / RECORD) | changes)


class Answers:
    """A teacher ready to answer on a device: uint8 images `[B, C, H, W]` to logits `[B, classes]`."""

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self._network = teacher.network.to(device).to(memory_format=torch.channels_last)
        normalisation = teacher.record.normalisation
        self._mean = torch.tensor(normalisation.mean, device=device).view(-1, 1, 1) * 255
        self._std = torch.tensor(normalisation.std, device=device).view(-1, 1, 1) * 255

    @torch.no_grad()  # not inference_mode: a live teacher's answers are part of a student's graph
    def __call__(self, images: Tensor) -> Tensor:
        pixels = (images.float() - self._mean) / self._std
        logits: Tensor = self._network(pixels.to(memory_format=torch.channels_last))
        return logits.float()


def accuracy(teacher: Teacher, images: Images, device: torch.device) -> float:
    """Share of images that the teacher classifies right, in plain evaluation of the clean image."""
    return float((predict(teacher, images, device) == images.labels).mean())


def predict(
    teacher: Teacher,
    images: Images,
    device: torch.device,
    batch_size: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The class `[N]` that the teacher names for each image.

    Args:
        teacher: whom to ask.
        images: N of them.
        device: where the teacher answers.
        batch_size: images at once; None: as many as `evaluation_batch` says.
        advance: told images done and in all.
    """
    batch_size = batch_size or evaluation_batch(images.images.shape[-1])
    answers = Answers(teacher, device)
    predictions = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images.images[start : start + batch_size].copy()).to(device)
        predictions.append(answers(batch).argmax(-1).cpu().numpy())
        if advance is not None:
            advance(start + len(batch), len(images))
    return np.concatenate(predictions)
