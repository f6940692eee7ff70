"""What a search needs before it starts: its teachers, and their answers. Made once, found again after."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd_tune import derived_banks, soft_targets, teacher
from kd_tune.arms import teachers_of
from kd_tune.catalog import architecture_of, build_student
from kd_tune.data import Dataset
from kd_tune.engine import count_parameters
from kd_tune.errors import ConfigError
from kd_tune.manifest import TeacherFacts
from kd_tune.models import StartsFromImages
from kd_tune.models.cost import multiply_adds
from kd_tune.paths import taking_turns
from kd_tune.progress import duration, progress
from kd_tune.ranges import branch_name
from kd_tune.records import TeacherPlace, derive_seed
from kd_tune.teacher import Teacher, evaluation_batch
from kd_tune.teacher_diagnosis import chance_of
from kd_tune.teacher_import import import_teacher
from kd_tune.teacher_training import recipe, train_teacher
from kd_tune.trial_data import TrialData, best_device
from kd_tune.turns import lock_of, turn


@dataclass(frozen=True)
class PreparedTeacher:
    """One teacher of a search, ready to be learnt from.

    Attributes:
        place: where its answers are.
        fingerprint: of all that its answers follow from.
        facts: what the run's manifest says of it.
        network: the folder of the network that gives these answers; None where there is none to ask about other images.
    """

    place: TeacherPlace
    fingerprint: str
    facts: TeacherFacts
    network: Path | None


def prepare(
    trial: Mapping[str, Any], dataset: Dataset, source: Path | None, console: Console
) -> dict[str, PreparedTeacher]:
    """Every teacher that a trial may name: found or trained, and asked about the views that the trial wants.

    Returns:
        By `ranges.branch_name` of the teacher's section; empty without a teacher.

    Raises:
        ConfigError: a teacher or a bank does not fit, or is damaged.
    """
    views = trial["training"].get("views", 1)
    prepared = {}
    for section in teachers_of(trial):
        name = branch_name(section)
        if section["name"] == "logits":
            prepared[name] = _from_file(section, dataset, views, console)
        else:
            prepared[name] = _from_network(section, trial["dataset"], dataset, views, source, console)
        _warn(name, prepared[name].facts, dataset, console)
    return prepared


def find_or_train_teacher(
    section: Mapping[str, Any],
    dataset_section: Mapping[str, Any],
    dataset: Dataset,
    source: Path | None,
    console: Console,
) -> Teacher:
    """The network that a teacher section names: its weights, one that is there already, or one trained now, once.

    Raises:
        ConfigError: it does not fit the data, or is another network than the section says.
    """
    architecture = network_of(section)
    if section["name"] == "random":
        return _random(section, dataset)
    if "weights" in section:
        folder = _folder_of_weights(section, architecture, dataset, console)
    else:
        found = teacher.find(architecture, dataset)
        if found is None:
            place = teacher.folder_of(architecture, dataset)
            with turn(lock_of(place), f"training {place}", console.print):
                found = teacher.find(architecture, dataset)
                if found is None:
                    return _train_missing(place, architecture, dataset_section, dataset, source, console)
        folder = found
    loaded = teacher.load(folder, dataset)
    if loaded.record.architecture != architecture:
        raise ConfigError(f"trial.teacher: {folder} holds {loaded.record.architecture}, not {architecture}")
    console.print(f"teacher: {loaded.describe()}")
    return loaded


def _train_missing(
    folder: Path,
    architecture: Mapping[str, Any],
    dataset_section: Mapping[str, Any],
    dataset: Dataset,
    source: Path | None,
    console: Console,
) -> Teacher:
    made_by = recipe(architecture, dataset_section, dataset)
    console.print(
        f"teacher: no {architecture['name']} for {dataset.name} yet; training it now, once, for "
        f"{made_by['training']['num_epochs']} epochs "
        "(`kd-tune teacher train --set training.num_epochs=N` takes fewer)"
    )
    return train_teacher(folder, made_by, dataset, source, console)


def network_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of the network that gives a teacher's answers; of a control, of the one behind it."""
    behind = {"random": "network", "permuted": "of"}.get(section["name"])
    return architecture_of(section) if behind is None else {"name": section[behind]}


