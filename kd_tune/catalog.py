"""Binds the names in a trial to the tables of data sets, networks, objectives, optimizers; checks their arguments.

An argument's domain is its annotation in the signature that it will be given to (`Annotated[float, Field(ge=0,
le=1)]`), checked by pydantic: for a value, for both ends of a range, and for every option of a choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from kd_tune.config import Choice, FloatRange, IntRange, PathKeys, Source, TrainingConfig, describe_error, known_names
from kd_tune.data import DATASETS, Dataset
from kd_tune.errors import ConfigError
from kd_tune.models import STUDENTS, TEACHERS
from kd_tune.objectives import OBJECTIVES, Objective
from kd_tune.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Table:
    """Entries of one kind.

    Attributes:
        kind: what an entry is, for messages.
        entries: callables by name.
        supplied: arguments that kd_tune gives, which a file may not.
        extra: keys of the section that are not the callable's, with their types.
        fixed: whether the section may hold no ranges.
    """

    kind: str
    entries: Mapping[str, Callable[..., Any]]
    supplied: frozenset[str] = frozenset()
    extra: tuple[tuple[str, Any], ...] = ()
    fixed: bool = False


_IMAGE = frozenset({"num_classes", "in_channels", "image_size"})
TABLES: dict[str, Table] = {
    "dataset": Table("data set", DATASETS, frozenset({"source"}), fixed=True),
    "teacher": Table("teacher", TEACHERS, _IMAGE, (("weights", str),), fixed=True),
    "student": Table("student", STUDENTS, _IMAGE),
    "objective": Table("objective", OBJECTIVES),
    "optimizer": Table("optimizer", OPTIMIZERS, frozenset({"parameters"})),
}
_FIXED_TRAINING = ("num_epochs", "views")  # the clock of every rung, and the size of the bank


def check_trial(trial: Mapping[str, Any], source: Source) -> list[str]:
    """Everything wrong with a trial's names and arguments, ranges included; a problem a line."""
    problems: list[str] = []
    for key, table in TABLES.items():
        if key in trial:
            problems += [source.problem(path, text) for path, text in _check_section(trial[key], table, ("trial", key))]
    if "training" in trial:
        problems += [source.problem(path, text) for path, text in _check_training(trial["training"])]
    if "teacher" not in trial and not problems:
        for section, path in _sections(trial["objective"], ("trial", "objective")):
            if OBJECTIVES[section["name"]].needs_teacher:  # type: ignore[attr-defined]
                problems.append(source.problem(path, f"{section['name']} needs a teacher; add trial.teacher"))
    return problems


def load_dataset(section: Mapping[str, Any], source: Path | None) -> Dataset:
    """The data set that a `dataset` section names.

    Raises:
        ConfigError: the data are missing or malformed.
    """
    dataset: Dataset = DATASETS[section["name"]](source, **_arguments(section))
    return dataset


def build_student(section: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """A student (or, as the student of its own training, a teacher) for a data set's images; seeds are the caller's."""
    return build_network(section, dataset.num_classes, dataset.in_channels, dataset.image_size)


def build_network(section: Mapping[str, Any], num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The network that a `student` or `teacher` section names.

    Raises:
        ConfigError: the network cannot be built for such images.
    """
    entry = (STUDENTS | TEACHERS)[section["name"]]
    try:
        network: nn.Module = entry(
            num_classes=num_classes, in_channels=in_channels, image_size=image_size, **_arguments(section)
        )
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # torch's, where a layer is impossibly large
        raise ConfigError(f"{section['name']} cannot be built: {str(error).splitlines()[0]}") from None
    return network


def build_objective(section: Mapping[str, Any]) -> Objective:
    """The objective that an `objective` section names."""
    objective: Objective = OBJECTIVES[section["name"]](**_arguments(section))
    return objective


def build_optimizer(section: Mapping[str, Any], network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that an `optimizer` section names, over all of a network's parameters."""
    return OPTIMIZERS[section["name"]](network.parameters(), **_arguments(section))


def control_objective(arm: str) -> dict[str, Any]:
    """The `objective` section, with its ranges, that an arm without the teacher's help has in place of the file's."""
    controls: dict[str, dict[str, Any]] = {
        "cross_entropy": {"name": "cross_entropy"},
        "label_smoothing": {"name": "label_smoothing", "smoothing": FloatRange(bounds=[0.0, 0.4])},
    }
    return controls[arm]


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in ("name", "weights")}


def _sections(node: Any, path: PathKeys) -> Iterator[tuple[Mapping[str, Any], PathKeys]]:
    """The section itself, or every section of a choice."""
    if isinstance(node, Choice) and node.is_sections:
        for index, option in enumerate(node.options):
            yield option, (*path, "choice", index)
    else:
        yield node, path


def _check_section(node: Any, table: Table, path: PathKeys) -> Iterator[tuple[PathKeys, str]]:
    if table.fixed and isinstance(node, Choice):
        yield path, "cannot be a choice"
        return
    for section, where in _sections(node, path):
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            yield where, f"must be a section with a name; {known_names('', table.entries)}"
            continue
        name = section["name"]
        entries = table.entries if table.kind != "student" else {**table.entries, **TEACHERS}
        if name not in entries:
            yield (*where, "name"), f"unknown {table.kind} '{name}'; {known_names(name, entries)}"
            continue
        domains, required = _signature(entries[name], table)
        for key, leaf in section.items():
            if key == "name":
                continue
            if key not in domains:
                yield (*where, key), f"{name} has no such argument; {known_names(key, domains)}"
            else:
                for text in _check_leaf(leaf, domains[key], table.fixed):
                    yield (*where, key), text
        for key in required - section.keys():
            yield where, f"{name} needs the argument {key}"


def _check_training(training: Any) -> Iterator[tuple[PathKeys, str]]:
    path: PathKeys = ("trial", "training")
    if not isinstance(training, Mapping):
        yield path, "must be a section"
        return
    fields = TrainingConfig.model_fields
    for key, leaf in training.items():
        if key not in fields:
            yield (*path, key), f"unknown key; {known_names(key, fields)}"
            continue
        hint = get_type_hints(TrainingConfig, include_extras=True)[key]
        for text in _check_leaf(leaf, hint, key in _FIXED_TRAINING):
            yield (*path, key), text
    if "num_epochs" not in training:
        yield path, "num_epochs is missing"


def _check_leaf(leaf: Any, domain: Any, fixed: bool) -> Iterator[str]:
    """What is wrong with a value, or with the ends of a range, for an argument of this domain."""
    is_range = isinstance(leaf, FloatRange | IntRange | Choice)
    if is_range and fixed:
        yield "must be one value, not a range"
        return
    for value in leaf.extremes if is_range else [leaf]:
        try:
            _adapter(domain).validate_python(value)
        except ValidationError as error:
            yield describe_error(error.errors()[0])


@cache
def _adapter(domain: Any) -> TypeAdapter[Any]:
    return TypeAdapter(domain, config=ConfigDict(strict=True, allow_inf_nan=False))


def _signature(entry: Callable[..., Any], table: Table) -> tuple[dict[str, Any], set[str]]:
    """Domains of the arguments that a file may set, and the names of those that it must."""
    function = entry.__init__ if inspect.isclass(entry) else entry
    hints = get_type_hints(function, include_extras=True)
    domains: dict[str, Any] = dict(table.extra)
    required: set[str] = set()
    for name, parameter in inspect.signature(entry).parameters.items():
        if name not in table.supplied:
            domains[name] = hints[name]
            if parameter.default is inspect.Parameter.empty:
                required.add(name)
    return domains, required
