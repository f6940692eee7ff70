"""Teachers that kd_tune trains itself: their recipes, the training, and the measurement on the test set."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kd_tune import checkpoint, host, teacher
from kd_tune.augment import view_table
from kd_tune.catalog import build_optimizer, build_student, check_section, check_trial, load_dataset
from kd_tune.config import TrainingConfig
from kd_tune.data import DATASETS, Dataset, resolve_source
from kd_tune.engine import check_fit, count_parameters
from kd_tune.errors import ConfigError
from kd_tune.manifest import hardware, versions
from kd_tune.models import TEACHERS
from kd_tune.models.cost import multiply_adds
from kd_tune.paths import read_json, write_json
from kd_tune.progress import duration, progress
from kd_tune.records import Assignment, EpochRow, finite_or_none
from kd_tune.search_file import Source, known_names, override, parse_search_file
from kd_tune.space import Space
from kd_tune.teacher import Teacher
from kd_tune.trial_data import best_device
from kd_tune.user_code import is_reference

TEACHER_SEED = 0
LOG = "epochs.json"
LOGGED = ("epoch", "train_loss", "val_accuracy", "val_loss", "learning_rate", "seconds")

# How a teacher is trained when a search needs one and none is there; chosen on validation data. `kd-tune teacher train
# --set training.num_epochs=6` changes any of it.
_LARGE: dict[str, Any] = {
    "objective": {"name": "label_smoothing", "smoothing": 0.1},
    "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
    "training": {"num_epochs": 100, "batch_size": 256, "views": 162},
}
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {
        "objective": {"name": "label_smoothing", "smoothing": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4},
        "training": {"num_epochs": 15, "batch_size": 100, "views": 81},
    },
    "compact": {
        "objective": {"name": "label_smoothing", "smoothing": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.6, "momentum": 0.85, "weight_decay": 1.3e-3},
        "training": {"num_epochs": 30, "batch_size": 512, "views": 162},
    },
}


def recipe(section: Mapping[str, Any], dataset_section: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The trial by which a teacher is trained: a trial without a teacher whose student is the teacher's network.

    Networks without a recipe of their own, the user's included, take that of the large ones. Views and batch are at
    most what the data set has.
    """
    trial = {"dataset": dict(dataset_section), "student": dict(section), **RECIPES.get(section["name"], _LARGE)}
    training = trial["training"]
    views = min(training["views"], len(view_table(dataset.flips)))
    trial["training"] = training | {"views": views, "batch_size": min(training["batch_size"], len(dataset.train))}
    return trial


def checked_recipe(
    section: Mapping[str, Any], dataset_section: Mapping[str, Any], dataset: Dataset, overrides: list[str]
) -> dict[str, Any]:
    """A teacher's recipe with overrides, checked like any other trial.

    Raises:
        ConfigError: an unknown name, a value outside its domain, or another data set than the one given.
    """
    raw: dict[str, Any] = {"trial": json.loads(json.dumps(recipe(section, dataset_section, dataset)))}
    for text in overrides:
        override(raw["trial"], text)
    file = parse_search_file(raw, Source("teacher recipe", {}))
    problems = check_trial(file.trial, file.source)
    if not problems and Space(file.trial).parameters():
        problems = ["teacher recipe: a teacher is trained once; it cannot hold ranges"]
    if not problems and file.trial["dataset"] != dataset_section:
        problems = ["teacher recipe: --set cannot change the data set; use --dataset and --data"]
    if not problems and section["name"] not in TEACHERS and not is_reference(section["name"]):
        problems = [f"teacher recipe: unknown teacher '{section['name']}'; {known_names(section['name'], TEACHERS)}"]
    if problems:
        raise ConfigError(problems)
    return file.trial


def train_teacher(
    folder: Path,
    trial: Mapping[str, Any],
    dataset: Dataset,
    source: Path | None,
    console: Console,
    start: Teacher | None = None,
) -> Teacher:
    """Trains a teacher through the engine, with checkpoints; a training that was stopped goes on.

    Args:
        folder: where the teacher will lie; the caller holds its lock (`turns.lock_of`).
        trial: its recipe.
        dataset: what it learns.
        source: where the data lie.
        console: shows progress.
        start: whose weights to start from; None: random ones.

    Raises:
        ConfigError: the recipe does not fit the data, an unfinished training of another recipe lies in the way, or the
            training diverged.
    """
    check_fit(TrainingConfig.model_validate(trial["training"]), dataset)
    work = folder.with_name(folder.name + ".training")
    if start is not None:
        trial = {**trial, "started_from": start.fingerprint}
    began = time.monotonic()
    _check_unfinished(work, trial, dataset)
    if start is not None and checkpoint.newest(work) is None:
        _lay_start(work, trial, dataset, start)
    row = _train(work, trial, source, console)
    _keep(folder, work, trial, dataset, row, time.monotonic() - began, start)
    trained = teacher.load(folder, dataset)
    console.print(f"teacher: trained in {duration(time.monotonic() - began)}: {trained.describe()}")
    return trained


def _lay_start(work: Path, trial: Mapping[str, Any], dataset: Dataset, start: Teacher) -> None:
    """A checkpoint of epoch 0 with another teacher's weights, for the training to go on from."""
    if start.record.architecture != trial["student"]:
        raise ConfigError(f"{start.folder}: holds {start.record.architecture}, not {trial['student']}")
    right = teacher.accuracy(start, dataset.val, best_device())
    row = EpochRow(
        epoch=0,
        train_loss=math.nan,
        val_accuracy=right,
        val_loss=math.nan,
        val_agreement=math.nan,
        val_ece=math.nan,
        val_accuracy_even=math.nan,
        val_accuracy_odd=math.nan,
        learning_rate=math.nan,
        seconds=0.0,
        images_per_second=math.nan,
        num_parameters=count_parameters(start.network),
        multiply_adds=multiply_adds(start.network, dataset.in_channels, dataset.image_size),
    )
    record = {"trial": trial, "row": finite_or_none(asdict(row)), "dataset": dataset.identity}
    network = start.network.cpu()
    checkpoint.save(work / "epoch_0000", network, build_optimizer(trial["optimizer"], network), record)


