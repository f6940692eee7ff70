"""Makes a teacher of weights that were trained elsewhere: loaded strictly, measured, and refused if they do badly.

Loading proves little: a stride, a pooling, the normalisation and the order of classes leave no trace in a state dict.
So accuracy on the validation images decides, before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor, nn

from kd_tune import teacher
from kd_tune.catalog import build_network
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.manifest import hardware, versions
from kd_tune.models import TEACHERS
from kd_tune.models.published import OLDER_VGG_STD, PUBLISHED, Published
from kd_tune.progress import progress
from kd_tune.search_file import known_names
from kd_tune.teacher import InputShape, Normalisation, Teacher, TeacherRecord
from kd_tune.teacher_diagnosis import BATCH, chance_of, diagnose
from kd_tune.trial_data import best_device
from kd_tune.user_code import is_reference
from kd_tune.weights_file import read_state_dict

# Points of accuracy below the published figure that are still believed. A published figure has a standard error of 0.25
# points and a validation split of 5,000 images one of 0.35; the published teachers have seen that split and lie near
# 100 %. The mistakes that are looked for cost from several points to nearly all.
TOLERANCE = 0.02
POOLED = 49  # pixels of the 7 x 7 pooling that older VGG weights had before their first linear layer
NAMED_KEYS = 3
NO_CAUSE = (
    "none of the usual mistakes (class order, normalisation, stride, pooling) explains it; is it another network?"
)
_FIRST = "classifier.0.weight"  # a VGG's first linear layer


def import_teacher(
    file: Path,
    section: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    console: Console,
    accept: bool = False,
    normalisation: Mapping[str, list[float]] | None = None,
) -> Teacher:
    """Reads weights, measures them on all validation images, and saves them as a teacher if they do well.

    Args:
        file: a state dict, or an archive of several (`weights_file.read_state_dict`).
        section: a `teacher` section: name and arguments of the network.
        dataset: what it is measured on.
        folder: where the teacher will lie; one that is there is replaced.
        console: shows progress and the outcome.
        accept: keep it also when its accuracy speaks against it.
        normalisation: `mean` and `std` of its input; None: the published one, or the data set's own.

    Raises:
        ConfigError: the file cannot be read or belongs to another network, or the accuracy is too low; it says why.
    """
    name = section["name"]
    if name not in TEACHERS and not is_reference(name):
        raise ConfigError(f"unknown teacher '{name}'; {known_names(name, TEACHERS)}")
    if normalisation is not None and len(normalisation["mean"]) != dataset.in_channels:
        raise ConfigError(
            f"normalisation: {dataset.name} has {dataset.in_channels} channels, and needs as many numbers"
        )
    published = PUBLISHED.get(name)
    if published is not None and published.dataset != dataset.name:
        published = None
    network, generation = _build(file, section, dataset)
    asked_in = normalisation or _normalisation(dataset, published, generation)
    candidate = _candidate(section, dataset, folder, network, asked_in)
    with progress(console, f"measuring {name} on validation images") as advance:
        predictions = teacher.predict(candidate, dataset.val, best_device(), BATCH, advance)
    problems = _problems(candidate, dataset, predictions, published, console)
    if problems and not accept:
        problems[0] = f"{file} as {name}: {problems[0]}"
        raise ConfigError([*problems, "nothing was written; --accept keeps it all the same"])
    imported = {"imported": _provenance(file, generation, published, problems)}
    teacher.save(folder, network, _record(candidate, dataset, predictions) | imported)
    kept = teacher.load(folder, dataset)
    _tell(kept, published, problems, console)
    return kept


def fold_older_vgg(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the stock VGG class as those of ours, which compute the same on images of 32 to 63 pixels a side.

    There the last feature map is 1 x 1, and the stock class's pooling to 7 x 7 repeats its one pixel 49 times before
    the linear layer `[4096, 512 * 49]`; adding up the 49 weights of a channel gives `[4096, 512]`.
    """
    first = weights[_FIRST]
    return dict(weights) | {_FIRST: first.view(len(first), -1, POOLED).sum(-1)}


def _is_older_vgg(weights: Mapping[str, Tensor], network: nn.Module, image_size: int) -> bool:
    ours = network.state_dict().get(_FIRST)
    given = weights.get(_FIRST)
    if ours is None or given is None or ours.ndim != 2 or image_size >= 64:
        return False
    return given.shape == (ours.shape[0], ours.shape[1] * POOLED)


