"""Search files: reading, overriding and checking their shape, with the line of every problem.

A search file has three sections. `search` and `resources` are fixed models; `trial` is a trial as one would write it
by hand, in which some leaves are ranges. What the names and arguments inside `trial` mean is `catalog`'s business.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kd_tune.config import ArmConfig, ResourcesConfig, SearchConfig
from kd_tune.errors import ConfigError
from kd_tune.ranges import RANGE_KEYS, Choice, Model
from kd_tune.strict_yaml import StrictYamlError, parse_scalar, parse_yaml

PathKeys = tuple[Hashable, ...]

TRIAL_SECTIONS = ("dataset", "teacher", "student", "objective", "optimizer", "training")

ModelT = TypeVar("ModelT", bound=Model)


@dataclass(frozen=True)
class Source:
    """Where a value came from, for messages: the file's name and the line of every key path."""

    name: str
    lines: Mapping[PathKeys, int]

    def problem(self, path: PathKeys, text: str) -> str:
        """`file:line path: text`, with the line of the nearest enclosing key when the path has none of its own."""
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        where = self.name if known is None else f"{self.name}:{self.lines[known]}"
        return f"{where} {'.'.join(map(str, path))}: {text}" if path else f"{where}: {text}"


@dataclass(frozen=True)
class SearchFile:
    """A search file that has the right shape; `trial` is a tree whose leaves are values or ranges."""

    search: SearchConfig
    resources: ResourcesConfig
    trial: dict[str, Any]
    source: Source


def load_search_file(path: Path, overrides: Iterable[str] = (), num_trials: int | None = None) -> SearchFile:
    """Reads a search file.

    Args:
        path: the YAML file.
        overrides: `a.b.c=value` strings, each value read as YAML.
        num_trials: trials of every arm, whatever the file says.

    Raises:
        ConfigError: with every problem found, and its line.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        raw, lines = parse_yaml(content)
    except StrictYamlError as error:
        raise ConfigError(f"{path}:{error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping with the sections search, resources and trial")
    for text in overrides:
        override(raw, text)
        lines = {keys: line for keys, line in lines.items() if ".".join(map(str, keys)) != text.partition("=")[0]}
    file = parse_search_file(raw, Source(str(path), lines))
    if num_trials is None:
        return file
    arms = [ArmConfig(name=arm.name) for arm in file.search.arms]
    return replace(file, search=file.search.model_copy(update={"num_trials": num_trials, "arms": arms}))


def parse_search_file(raw: dict[str, Any], source: Source) -> SearchFile:
    """Checks the shape of a search file that was read; raises ConfigError with every problem."""
    problems: list[str] = []
    known = ("search", "resources", "trial")
    problems += [source.problem((key,), _unknown(key, known)) for key in raw if key not in known]
    search = _validate(SearchConfig, raw.get("search", {}), ("search",), source, problems)
    resources = _validate(ResourcesConfig, raw.get("resources", {}), ("resources",), source, problems)
    trial = raw.get("trial")
    if isinstance(trial, dict):
        problems += [
            source.problem(("trial", key), _unknown(key, TRIAL_SECTIONS)) for key in trial if key not in TRIAL_SECTIONS
        ]
        problems += [
            f"{source.name}: trial.{key} is missing" for key in TRIAL_SECTIONS if key not in trial and key != "teacher"
        ]
        tree = _parse_tree(trial, ("trial",), source, problems)
    else:
        problems.append(
            f"{source.name}: trial is missing" if trial is None else f"{source.name}: trial must be a mapping"
        )
    if problems:
        raise ConfigError(problems)
    assert search is not None
    assert resources is not None
    return SearchFile(search, resources, tree, source)


def _parse_tree(node: Any, path: PathKeys, source: Source, problems: list[str]) -> Any:
    """Replaces every `{float: ...}`, `{int: ...}` and `{choice: ...}` below `node` by its range."""
    if not isinstance(node, dict):
        return node
    kinds = [key for key in RANGE_KEYS if key in node]
    if not kinds:
        return {key: _parse_tree(value, (*path, key), source, problems) for key, value in node.items()}
    parsed = _validate(RANGE_KEYS[kinds[0]], node, path, source, problems)
    if isinstance(parsed, Choice) and parsed.is_sections:
        options = [
            _parse_tree(option, (*path, kinds[0], index), source, problems)
            for index, option in enumerate(parsed.options)
        ]
        return Choice.model_construct(options=options)
    return parsed


def _validate(model: type[ModelT], raw: Any, path: PathKeys, source: Source, problems: list[str]) -> ModelT | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems += [source.problem((*path, *item["loc"]), describe_error(item, model)) for item in error.errors()]
        return None


def describe_error(item: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """One pydantic error as a sentence that says what was given and what is allowed."""
    if item["type"] == "extra_forbidden" and model is not None:
        known = [field.alias or name for name, field in model.model_fields.items()]
        return _unknown(item["loc"][-1], known)
    if item["type"] == "missing":
        return "is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    return message if item["type"] == "value_error" else f"{item['input']!r} {message}"


def _unknown(key: Hashable, known: Iterable[str]) -> str:
    return f"unknown key; {known_names(str(key), known)}"


def known_names(given: str, known: Iterable[str]) -> str:
    """`known: a, b; did you mean 'a'?`: the end of every message about an unknown name."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    return f"known: {', '.join(names)}" + (f"; did you mean '{close[0]}'?" if close else "")


def override(raw: dict[str, Any], assignment: str) -> None:
    """Sets one leaf, `a.b.c=value`; the path's sections must exist, its last key may be new.

    Raises:
        ConfigError: not of that form, or no such section.
    """
    dotted, equals, text = assignment.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment}: must look like trial.training.num_epochs=9")
    node: Any = raw
    if keys[0] in ("search", "resources"):
        raw.setdefault(keys[0], {})
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(node.get(key), dict):
            raise ConfigError(f"--set {assignment}: there is no section {'.'.join(keys[:depth])}")
        node = node[key]
    try:
        node[keys[-1]] = parse_scalar(text)
    except StrictYamlError as error:
        raise ConfigError(f"--set {assignment}: {error}") from None
