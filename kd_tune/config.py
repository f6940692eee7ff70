"""The shape of a search file: strict YAML, pydantic models for its sections, ranges, and overrides.

A search file has three sections. `search` and `resources` are fixed models; `trial` is a trial as one would write it
by hand, in which some leaves are ranges. What the names and arguments inside `trial` mean is `catalog`'s business.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from kd_tune.errors import ConfigError
from kd_tune.strict_yaml import StrictYamlError, parse_scalar, parse_yaml

PathKeys = tuple[Hashable, ...]


class Model(BaseModel):
    """Base of every section: unknown keys are errors, types are not coerced, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_by_name=True, validate_by_alias=True)


ModelT = TypeVar("ModelT", bound=Model)


class FloatRange(Model):
    """`{float: [low, high], log: true, step: 0.1}`: a real number, both ends included."""

    bounds: Annotated[list[FiniteFloat], Field(alias="float", min_length=2, max_length=2)]
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_bounds(self.bounds, self.log, self.step)
        return self

    @property
    def extremes(self) -> list[Any]:
        return list(self.bounds)


class IntRange(Model):
    """`{int: [low, high], log: true, step: 2}`: a whole number, both ends included."""

    bounds: Annotated[list[int], Field(alias="int", min_length=2, max_length=2)]
    log: bool = False
    step: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_bounds(self.bounds, self.log, self.step)
        return self

    @property
    def extremes(self) -> list[Any]:
        return list(self.bounds)


