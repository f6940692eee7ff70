"""Binds the names in a trial to the tables of data sets, networks, objectives, optimizers; checks their arguments.

An argument's domain is its annotation in the signature that it will be given to (`Annotated[float, Field(ge=0,
le=1)]`), checked by pydantic: for a value, for both ends of a range, and for every option of a choice.
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from torch import nn

from kd_tune import user_code
from kd_tune.arms import teachers_of
from kd_tune.augment import TRANSFORMS
from kd_tune.config import TrainingConfig
from kd_tune.data import DATASETS, Dataset
from kd_tune.errors import ConfigError
from kd_tune.models import STUDENTS, TEACHERS
from kd_tune.models.derived import DERIVED
from kd_tune.objectives import OBJECTIVES, TEACHER, Objective
from kd_tune.optimizers import OPTIMIZERS
from kd_tune.ranges import Choice, FloatRange, IntRange
from kd_tune.search_file import PathKeys, Source, describe_error, known_names
from kd_tune.space import Draw, Space, first_value


@dataclass(frozen=True)
class Table:
    """Entries of one kind.

    Attributes:
        kind: what an entry is, for messages.
        entries: callables by name.
        supplied: arguments that kd_tune gives, which a file may not.
        extra: keys of the section that are not the callable's, with their types.
        fixed: whether the section may hold no ranges.
        open: whether the user's own callables may be named.
    """

    kind: str
    entries: Mapping[str, Callable[..., Any]]
    supplied: frozenset[str] = frozenset()
    extra: tuple[tuple[str, Any], ...] = ()
    fixed: bool = False
    open: bool = False


_IMAGE = frozenset({"num_classes", "in_channels", "image_size"})
_OF_TEACHERS: tuple[tuple[str, Any], ...] = (
    ("label", Annotated[str, Field(pattern=r"^\w[\w .-]*$")]),  # tells two teachers of one name apart in a choice
    ("weights", str),  # a teacher's folder, or a file of weights
    ("normalisation", dict[Literal["mean", "std"], list[float]]),  # that a file's weights were trained with
    ("mode", Literal["bank", "live"]),
)
_NETWORKS = Table("network", ChainMap(TEACHERS, STUDENTS), open=True)  # which lists the last first
_NETWORKS_OF_TEACHERS = Table("teacher", TEACHERS, open=True)
_TRANSFORMS = Table("transform", TRANSFORMS, open=True)
TABLES: dict[str, Table] = {
    "dataset": Table("data set", DATASETS, frozenset({"source"}), fixed=True),
    "teacher": Table("teacher", {**TEACHERS, **DERIVED}, _IMAGE, _OF_TEACHERS, fixed=True, open=True),
    "student": Table("student", _NETWORKS.entries, _IMAGE, open=True),
    "objective": Table("objective", OBJECTIVES, _IMAGE, open=True),
    "optimizer": Table("optimizer", OPTIMIZERS, frozenset({"parameters"})),
}
_STORED_ONLY = (
    "stored answers are about the views alone; with trial.training.transform a teacher needs mode: live, which asks it "
    "in every step"
)
FIXED_TRAINING = ("num_epochs", "views", "transform")  # rungs, the bank and its teacher are common to all trials


def check_trial(trial: Mapping[str, Any], source: Source) -> list[str]:
    """Everything wrong with a trial's names and arguments, ranges included; a problem a line."""
    problems: list[str] = []
    for key, table in TABLES.items():
        if key in trial:
            problems += [source.problem(path, text) for path, text in _check_section(trial[key], table, ("trial", key))]
    if "training" in trial:
        problems += [source.problem(path, text) for path, text in _check_training(trial["training"])]
    if not problems:
        problems = [source.problem(path, text) for path, text in _check_together(trial)]
    return problems


def check_section(key: str, section: Mapping[str, Any]) -> list[str]:
    """Everything wrong with one section that was not read from a file."""
    return [f"{'.'.join(map(str, path))}: {text}" for path, text in _check_section(section, TABLES[key], (key,))]


def _check_together(trial: Mapping[str, Any]) -> Iterator[tuple[PathKeys, str]]:
    """What is wrong with sections that are right one by one."""
    if "teacher" not in trial:
        for section, path in _sections(trial["objective"], ("trial", "objective")):
            if getattr(OBJECTIVES.get(section["name"]), "needs_teacher", False):
                yield path, f"{section['name']} needs a teacher; add trial.teacher"
        return
    transformed = trial["training"].get("transform", "none") != "none"
    for section, path in _sections(trial["teacher"], ("trial", "teacher")):
        yield from _check_weights(section, path)
        live = section.get("mode") == "live"
        if live and section["name"] in ("permuted", "logits"):
            yield (*path, "mode"), f"{section['name']} has stored answers only; it cannot be live"
        if transformed and not live:
            yield path, _STORED_ONLY


