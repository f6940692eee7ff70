"""Searches over recorded curves: the real searcher and scheduler, a simulated clock, seconds in place of hours.

A proposal is answered by the nearest recorded configuration that this search has not used yet, and the search is told
that one's true parameters. It sees the accuracy on one half of the validation images; it is scored by the other half's,
for the student that it would hand out at that moment: the one of the best last value, as trained so far.

What is not simulated: the time that proposals take, and workers that break.

Shapes: R recorded configurations, E epochs, P coordinates of a configuration.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import numpy as np
from ray.tune.schedulers import TrialScheduler

from kd_tune import records
from kd_tune.config import SearchConfig
from kd_tune.curve_table import CurveTable
from kd_tune.ranges import Choice, FloatRange, IntRange
from kd_tune.records import DISTIL, METRIC, finite_or_none
from kd_tune.run_state import Event, RunState
from kd_tune.scheduler import Referee, RunScheduler
from kd_tune.searcher import RunSearcher, SearchProposer
from kd_tune.space import Draw, Space
from kd_tune.strata import Students, stratum_of

SETTINGS = ("goal", "sampler", "scheduler", "points")  # of a `search` section; the rest is the table's, or the clock's
STUDENT_WEIGHT = 10.0
NO_CONTROLLER: Any = None  # Tune's own loop, at which these schedulers do not look


class Replayed(Protocol):
    """A search as the simulation drives it."""

    def suggest(self) -> tuple[int, Draw] | None:
        """A new trial's number and what was proposed for it; None when there is nothing more to try."""

    def told(self, number: int, draw: Draw) -> None:
        """Learns which configuration the trial really has."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Takes the accuracy of an epoch (NaN: diverged); returns whether the trial goes on."""


@dataclass
class MemoryRun:
    """A run without a folder: what searcher and scheduler need of one."""

    state: RunState = field(default_factory=RunState)
    events: list[Event] = field(default_factory=list)

    def record(self, event: str, **fields: Any) -> None:
        """Keeps an event, and folds it into the state."""
        self.events.append(finite_or_none({"event": event, **fields}))
        self.state.apply(self.events[-1])


class OwnSearch:
    """kd_tune's search: RunSearcher and RunScheduler, as they stand behind Ray.

    Args:
        table: what will be searched.
        config: the `search` section, of which SETTINGS and the seed count.
    """

    def __init__(self, table: CurveTable, config: SearchConfig) -> None:
        self._run = MemoryRun()
        self._students = recorded_students(table) if config.goal == "front" else None
        strata = () if self._students is None else self._students.edges()
        self._run.record(records.STARTED, quota={DISTIL: len(table.draws)}, strata=strata)
        self._searcher = RunSearcher(
            self._run, SearchProposer(self._run, {DISTIL: table.space}, config, self._students)
        )
        self._scheduler = RunScheduler(self._run, Referee(config.scheduler, table.num_epochs))

    def suggest(self) -> tuple[int, Draw] | None:
        number = len(self._run.state.trials)
        if not isinstance(self._searcher.suggest(str(number)), dict):
            return None
        return number, self._run.state.trials[number].draw

    def told(self, number: int, draw: Draw) -> None:
        trial = self._run.state.trials[number]
        trial.draw = draw
        if self._students is not None:
            trial.stratum = stratum_of(self._students.count(draw), self._run.state.strata)

    def report(self, number: int, epoch: int, value: float) -> bool:
        result = {"epoch": epoch, METRIC: value, "diverged": bool(np.isnan(value)), "restored": False}
        verdict = self._scheduler.on_trial_result(NO_CONTROLLER, _stand_in(number), result)
        return bool(verdict == TrialScheduler.CONTINUE)


def recorded_students(table: CurveTable) -> Students:
    """The students of a table by their size; one that was not recorded has the size of the nearest that was."""
    space = Space({"student": table.trial["student"]})
    names = space.parameters()
    draws = [{name: draw[name] for name in names if name in draw} for draw in table.draws]
    nearest = Nearest(space, draws)
    sizes: dict[str, int] = {}  # every proposal asks for those of all recorded students

    def count(draw: Draw) -> int:
        student = repr([draw.get(name) for name in names])
        if student not in sizes:
            sizes[student] = int(table.num_parameters[nearest.find(draw)])
        return sizes[student]

    return Students(count, tuple(draws))