class Choice(Model):
    """`{choice: [a, b, c]}`: one of a list of values, or one of a list of sections that differ in `name` or `label`."""

    options: Annotated[list[Any], Field(alias="choice", min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_sections:
            sections = [option if isinstance(option, Mapping) else {} for option in self.options]
            if not all(isinstance(section.get("name"), str) for section in sections):
                raise ValueError("every section of a choice needs a name")
            keys: list[Any] = [branch_name(section) for section in sections]
        else:
            if any(isinstance(option, dict | list) for option in self.options):
                raise ValueError("a choice holds plain values or sections with a name, not a mixture of both")
            keys = [(type(option), option) for option in self.options]
        if len(set(keys)) < len(keys):
            raise ValueError("two options of the choice are the same")
        return self

    @property
    def is_sections(self) -> bool:
        return any(isinstance(option, Mapping) for option in self.options)

    @property
    def extremes(self) -> list[Any]:
        return list(self.options)


def branch_name(section: Mapping[str, Any]) -> str:
    """What a section is called as one option of a choice: its label, if it has one, or its name."""
    return str(section.get("label", section["name"]))


Range = FloatRange | IntRange | Choice
_RANGE_KEYS: dict[str, type[Range]] = {"float": FloatRange, "int": IntRange, "choice": Choice}


def _check_bounds(bounds: list[Any], log: bool, step: Any) -> None:
    low, high = bounds
    if not low < high:
        raise ValueError(f"the range is upside down or empty: {low} must be below {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range must start above 0, not at {low}")
    if log and step is not None:
        raise ValueError("a range has log or step, not both")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise ValueError(f"the step {step} does not divide the range from {low} to {high}")


class SamplerConfig(Model):
    """How trials are proposed.

    Attributes:
        name: `tpe` (Optuna's, over trials as they ended), `rung_tpe` (over the highest epoch that enough trials have
            reached), `random`, or `grid` (every cell once; choices and steps only).
        num_startup_trials: `tpe`: trials of an arm that must have ended before it stops drawing at random.
        num_results: `rung_tpe`: trials that must have reached an epoch before it is modelled.
        multivariate: both TPEs: whether parameters are drawn together, not one by one.
        constant_liar: both TPEs: whether they are told of running trials, as bad ones.
    """

    name: Literal["tpe", "rung_tpe", "random", "grid"] = "tpe"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    num_results: Annotated[int, Field(ge=2)] = 10
    multivariate: bool = False
    constant_liar: bool = False


_RUNG_SETTINGS = ("grace_period", "reduction_factor", "never_pruned")
# The settings that each scheduler has a use for; others are refused, and not written out as defaults.
_SCHEDULER_SETTINGS: dict[str, tuple[str, ...]] = {
    "asha": _RUNG_SETTINGS,
    "ray_asha": _RUNG_SETTINGS,
    "median": ("grace_period", "never_pruned"),
    "none": (),
}


class SchedulerConfig(Model):
    """When trials are stopped.

    Attributes:
        name: `asha` (ours); `ray_asha` or `median`, Ray's own; or `none` to train every trial to the end.
        grace_period: the first epoch after which a trial can be stopped; the first rung.
        reduction_factor: a rung keeps the best 1 / reduction_factor.
        never_pruned: share of every arm's trials that are trained to the end whatever happens at the rungs, so that
            pruning can be judged by them.
    """

    name: Literal["asha", "ray_asha", "median", "none"] = "asha"
    grace_period: Annotated[int, Field(ge=1)] = 3
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    never_pruned: Annotated[float, Field(ge=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _settings_have_a_use(self) -> Self:
        useless = sorted(self.model_fields_set - {"name", *_SCHEDULER_SETTINGS[self.name]})
        if useless:
            raise ValueError(f"{self.name} has no use for {' and '.join(useless)}; leave out what it has no use for")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_the_useless(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in ("name", *_SCHEDULER_SETTINGS[self.name])}


class ArmConfig(Model):
    """One arm of a search: `distil` is the file's own objective, the others are controls without a teacher's help.

    Attributes:
        name: `distil`, `cross_entropy` or `label_smoothing`.
        num_trials: trials of this arm; the search's `num_trials` if left out.
    """

    name: Literal["distil", "cross_entropy", "label_smoothing"]
    num_trials: Annotated[int, Field(ge=1)] | None = None


def control_objective(arm: str) -> dict[str, Any]:
    """The `objective` section, with its ranges, that an arm without the teacher's help has in place of the file's."""
    controls: dict[str, dict[str, Any]] = {
        "cross_entropy": {"name": "cross_entropy"},
        "label_smoothing": {"name": "label_smoothing", "smoothing": FloatRange(bounds=[0.0, 0.4])},
    }
    return controls[arm]


class SearchConfig(Model):
    """The `search` section.

    Attributes:
        goal: `best`, the most accurate student; or `front`, the best student at every size.
        num_trials: trials of every arm.
        arms: names, or sections with a name and a number of trials.
        sampler: how trials are proposed.
        scheduler: when trials are stopped.
        seed: everything random in the search follows from it.
        points: draws to start from, by parameter name; what a point leaves out is drawn.
        max_failures: times a trial that broke is started again from its last checkpoint.
    """

    goal: Literal["best", "front"] = "best"
    num_trials: Annotated[int, Field(ge=1)] = 32
    arms: Annotated[list[ArmConfig], Field(min_length=1)] = [ArmConfig(name="distil")]
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    points: list[dict[str, Any]] = []
    max_failures: Annotated[int, Field(ge=0)] = 3

    @field_validator("arms", mode="before")
    @classmethod
    def _name_to_arm(cls, arms: Any) -> Any:
        if isinstance(arms, list):
            return [{"name": arm} if isinstance(arm, str) else arm for arm in arms]
        return arms

    @field_validator("arms", mode="after")
    @classmethod
    def _arms_differ(cls, arms: list[ArmConfig]) -> list[ArmConfig]:
        if len({arm.name for arm in arms}) < len(arms):
            raise ValueError("an arm is named twice")
        return arms

    def trials_by_arm(self) -> dict[str, int]:
        return {arm.name: arm.num_trials or self.num_trials for arm in self.arms}


class ResourcesConfig(Model):
    """What one trial gets.

    Attributes:
        cpus_per_trial: whole cores; also its number of threads.
        gpus_per_trial: a fraction of one GPU, or whole GPUs.
    """

    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    gpus_per_trial: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0

    @field_validator("gpus_per_trial")
    @classmethod
    def _fraction_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("a share of a GPU is below 1; above it, whole GPUs only")
        return gpus


class TrainingConfig(Model):
    """The `training` section of a trial.

    Attributes:
        num_epochs: passes over the training images.
        batch_size: images a step; the last, smaller batch of an epoch is trained too.
        views: how many views of every image the student may see (`augment` lists them); 1 is the clean image.
        transform: what happens to images after their views were taken: `none`, `trivial_augment`, or the user's own
            `package.module:callable` of uint8 batches `[B, C, H, W]`.
        schedule: the learning rate over the whole training, as a factor.
        precision: `float32`, or `bfloat16` for autocast where a GPU trains; a CPU, on which that is slower, stays with
            float32.
    """

    num_epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    views: Annotated[int, Field(ge=1, le=162)] = 1
    transform: str = "none"
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    precision: Literal["float32", "bfloat16"] = "float32"


TRIAL_SECTIONS = ("dataset", "teacher", "student", "objective", "optimizer", "training")


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
    kinds = [key for key in _RANGE_KEYS if key in node]
    if not kinds:
        return {key: _parse_tree(value, (*path, key), source, problems) for key, value in node.items()}
    parsed = _validate(_RANGE_KEYS[kinds[0]], node, path, source, problems)
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