def find_teacher(section: Mapping[str, Any], dataset: Dataset) -> Teacher | None:
    """The network that a teacher section names, if it is there: nothing is trained, imported or copied.

    Raises:
        ConfigError: it does not fit the data.
    """
    architecture = network_of(section)
    if section["name"] == "random":
        found = _folder_of_random(section, dataset)
    elif "weights" in section:
        path = Path(os.path.expanduser(section["weights"]))
        found = _folder_of_import(path, section, architecture, dataset) if path.is_file() else path
        if not path.is_file() and not teacher.exists(path):
            raise _no_teacher_at(path)
    else:
        located = teacher.locate(architecture, dataset)
        if located is None:
            return None
        found = located
    return teacher.load(found, dataset) if teacher.exists(found) else None


def fill_bank(found: Teacher, dataset: Dataset, views: int, console: Console) -> Path:
    """The folder of a teacher's soft targets, with at least so many views."""
    folder = soft_targets.folder_of(found, dataset)
    filled = soft_targets.is_filled(folder, views)
    if not filled:
        with turn(folder / soft_targets.LOCK, f"filling {folder}", console.print):
            filled = soft_targets.is_filled(folder, views)
            if not filled:
                _ask(found, folder, dataset, views, console)
    soft_targets.open_bank(
        folder, soft_targets.fingerprint_of(found, dataset), len(dataset.train), dataset.num_classes, views
    )
    if filled:
        if not soft_targets.still_true(folder, found, dataset, best_device()):
            raise ConfigError(
                f"{folder}: the teacher no longer says what is stored here, so its network's code has changed; delete "
                "the folder to fill it anew"
            )
        console.print(f"soft targets: {views} views in {folder}")
    return folder


def _ask(found: Teacher, folder: Path, dataset: Dataset, views: int, console: Console) -> None:
    """Fills a bank, and says how long it took."""
    missing = soft_targets.missing_answers(folder, dataset, views)
    began = time.monotonic()
    with progress(console, f"soft targets, {views} views") as advance:
        soft_targets.fill(folder, found, dataset, views, best_device(), advance)
    seconds = time.monotonic() - began
    rate = missing / seconds
    console.print(f"soft targets: {missing} answers in {duration(seconds)} ({rate:.0f} a second), in {folder}")


def _from_network(
    section: Mapping[str, Any],
    dataset_section: Mapping[str, Any],
    dataset: Dataset,
    views: int,
    source: Path | None,
    console: Console,
) -> PreparedTeacher:
    found = find_or_train_teacher(section, dataset_section, dataset, source, console)
    permutation: dict[str, int] = {}
    if section.get("mode") == "live":
        console.print(
            f"teacher: {branch_name(section)} is live, asked in every step of every trial; with stored answers "
            "(mode: bank) it would be asked once"
        )
        place, fingerprint = TeacherPlace(live=str(found.folder.resolve())), found.fingerprint
        right = teacher.accuracy(found, dataset.val, best_device())
        found.network.cpu()
    else:
        bank = fill_bank(found, dataset, views, console)
        if section["name"] == "permuted":
            permutation = {"permuted_by": section.get("seed", 0)}
            bank = derived_banks.permute(bank, dataset, views, permutation["permuted_by"])
        place = TeacherPlace(bank=str(bank.resolve()))
        fingerprint = soft_targets.read_fingerprint(bank)
        right = _bank_accuracy(bank, fingerprint, dataset)
    facts = TeacherFacts(
        val_accuracy=right,
        num_parameters=count_parameters(found.network),
        multiply_adds=multiply_adds(found.network, dataset.in_channels, dataset.image_size),
        knows_validation_images=teacher.knows_validation_images(found.record, dataset),
        record=found.record.model_dump(exclude={"weights_sha256"}) | permutation,
    )
    return PreparedTeacher(place, fingerprint, facts, None if permutation else found.folder)