class RayDefaults:
    """Ray's OptunaSearch and ASHAScheduler with their libraries' defaults: what a user of Ray Tune gets.

    Args:
        table: what will be searched.
        seed: of the sampler.
    """

    def __init__(self, table: CurveTable, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._space = table.space
        self._searcher = OptunaSearch(space=self._suggest_all, metric=METRIC, mode="max", seed=seed)
        self._scheduler = ASHAScheduler(metric=METRIC, mode="max", max_t=table.num_epochs)
        self._numbers = itertools.count()
        self._draw: Draw = {}

    def suggest(self) -> tuple[int, Draw] | None:
        number = next(self._numbers)
        self._searcher.suggest(str(number))
        self._scheduler.on_trial_add(NO_CONTROLLER, _stand_in(number))
        return number, dict(self._draw)

    def told(self, number: int, draw: Draw) -> None:
        # Optuna's trials do not take other parameters than they proposed; its storage in memory can be told.
        study_trial = self._searcher._ot_trials[str(number)]
        frozen = study_trial.storage._get_trial(study_trial._trial_id)
        frozen.params = draw
        frozen.distributions = self._space.distributions(draw)

    def report(self, number: int, epoch: int, value: float) -> bool:
        result = {"training_iteration": epoch, METRIC: value}
        verdict = self._scheduler.on_trial_result(NO_CONTROLLER, _stand_in(number), result)
        goes_on = bool(verdict == TrialScheduler.CONTINUE) and not np.isnan(value)
        self._searcher.on_trial_result(str(number), result)
        if not goes_on:
            self._scheduler.on_trial_complete(NO_CONTROLLER, _stand_in(number), result)
            self._searcher.on_trial_complete(str(number), None if np.isnan(value) else result, error=np.isnan(value))
        return goes_on

    def _suggest_all(self, trial: Any) -> None:
        self._draw = self._space.suggest(trial)


@dataclass(frozen=True)
class Trace:
    """What a replayed search had in hand, over time.

    Attributes:
        seen: the half of the validation images that it saw, `even` or `odd`.
        times: seconds at which the student that it would hand out changed, or its accuracy did.
        scores: that student's accuracy on the half that the search does not see, 0 to 1, from that time on.
        sizes: the best score by parameter count at the end, among students that the search would hand out by size.
        epochs: trained in all.
        trials: started.
        completed: by parameter count, trials that reached the last epoch.
    """

    seen: str
    times: np.ndarray
    scores: np.ndarray
    sizes: dict[int, float]
    epochs: int
    trials: int
    completed: dict[int, int]

    def at(self, seconds: float) -> float:
        """The score in hand at a time; 0 before the first epoch."""
        index = int(np.searchsorted(self.times, seconds, side="right"))
        return float(self.scores[index - 1]) if index else 0.0

    def time_to(self, target: float) -> float:
        """Seconds until the score in hand first reached a target; infinite if it never did."""
        reached = np.flatnonzero(self.scores >= target)
        return float(self.times[reached[0]]) if len(reached) else float("inf")


@dataclass(frozen=True)
class Clock:
    """How long a replayed search may take.

    Attributes:
        workers: trials at a time.
        seconds: simulated seconds until it ends.
    """

    workers: int
    seconds: float

    @classmethod
    def of_trials(cls, table: CurveTable, trials: int, workers: int) -> Clock:
        """The time that `workers` need to train so many average configurations to the end."""
        return cls(workers, trials * table.num_epochs * float(table.epoch_seconds.mean()) / workers)


def replay(table: CurveTable, search: Replayed, clock: Clock, seen: str) -> Trace:
    """Runs one search over a table.

    Args:
        table: the recorded curves.
        search: what proposes and stops.
        clock: workers and time.
        seen: the half of the validation images that the search sees, `even` or `odd`.
    """
    shown, scored = table.accuracy(seen), table.accuracy("odd" if seen == "even" else "even")
    nearest = Nearest(table.space, table.draws)
    in_hand = _InHand(scored, shown, table.num_parameters)
    configs: dict[int, int] = {}
    order = itertools.count()
    queue: list[tuple[float, int, int, int]] = []  # time, tie breaker, trial, its epoch that ends then

    def start(now: float) -> None:
        proposal = search.suggest() if nearest.left else None
        if proposal is None:
            return
        number, draw = proposal
        config = configs[number] = nearest.take(draw)
        search.told(number, table.draws[config])
        heapq.heappush(queue, (now + table.epoch_seconds[config], next(order), number, 1))

    for _ in range(clock.workers):
        start(0.0)
    while queue and queue[0][0] <= clock.seconds:
        now, _, number, epoch = heapq.heappop(queue)
        config = configs[number]
        goes_on = search.report(number, epoch, float(shown[config, epoch - 1]))
        in_hand.update(now, number, config, epoch)
        if goes_on and epoch < table.num_epochs:
            heapq.heappush(queue, (now + table.epoch_seconds[config], next(order), number, epoch + 1))
        else:
            start(now)
    return in_hand.trace(seen)


class Nearest:
    """Recorded configurations that were not used yet, and the nearest of them to a proposal.

    Distance is Euclidean over all parameters of the space, each from 0 to 1 (on a logarithmic scale where it is
    searched on one); different options of a choice are 1 apart, parameters that only one of the two has at least 1.
    What belongs to the student counts STUDENT_WEIGHT times: a proposal keeps its size while one of that is left.

    Args:
        space: of all configurations.
        draws: the R recorded ones.
    """

    def __init__(self, space: Space, draws: Sequence[Draw]) -> None:
        self._leaves = space.parameters()
        self._points = np.stack([self._encode(draw) for draw in draws])  # [R, P]
        self._unused = np.ones(len(draws), bool)

    @property
    def left(self) -> int:
        """Configurations that were not used yet."""
        return int(self._unused.sum())

    def take(self, draw: Draw) -> int:
        """The index of the nearest unused configuration, which is used from now on."""
        chosen = int(np.where(self._unused, self._distances(draw), np.inf).argmin())
        self._unused[chosen] = False
        return chosen

    def find(self, draw: Draw) -> int:
        """The index of the nearest configuration, used or not."""
        return int(self._distances(draw).argmin())

    def _distances(self, draw: Draw) -> np.ndarray:
        """`[R]` squares."""
        return np.asarray(np.square(self._points - self._encode(draw)).sum(axis=1))

    def _encode(self, draw: Draw) -> np.ndarray:
        parts = [_weight(name) * np.array(_coordinates(leaf, draw, name)) for name, leaf in self._leaves.items()]
        return np.concatenate(parts)


def _weight(parameter: str) -> float:
    return STUDENT_WEIGHT if parameter.startswith("student") else 1.0


def _coordinates(leaf: Any, draw: Draw, name: str) -> list[float]:
    """A value as coordinates: one from 0 to 1 (-1: not there), or for a choice one an option, 1 / sqrt(2) or 0."""
    if isinstance(leaf, Choice):
        return [np.sqrt(0.5) * (name in draw and draw[name] == option) for option in leaf.values]
    assert isinstance(leaf, FloatRange | IntRange)
    if name not in draw:
        return [-1.0]
    (low, high), value = leaf.bounds, draw[name]
    if leaf.log:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return [(value - low) / (high - low)]


class _InHand:
    """Follows the student that a search would hand out: of the best last value seen; of equals the first trial."""

    def __init__(self, scored: np.ndarray, shown: np.ndarray, sizes: np.ndarray) -> None:
        self._scored, self._shown, self._sizes = scored, shown, sizes
        self._last: dict[int, tuple[int, int]] = {}
        self._times: list[float] = []
        self._scores: list[float] = []
        self._epochs = 0

    def update(self, now: float, number: int, config: int, epoch: int) -> None:
        """A trial has ended an epoch."""
        self._epochs += 1
        self._last[number] = (config, epoch - 1)
        best = self._best(self._last)
        if best is not None and (not self._scores or self._scores[-1] != best):
            self._times.append(now)
            self._scores.append(best)

    def trace(self, seen: str) -> Trace:
        """All of it."""
        sizes: dict[int, dict[int, tuple[int, int]]] = {}
        for number, (config, epoch) in self._last.items():
            sizes.setdefault(int(self._sizes[config]), {})[number] = (config, epoch)
        last = self._shown.shape[1] - 1
        bests = {size: self._best(trials) for size, trials in sorted(sizes.items())}
        return Trace(
            seen,
            np.array(self._times),
            np.array(self._scores),
            {size: best for size, best in bests.items() if best is not None},
            self._epochs,
            len(self._last),
            {size: sum(epoch == last for _, epoch in trials.values()) for size, trials in sorted(sizes.items())},
        )

    def _best(self, trials: dict[int, tuple[int, int]]) -> float | None:
        """The score of the trial with the best value seen; None if all have diverged."""
        places = np.array(list(trials.values()))
        values = np.nan_to_num(self._shown[places[:, 0], places[:, 1]], nan=-1.0)
        index = int(values.argmax())
        config, epoch = places[index]
        return None if values[index] < 0 else float(self._scored[config, epoch])


def _stand_in(number: int) -> Any:
    """What Ray's schedulers look at of a trial."""
    return SimpleNamespace(trial_id=str(number), config={"number": number})


Contender = SearchConfig | Literal["ray"]


def build(table: CurveTable, contender: Contender, seed: int) -> Replayed:
    """A fresh search: kd_tune's with a `search` section, of which the seed is replaced, or Ray's."""
    if contender == "ray":
        return RayDefaults(table, seed)
    return OwnSearch(table, contender.model_copy(update={"seed": seed}))


def replay_seed(table: CurveTable, contender: Contender, clock: Clock, seed: int) -> Trace:
    """One search; those of even seeds see the even half, the others the odd one."""
    return replay(table, build(table, contender, seed), clock, ("even", "odd")[seed % 2])
