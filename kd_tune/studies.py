"""Trials as Optuna knows them: what each end is told as, and an in-memory study of a history.

A study here lives for one proposal. What people look at is written by `optuna_export`, which tells the plain truth; a
sampler is told what makes it choose well.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from kd_tune.records import METRIC
from kd_tune.run_state import TrialState
from kd_tune.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

Values = dict[int, float]  # a trial's metric by epoch, where it is finite
_NO_TIME = datetime(2000, 1, 1)  # samplers do not look at the clock


@dataclass(frozen=True)
class Told:
    """One trial as a sampler is told of it.

    Attributes:
        draw: its parameters.
        state: COMPLETE, PRUNED or RUNNING.
        value: of a COMPLETE one.
        values: of a PRUNED one, by epoch; samplers compare the last.
    """

    draw: dict[str, Any]
    state: OptunaState
    value: float | None = None
    values: Values = field(default_factory=dict)


def finite_values(trial: TrialState) -> Values:
    """A trial's metric by epoch, without epochs in which it was not finite."""
    return {
        epoch: value
        for epoch, row in sorted(trial.rows.items())
        if (value := row[METRIC]) is not None and math.isfinite(value)
    }


def comparable_values(trials: Sequence[TrialState]) -> list[Values]:
    """Every trial's metric by epoch; where there are several strata, standardised within stratum and epoch.

    Minus the mean, over the standard deviation, of the values that the stratum's trials had at that epoch. Else a
    sampler would learn that large students are better, which it is not asked. One value alone, or values without
    spread, are only centred.

    Returns:
        One dict a trial, in their order.
    """
    values = [finite_values(trial) for trial in trials]
    if len({trial.stratum for trial in trials}) < 2:
        return values
    groups: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for trial, curve in zip(trials, values, strict=True):
        for epoch, value in curve.items():
            groups[trial.stratum, epoch].append(value)
    scales = {key: (statistics.fmean(group), statistics.pstdev(group) or 1.0) for key, group in groups.items()}
    return [
        {
            epoch: (value - scales[trial.stratum, epoch][0]) / scales[trial.stratum, epoch][1]
            for epoch, value in curve.items()
        }
        for trial, curve in zip(trials, values, strict=True)
    ]


def told_as_they_ended(trials: Sequence[TrialState], with_running: bool) -> list[Told]:
    """A history for plain TPE: completed trials COMPLETE, others PRUNED with their values.

    Optuna ranks every COMPLETE trial above every PRUNED one. So a trial that is never pruned is told as what it would
    have been without that privilege: it would beat better trials that had to stop.

    Args:
        trials: in the order of proposals.
        with_running: whether those without an end are told as RUNNING, or not at all.
    """

    def tell(trial: TrialState, values: Values) -> Told | None:
        if trial.spared_at is not None:
            kept = {epoch: value for epoch, value in values.items() if epoch <= trial.spared_at}
            return Told(trial.draw, OptunaState.PRUNED, values=kept)
        if trial.end == "completed":
            return Told(trial.draw, OptunaState.COMPLETE, value=values[trial.epoch])
        return Told(trial.draw, OptunaState.PRUNED, values=values) if trial.end == "pruned" else None

    return _told(trials, tell, with_running)


def highest_rung(trials: Sequence[TrialState], num_results: int) -> int | None:
    """The highest epoch that at least so many trials have reached with a finite value; None if there is none."""
    counts: defaultdict[int, int] = defaultdict(int)
    for trial in trials:
        if trial.end not in ("failed", "diverged"):
            for epoch in finite_values(trial):
                counts[epoch] += 1
    return max((epoch for epoch, count in counts.items() if count >= num_results), default=None)


def told_at(epoch: int, trials: Sequence[TrialState], with_running: bool) -> list[Told]:
    """A history for a model of one epoch: every trial that reached it, COMPLETE with its value there.

    Trials that stopped before are left out, as BOHB does (Falkner et al. 2018, arXiv:1807.01774, section 4.1); those
    that diverged at any epoch are told.
    """

    def tell(trial: TrialState, values: Values) -> Told | None:
        return Told(trial.draw, OptunaState.COMPLETE, value=values[epoch]) if epoch in values else None

    return _told(trials, tell, with_running)


def most_telling(told: Sequence[Told], most: int) -> list[Told]:
    """At most so many trials of a history, in its order: a quarter of them the best, the others the newest.

    TPE models the best 25 against the others, and asking it takes as long as there are others.
    """
    if len(told) <= most:
        return list(told)
    best_first = sorted(range(len(told)), key=lambda place: _rank(told[place]), reverse=True)
    kept = set(best_first[: most // 4])
    newest = [place for place in reversed(range(len(told))) if place not in kept]
    kept.update(newest[: most - len(kept)])
    return [told[place] for place in sorted(kept)]


def _rank(told: Told) -> tuple[int, float, float]:
    """As Optuna ranks: COMPLETE by value, then PRUNED by epoch and value, then RUNNING."""
    if told.state == OptunaState.COMPLETE:
        return 2, told.value or 0.0, 0.0
    epoch = max(told.values, default=-1)
    value = told.values.get(epoch, -math.inf)
    return int(told.state == OptunaState.PRUNED), epoch, -math.inf if math.isnan(value) else value


def study_of(space: Space, told: Iterable[Told], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """A study in memory that holds a history."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = space.all_distributions()
    study.add_trials(
        _ToldTrial(
            number=-1,
            trial_id=-1,
            state=trial.state,
            value=trial.value,
            params=trial.draw,
            distributions={name: distributions[name] for name in trial.draw},
            intermediate_values=trial.values,
            datetime_start=_NO_TIME,
            datetime_complete=_NO_TIME if trial.state.is_finished() else None,
            user_attrs={},
            system_attrs={},
        )
        for trial in told
    )
    return study


def _told(
    trials: Sequence[TrialState], tell: Callable[[TrialState, Values], Told | None], with_running: bool
) -> list[Told]:
    """What `tell` says of each trial, and the same of all histories: failures are passed over, divergence is bad."""
    told = []
    for trial, values in zip(trials, comparable_values(trials), strict=True):
        if trial.end == "failed":
            continue
        found = _diverged(trial) if trial.end == "diverged" else tell(trial, values)
        if found is None and trial.end is None and with_running:
            found = Told(trial.draw, OptunaState.RUNNING)
        if found is not None:
            told.append(found)
    return told


def _diverged(trial: TrialState) -> Told:
    """PRUNED with a NaN, because TPE passes over failures; at epoch 0, because it ranks by epoch before value.

    At its own epoch, a trial that diverged late would rank above all that were pruned earlier.
    """
    return Told(trial.draw, OptunaState.PRUNED, values={0: math.nan})


class _ToldTrial(FrozenTrial):
    """A trial that storage may share: copying a hundred of them deeply took longer than to ask TPE."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy.copy(self)