def _from_file(section: Mapping[str, Any], dataset: Dataset, views: int, console: Console) -> PreparedTeacher:
    """A teacher of which there is a file of logits and nothing else."""
    bank = derived_banks.from_file(Path(os.path.expanduser(section["file"])), dataset, views)
    fingerprint = soft_targets.read_fingerprint(bank)
    right = _bank_accuracy(bank, fingerprint, dataset)
    console.print(f"teacher: logits from {section['file']}, validation accuracy {right:.2%}; {views} views in {bank}")
    facts = TeacherFacts(
        val_accuracy=right,
        num_parameters=None,
        multiply_adds=None,
        knows_validation_images=None,
        record={"logits": str(section["file"])},
    )
    return PreparedTeacher(TeacherPlace(bank=str(bank.resolve())), fingerprint, facts, None)


def _bank_accuracy(bank: Path, fingerprint: str, dataset: Dataset) -> float:
    """Share of the validation images that a bank's clean answers classify right; its views were checked before."""
    opened = soft_targets.open_bank(bank, fingerprint, len(dataset.train), dataset.num_classes, views=1)
    return float((opened.val_logits.argmax(-1) == dataset.val.labels).mean())


def _random(section: Mapping[str, Any], dataset: Dataset) -> Teacher:
    """The control with first weights, kept in the cache like any other teacher."""
    architecture, seed = network_of(section), section.get("seed", 0)
    folder = _folder_of_random(section, dataset)
    if not teacher.exists(folder):
        with taking_turns(lock_of(folder)):
            if not teacher.exists(folder):
                record = teacher.base_record(architecture, dataset) | {"untrained": True, "seed": seed}
                teacher.save(folder, _untrained(architecture, dataset, seed), record)
    return teacher.load(folder, dataset)


def _untrained(architecture: Mapping[str, Any], dataset: Dataset, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(seed, "random teacher"))
        network = build_student(architecture, dataset)
        images = TrialData(dataset, None, torch.device("cpu")).first_images()
        if isinstance(network, StartsFromImages):
            network.initialise_from(images)
        _settle_batch_norms(network, images)
    return network


def _folder_of_random(section: Mapping[str, Any], dataset: Dataset) -> Path:
    return teacher.folder_of(network_of(section) | {"random": section.get("seed", 0)}, dataset)


def _settle_batch_norms(network: nn.Module, images: Tensor) -> None:
    """Gives batch norms the statistics of some images; with their first ones a network answers nearly alike to all."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images[: evaluation_batch(images.shape[-1])])
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    network.eval()


def _folder_of_weights(
    section: Mapping[str, Any], architecture: dict[str, Any], dataset: Dataset, console: Console
) -> Path:
    """The teacher that `weights` points to: a teacher's folder, or a file that is imported first, once."""
    path = Path(os.path.expanduser(section["weights"]))  # unlike Path's, it never raises
    if not path.is_file():
        if not teacher.exists(path):
            raise _no_teacher_at(path)
        return path
    folder = _folder_of_import(path, section, architecture, dataset)
    if not teacher.exists(folder):
        with turn(lock_of(folder), f"importing {path}", console.print):
            if not teacher.exists(folder):
                import_teacher(path, architecture, dataset, folder, console, normalisation=section.get("normalisation"))
    return folder


def _folder_of_import(
    path: Path, section: Mapping[str, Any], architecture: Mapping[str, Any], dataset: Dataset
) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr((architecture, section.get("normalisation"), dataset.fingerprint)).encode())
    return teacher.imported_folder(f"{architecture['name']}-{digest.hexdigest()[:12]}", dataset.name)


def _no_teacher_at(path: Path) -> ConfigError:
    return ConfigError(
        f"trial.teacher.weights: {path} holds no teacher and is no file of weights; `kd-tune teacher train "
        "--out` makes a teacher's folder"
    )


def _warn(name: str, found: TeacherFacts, dataset: Dataset, console: Console) -> None:
    """Says what should make somebody doubt a teacher."""
    if found.is_control:
        return
    if found.knows_validation_images:
        console.print(
            f"teacher: {name} learnt from images that this search selects on; its own accuracy there says nothing, "
            "and students that copy it may look better than they are"
        )
    chance = chance_of(dataset.val.labels)
    if chance.explains(found.val_accuracy):
        console.print(
            f"teacher: {name} gets {found.val_accuracy:.2%} of this search's validation images right, no better than "
            f"chance ({chance.accuracy:.2%}); are its images, its classes or their order other ones?"
        )