def _check_weights(section: Mapping[str, Any], path: PathKeys) -> Iterator[tuple[PathKeys, str]]:
    """Whether `weights` and `normalisation` of a teacher section mean anything, and are whole."""
    if "weights" in section and section["name"] in ("random", "logits"):
        yield (*path, "weights"), f"{section['name']} has none"
    if "normalisation" not in section:
        return
    if "weights" not in section:
        yield (*path, "normalisation"), "goes with a file of weights; other teachers have their own"
    normalisation = section["normalisation"]
    if normalisation.keys() != {"mean", "std"} or len(normalisation["mean"]) != len(normalisation["std"]):
        yield (*path, "normalisation"), "must hold mean and std, each with a number a channel"
    elif min(normalisation["std"], default=0) <= 0:
        yield (*path, "normalisation"), "every std must be above 0"


def architecture_of(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher section's network: its name and the arguments that the network is built with."""
    extra = {key for key, _ in _OF_TEACHERS}
    return {key: value for key, value in teacher.items() if key not in extra}


def load_dataset(section: Mapping[str, Any], source: Path | None) -> Dataset:
    """The data set that a `dataset` section names.

    Raises:
        ConfigError: the data are missing or malformed.
    """
    dataset: Dataset = DATASETS[section["name"]](source, **_arguments(section))
    return dataset


def build_student(section: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """A student (or, as the student of its own training, a teacher) for a data set's images; seeds are the caller's."""
    return build_network(section, **dataset.input_shape)


def build_network(section: Mapping[str, Any], num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The network that a section names: one of STUDENTS or TEACHERS, or the user's own.

    Raises:
        ConfigError: unknown, cannot be built for such images, or code that was not allowed.
    """
    name = section["name"]
    entry = _find(name, _NETWORKS)
    try:
        network = entry(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **_arguments(section))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # torch's, where a layer is impossibly large
        raise ConfigError(f"{name} cannot be built: {_first_line(error)}") from None
    except Exception as error:  # whatever the user's own code raises
        if not user_code.is_reference(name):
            raise
        raise ConfigError(f"{name} cannot be built: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} must return a torch.nn.Module, not {type(network).__name__}")
    return network


def build_objective(section: Mapping[str, Any], dataset: Dataset) -> Objective:
    """The objective that an `objective` section names; the user's own is told of the data set what it asks for.

    Raises:
        ConfigError: it cannot be built, or is code that was not allowed.
    """
    name = section["name"]
    entry = _find(name, TABLES["objective"])
    if not user_code.is_reference(name):
        objective: Objective = entry(**_arguments(section))
        return objective
    known = {key: getattr(dataset, key) for key in _IMAGE & inspect.signature(entry).parameters.keys()}
    try:
        objective = entry(**known, **_arguments(section))
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(f"{name} cannot be built: {type(error).__name__}: {_first_line(error)}") from error
    lacking = [attribute for attribute in ("version", "needs_teacher") if not hasattr(objective, attribute)]
    if lacking or not callable(objective):
        raise ConfigError(f"{name} must give an objective: callable, with the attributes version and needs_teacher")
    return objective


def not_stackable(trial: Mapping[str, Any]) -> list[str]:
    """What keeps students from being trained in one step with others of their shape, among all that a trial with ranges
    stands for: in words, and empty if nothing does.

    Students and objectives that are made by functions, not classes, count: of them nothing is known.
    """
    found = ["a live teacher"] if any(section.get("mode") == "live" for section in teachers_of(trial)) else []
    if (transform := trial["training"].get("transform", "none")) != "none":
        found.append(f"transform {transform}" if isinstance(transform, str) else "transforms")
    for section, _ in _sections(trial["student"], ()):
        if not hasattr(_find(section["name"], _NETWORKS), "forward_stack"):
            found.append(f"student {section['name']}")
    for section, _ in _sections(trial["objective"], ()):
        if not getattr(_find(section["name"], TABLES["objective"]), "stackable", False):
            found.append(f"objective {section['name']}")
    return found


def canonical_draw(space: Space, draw: Draw) -> Draw:
    """The draw with every parameter that is inert in it at the first value of its range.

    Draws that stand for the same trial become equal. Of the user's own objectives nothing is known to be inert.
    """
    section = space.fill(draw)["objective"]
    if user_code.is_reference(section["name"]):
        return draw
    inert = OBJECTIVES[section["name"]](**_arguments(section)).inert()
    branch = f"[{draw['objective']}]" if "objective" in draw else ""
    names = {"teacher" if key == TEACHER else f"objective{branch}.{key}" for key in inert}
    ranges = space.active(draw)
    return {name: first_value(ranges[name]) if name in names else value for name, value in draw.items()}


def find_transform(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The transform of image batches that `training.transform` names.

    Raises:
        ConfigError: unknown, or code that was not allowed.
    """
    return _find(name, _TRANSFORMS)


def build_optimizer(section: Mapping[str, Any], network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that an `optimizer` section names, over all of a network's parameters."""
    return OPTIMIZERS[section["name"]](network.parameters(), **_arguments(section))


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "name"}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _sections(node: Any, path: PathKeys) -> Iterator[tuple[Mapping[str, Any], PathKeys]]:
    """The section itself, or every section of a choice."""
    if isinstance(node, Choice) and node.is_sections:
        for index, option in enumerate(node.options):
            yield option, (*path, "choice", index)
    else:
        yield node, path


def _check_section(node: Any, table: Table, path: PathKeys) -> Iterator[tuple[PathKeys, str]]:
    if table.kind == "data set" and isinstance(node, Choice):
        yield path, "cannot be a choice"
        return
    for section, where in _sections(node, path):
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            yield where, f"must be a section with a name; {known_names('', table.entries)}"
            continue
        try:
            domains, required, free = signature(_find(section["name"], table), table)
        except ConfigError as error:
            yield (*where, "name"), str(error)
            continue
        for key, leaf in section.items():
            if key == "name":
                continue
            if free and key not in domains:
                domains[key] = Any
            if key not in domains:
                yield (*where, key), f"{section['name']} has no such argument; {known_names(key, domains)}"
            else:
                for text in _check_leaf(leaf, domains[key], table.fixed):
                    yield (*where, key), text
        for key in required - section.keys():
            yield where, f"{section['name']} needs the argument {key}"
        if table.kind == "teacher":
            yield from _check_derived(section, where)


def _find(name: str, table: Table) -> Callable[..., Any]:
    """An entry by its name, or the user's own callable; ConfigError if there is none, or it may not be imported."""
    if table.open and user_code.is_reference(name):
        return user_code.load(name)
    if name not in table.entries:
        raise ConfigError(f"unknown {table.kind} '{name}'; {known_names(name, table.entries)}")
    return table.entries[name]


def _check_derived(section: Mapping[str, Any], path: PathKeys) -> Iterator[tuple[PathKeys, str]]:
    """Whether a teacher that is made from another names one that there is."""
    key = {"random": "network", "permuted": "of"}.get(section["name"])
    name = section.get(key) if key else None
    if key and isinstance(name, str):
        try:
            _find(name, _NETWORKS_OF_TEACHERS)
        except ConfigError as error:
            yield (*path, key), str(error)


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
        for text in _check_leaf(leaf, hint, key in FIXED_TRAINING):
            yield (*path, key), text
        if key == "transform" and isinstance(leaf, str):
            try:
                find_transform(leaf)
            except ConfigError as error:
                yield (*path, key), str(error)
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
            adapter(domain).validate_python(value)
        except ValidationError as error:
            yield describe_error(error.errors()[0])


def adapter(domain: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(domain, config=ConfigDict(strict=True, allow_inf_nan=False))
    except PydanticSchemaGenerationError:  # a type of the user's own, which no value in a file can be
        return TypeAdapter(Any)
    except PydanticUserError:  # a model or data class, which has a configuration of its own
        return TypeAdapter(domain)


def signature(entry: Callable[..., Any], table: Table) -> tuple[dict[str, Any], set[str], bool]:
    """Domains of the arguments that a file may set, the names of those that it must, and whether it may add others.

    An argument without an annotation, as the user's own may have, takes any value.
    """
    function = entry.__init__ if inspect.isclass(entry) else entry
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names known to type checkers only; partials and callable objects
        hints = {}
    domains: dict[str, Any] = dict(table.extra)
    required: set[str] = set()
    free = False
    for name, parameter in inspect.signature(entry).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            free = True
        elif name not in table.supplied and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            domains[name] = hints.get(name, Any)
            if parameter.default is inspect.Parameter.empty:
                required.add(name)
    return domains, required, free
