"""What can be wrong with a search before it starts, and the spaces of its arms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import optuna

from kd_tune.arms import space_of_arm
from kd_tune.catalog import build_objective, build_student, check_trial, not_stackable
from kd_tune.config import TrainingConfig
from kd_tune.data import Dataset
from kd_tune.engine import check_fit, rehearse
from kd_tune.errors import ConfigError
from kd_tune.ranges import Choice
from kd_tune.search_file import SearchFile
from kd_tune.space import Draw, Space
from kd_tune.strata import Students
from kd_tune.student_sizes import survey

CHECKED_DRAWS = 200

# Trials that share a place where the file does not say how many. On a core 4 train 1.9 to 2.1 times, 8 train 2.0 to 2.3
# times as fast as 1 (`benchmarks/stacked.md`), but a sampler that proposes for twice as many at a time knows less.
CPU_STACK = 4
CPU_STACK_OF_RETRAININGS = 8
GPU_STACK = 64  # but no more than a quarter of a search's trials


def check(file: SearchFile) -> dict[str, Space]:
    """Checks all of a search file that can be checked without its data.

    Returns:
        The space of every arm.

    Raises:
        ConfigError: with every problem.
    """
    problems = check_trial(file.trial, file.source)
    if problems:
        raise ConfigError(problems)
    spaces: dict[str, Space] = {arm.name: space_of_arm(file.trial, arm.name) for arm in file.search.arms}
    check_settings(file, spaces)
    return spaces


def check_settings(file: SearchFile, spaces: Mapping[str, Space]) -> None:
    """Checks the `search` section against the spaces of its arms; ConfigError with every problem."""
    problems: list[str] = []
    known = Space(file.trial)
    for index, point in enumerate(file.search.points):
        problems += [file.source.problem(("search", "points", index), text) for text in known.problems_of(point)]
    if file.search.points and file.search.sampler.name == "grid":
        problems.append(file.source.problem(("search", "points"), "a grid has its own points; leave these out"))
    if len(file.search.points) > min(file.search.trials_by_arm().values()):
        problems.append(file.source.problem(("search", "points"), "there are more points than an arm has trials"))
    if file.search.sampler.name == "grid":
        for space in spaces.values():
            try:
                space.grid()
            except ValueError as error:
                problems.append(file.source.problem(("search", "sampler"), str(error)))
    if file.search.sampler.name == "grid" and file.search.goal == "front":
        text = "a grid takes its cells in turn, whatever their size; take tpe or random, or goal: best"
        problems.append(file.source.problem(("search", "sampler"), text))
    if problems:
        raise ConfigError(problems)


def random_draws(space: Space, seed: int, count: int) -> Iterator[Draw]:
    """Draws anywhere in a space, the same for the same seed."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed % 2**32))
    return (space.suggest(study.ask()) for _ in range(count))


def check_draws(spaces: Mapping[str, Space], dataset: Dataset, seed: int) -> None:
    """Binds a couple of hundred random draws of every arm to the data set; ConfigError if one cannot be trained."""
    problems: set[str] = set()
    rehearsed: set[tuple[str, str]] = set()
    built: set[str] = set()
    for space in spaces.values():
        for draw in random_draws(space, seed, CHECKED_DRAWS if space.parameters() else 1):
            trial = space.fill(draw)
            names = trial["student"]["name"], trial["objective"]["name"]
            try:
                check_fit(TrainingConfig.model_validate(trial["training"]), dataset)
                build_objective(trial["objective"], dataset)
                student = json.dumps(trial["student"], sort_keys=True, default=str)
                if student not in built:
                    build_student(trial["student"], dataset)
                    built.add(student)
                if names not in rehearsed:
                    rehearse(trial, dataset)
                    rehearsed.add(names)
            except ConfigError as error:
                problems.update(error.problems)
    if problems:
        raise ConfigError(sorted(problems))


def students_by_size(file: SearchFile, spaces: Mapping[str, Space], dataset: Dataset) -> Students | None:
    """What a search for the front knows of its students' sizes; None for one that has no use for it.

    Raises:
        ConfigError: see `check_sizes`.
    """
    if file.search.goal != "front":
        return None
    students = survey(next(iter(spaces.values())), dataset.input_shape, file.search.seed)
    check_sizes(file, students)
    return students


def check_sizes(file: SearchFile, students: Students) -> None:
    """Raises ConfigError if a search for the front has students of one size, or of more than an arm has trials."""
    edges, where = students.edges(), ("search", "goal")
    if len(edges) < 2:
        text = (
            f"front: every student of this file has {edges[0]:,} parameters; give trial.student a range of sizes, "
            "such as width: {choice: [0.25, 0.5, 1.0]}, or take goal: best"
        )
        raise ConfigError(file.source.problem(where, text))
    if len(edges) > min(file.search.trials_by_arm().values()):
        text = f"front: the students are of {len(edges)} sizes, and every arm needs a trial or more of each"
        raise ConfigError(file.source.problem(where, text))


def stack_size(file: SearchFile, spaces: Mapping[str, Space], proposes: bool = True) -> int:
    """How many trials share a place: what the file says, or as many as pay where all its students can be stacked.

    Args:
        file: the search's.
        spaces: by arm.
        proposes: whether a sampler learns from trials that have ended.
    """
    if file.resources.stack is not None:
        return file.resources.stack
    if any(not_stackable(space.template) for space in spaces.values()):
        return 1
    if file.resources.gpus_per_trial:
        quarter = max(1, sum(file.search.trials_by_arm().values()) // 4)
        return min(GPU_STACK, quarter) if proposes else GPU_STACK
    if file.resources.cpus_per_trial > 1:  # threads split sums in ways that depend on who else is in the stack
        return 1
    return CPU_STACK if proposes else CPU_STACK_OF_RETRAININGS


def stacks_in_words(stack: int, file: SearchFile, spaces: Mapping[str, Space]) -> str:
    """How the trials that share a place are trained, and what of them cannot be stacked."""
    apart = dict.fromkeys(word for space in spaces.values() for word in not_stackable(space.template))
    if stack == 1:
        unasked = file.resources.stack is None and apart
        return "trials are trained one by one" + (
            f", for these cannot be stacked: {', '.join(apart)}" if unasked else ""
        )
    sizes = " that have the same batch size" if isinstance(file.trial["training"].get("batch_size"), Choice) else ""
    text = f"each trains up to {stack} trials{sizes} in one step"
    return text + (f"; by themselves, for they cannot be stacked: {', '.join(apart)}" if apart else "")