def _train(work: Path, trial: Mapping[str, Any], source: Path | None, console: Console) -> EpochRow:
    """Trains to the end, with checkpoints in `work`; returns the last row."""
    num_epochs = trial["training"]["num_epochs"]
    assignment = Assignment(
        number=0,
        arm="teacher",
        trial=dict(trial),
        seed=TEACHER_SEED,
        order_seed=TEACHER_SEED,
        checkpoints=str(work),
        source=None if source is None else str(source),
        teacher=None,
        checkpoint_epochs=(num_epochs,),
        device=best_device().type,
        threads=torch.get_num_threads(),
    )
    found = checkpoint.newest(work)
    row = None
    log = read_json(work / LOG) if (work / LOG).exists() else {}
    with progress(console, f"training {trial['student']['name']}, epoch") as advance:
        advance(0 if found is None else checkpoint.epoch_of(found), num_epochs)
        for row in host.open_trial(assignment):
            if not row.restored:
                log[str(row.epoch)] = finite_or_none({key: getattr(row, key) for key in LOGGED})
                write_json(work / LOG, log)
            advance(row.epoch, num_epochs, f"validation {row.val_accuracy:.2%}")
    host.forget_data()
    assert row is not None
    if row.diverged:
        shutil.rmtree(work)
        raise ConfigError(f"the training of the teacher diverged in epoch {row.epoch}; lower --set optimizer.lr")
    return row


def _keep(
    folder: Path,
    work: Path,
    trial: Mapping[str, Any],
    dataset: Dataset,
    row: EpochRow,
    seconds: float,
    start: Teacher | None,
) -> None:
    """Makes a teacher of a training's last checkpoint, and deletes the training."""
    newest = checkpoint.newest(work)
    assert newest is not None
    network = build_student(trial["student"], dataset)
    checkpoint.load_weights(newest / checkpoint.WEIGHTS, network)
    made = teacher.base_record(trial["student"], dataset) | {
        "recipe": dict(trial),
        "seed": TEACHER_SEED,
        "dataset": checkpoint.read(newest)["dataset"],
        "epochs": list(read_json(work / LOG).values()),
        "val_accuracy": row.val_accuracy,
        "val_loss": row.val_loss,
        "num_parameters": row.num_parameters,
        "seconds_of_last_launch": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
        "test_openings": [],
    }
    if start is not None:
        made["started_from"] = start.record.model_dump() | {
            "knows_validation_images": teacher.knows_validation_images(start.record, dataset)
        }
    teacher.save(folder, network, made)
    shutil.rmtree(work)


def _check_unfinished(work: Path, trial: Mapping[str, Any], dataset: Dataset) -> None:
    found = checkpoint.newest(work)
    if found is None:
        return
    record = checkpoint.read(found)
    for what, there, here in (
        ("with another recipe", record.get("trial"), trial),
        ("on other images", record.get("dataset", {}).get("fingerprint"), dataset.fingerprint),
    ):
        if there != here:
            raise ConfigError(f"{work}: an unfinished training {what} lies here; finish it, or delete the folder")


def measure_teacher(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Opens the test set for a teacher, and records the opening and its figure in `teacher.json`."""
    found = teacher.load(folder, dataset)
    opening: dict[str, Any] = {"time": time.time()}

    def log(what: dict[str, Any]) -> None:
        opening.update(what)
        teacher.update_record(folder, test_openings=[*found.record.test_openings, opening])

    images = dataset.open_test("teacher measure", log)
    opening["test_accuracy"] = teacher.accuracy(found, images, best_device())
    opening["num_images"] = len(images)
    teacher.update_record(folder, test_openings=[*found.record.test_openings, opening])
    return opening


def dataset_section(name: str, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The data set that a command names, with what `--set dataset.key=value` says of it, and the other overrides.

    Raises:
        ConfigError: an unknown data set or argument.
    """
    own = [text for text in overrides if text.startswith("dataset.")]
    raw: dict[str, Any] = {"dataset": {"name": name}}
    for text in own:
        override(raw, text)
    problems = check_section("dataset", raw["dataset"])
    if problems:
        raise ConfigError(problems)
    return raw["dataset"], [text for text in overrides if text not in own]


def known_source(dataset_name: str, source: Path | None) -> Path | None:
    """Where a data set lies, once its name is known to be one."""
    if dataset_name not in DATASETS:
        raise ConfigError(f"unknown data set '{dataset_name}'; {known_names(dataset_name, DATASETS)}")
    return resolve_source(dataset_name, source)


def locate_teacher(name: str, section: Mapping[str, Any], source: Path | None) -> tuple[Path, Dataset]:
    """The folder of a teacher by name or path, and its data set loaded.

    Raises:
        ConfigError: there is no such teacher.
    """
    dataset = load_dataset(section, known_source(section["name"], source))
    path = Path(name)
    found = teacher.writable(path) if teacher.exists(path) else teacher.find({"name": name}, dataset)
    if found is None:
        raise ConfigError(f"there is no teacher {name} for these data; `kd-tune teacher train {name}` makes one")
    return found, dataset