def _build(file: Path, section: Mapping[str, Any], dataset: Dataset) -> tuple[nn.Module, str]:
    """The network with the file's weights, and their generation: `current`, or `older` VGG's."""
    network = build_network(section, **dataset.input_shape)
    weights = read_state_dict(file, section["name"])
    generation = "older" if _is_older_vgg(weights, network, dataset.image_size) else "current"
    if generation == "older":
        weights = fold_older_vgg(weights)
    _load(weights, network, f"{file} for {section['name']}")
    return network, generation


def _load(weights: Mapping[str, Tensor], network: nn.Module, where: str) -> None:
    """Puts weights into a network, all of them and of the right shapes."""
    ours = network.state_dict()
    missing = [key for key in ours if key not in weights and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in ours]
    shapes = [
        f"{key} is {list(value.shape)}, not {list(ours[key].shape)}"
        for key, value in weights.items()
        if key in ours and value.shape != ours[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shapes": shapes}
    problems = [f"{where}: {kind}: {_first_few(found)}" for kind, found in kinds.items() if found]
    if problems:
        raise ConfigError([*problems, "these are weights of another network; --name says which one to build"])
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)


def _first_few(found: list[str]) -> str:
    more = len(found) - NAMED_KEYS
    return ", ".join(found[:NAMED_KEYS]) + (f", and {more} more" if more > 0 else "")


def _normalisation(dataset: Dataset, published: Published | None, generation: str) -> Mapping[str, list[float]]:
    if published is None:
        return dataset.normalisation
    std = OLDER_VGG_STD if generation == "older" else published.std
    return {"mean": list(published.mean), "std": list(std)}


def _candidate(
    section: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    network: nn.Module,
    normalisation: Mapping[str, list[float]],
) -> Teacher:
    """A teacher that is not on disk yet."""
    record = TeacherRecord(
        architecture=dict(section),
        input=InputShape(**dataset.input_shape),
        normalisation=Normalisation(mean=normalisation["mean"], std=normalisation["std"]),
        weights_sha256="",
    )
    return Teacher(folder, record, network, "")


def _problems(
    candidate: Teacher, dataset: Dataset, predictions: np.ndarray, published: Published | None, console: Console
) -> list[str]:
    """What speaks against a teacher: its accuracy, and the likely cause; empty if nothing does."""
    accuracy = float((predictions == dataset.val.labels).mean())
    measured = f"{accuracy:.2%} of {len(dataset.val)} validation images right"
    objection = _objection(accuracy, dataset, published)
    if objection is None and published is not None:
        return []
    cause = diagnose(candidate, dataset, predictions, best_device(), console)
    if cause is not None:
        return [f"{measured}, {objection or 'and it could be more'}", f"likely cause: {cause}"]
    return [] if objection is None else [f"{measured}, {objection}", NO_CAUSE]


def _objection(accuracy: float, dataset: Dataset, published: Published | None) -> str | None:
    """Why an accuracy is not believed, if it is not."""
    if published is not None:
        if accuracy >= published.accuracy - TOLERANCE:
            return None
        return f"more than {TOLERANCE * 100:.0f} points below the published {published.accuracy:.2%}"
    chance = chance_of(dataset.val.labels)
    if not chance.explains(accuracy):
        return None
    return f"no better than chance ({chance.accuracy:.2%}, give or take {chance.error:.2%})"


def _provenance(file: Path, generation: str, published: Published | None, problems: list[str]) -> dict[str, Any]:
    """What is known of imported weights; those that fall short of the published figure are not the published ones."""
    known = None if problems else published
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "file": file.name,
        "sha256": sha256,
        "generation": generation,
        "published_accuracy": None if published is None else published.accuracy,
        "trained_on": None if known is None else known.trained_on,
        "seen_validation": None if known is None else True,
        "accepted": bool(problems),
        "objection": "; ".join(problems) or None,
    }


def _tell(kept: Teacher, published: Published | None, problems: list[str], console: Console) -> None:
    if problems:
        console.print(f"teacher: kept against advice: {'; '.join(problems)}")
    console.print(f"teacher: imported {kept.describe()}")
    if published is not None and not problems:
        console.print(
            f"teacher: published with {published.accuracy:.2%} on test images; trained on {published.trained_on}, "
            "so it has seen these validation images"
        )


def _record(candidate: Teacher, dataset: Dataset, predictions: np.ndarray) -> dict[str, Any]:
    return candidate.record.model_dump(exclude={"weights_sha256", "recipe", "imported"}) | {
        "class_names": list(dataset.class_names),
        "dataset": dataset.identity,
        "val_accuracy": float((predictions == dataset.val.labels).mean()),
        "num_parameters": sum(parameter.numel() for parameter in candidate.network.parameters()),
        "hardware": hardware(),
        "versions": versions(),
        "test_openings": [],
    }
