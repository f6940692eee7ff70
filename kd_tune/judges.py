"""Who says whether a trial goes on: SCHEDULERS, by the name that a search file gives.

A judge compares trials of one arm and stratum, epoch by epoch, by one figure. What else can end a trial, divergence or
the last epoch, is decided before a judge is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from kd_tune.config import SchedulerConfig
from kd_tune.records import METRIC
from kd_tune.rungs import Rungs, rung_epochs


class Judge(Protocol):
    """Says of every epoch that a trial reports whether the trial goes on; the same whenever it is told the same."""

    @property
    def epochs(self) -> tuple[int, ...]:
        """The rungs, after which a trial's checkpoint is worth having; empty where there are none."""

    @property
    def rule(self) -> str:
        """What is done to trials, in a few words."""

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Takes a trial's value (a number; larger is better), every epoch in order and once; whether it goes on."""


@dataclass(frozen=True)
class _Trial:
    """What Ray's schedulers look at of a trial."""

    trial_id: str


class RayJudge:
    """One of Ray's own schedulers, driven with stand-ins for its trials.

    Args:
        scheduler: reads the epoch as `epoch`, and the figure under its own name.
        epochs: of its rungs.
        rule: what it does to trials, in a few words.
    """

    def __init__(self, scheduler: TrialScheduler, epochs: tuple[int, ...], rule: str) -> None:
        self.epochs = epochs
        self.rule = rule
        self._scheduler: Any = scheduler
        self._trials: dict[int, _Trial] = {}

    def report(self, trial: int, epoch: int, value: float) -> bool:
        if trial not in self._trials:
            self._trials[trial] = _Trial(str(trial))
            self._scheduler.on_trial_add(None, self._trials[trial])
        verdict = self._scheduler.on_trial_result(None, self._trials[trial], {"epoch": epoch, METRIC: value})
        return bool(verdict == TrialScheduler.CONTINUE)


def asha(config: SchedulerConfig, num_epochs: int) -> Judge:
    """Asynchronous successive halving, ours (`rungs`)."""
    return Rungs(rung_epochs(config.grace_period, config.reduction_factor, num_epochs), config.reduction_factor)


def ray_asha(config: SchedulerConfig, num_epochs: int) -> Judge:
    """Asynchronous successive halving, Ray's, with one bracket.

    A rung compares a value with a percentile of those before it, not counting it, interpolated between two of them: the
    second trial to come must only equal the first, and the third, at reduction factor 3, must reach two thirds of the
    way from the worse of them to the better.
    """
    epochs = rung_epochs(config.grace_period, config.reduction_factor, num_epochs)
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=num_epochs,
        grace_period=min(config.grace_period, num_epochs),  # Ray refuses a longer one; with ours, no trial comes to it
        reduction_factor=config.reduction_factor,
        brackets=1,
    )
    return RayJudge(scheduler, epochs, f"Ray's ASHA, rungs at epochs {', '.join(map(str, epochs)) or 'none'}")


def median(config: SchedulerConfig, num_epochs: int) -> Judge:
    """Ray's median stopping rule (Golovin et al. 2017, Google Vizier).

    A trial stops whose best value so far is below the median of the others' means from the grace period to its epoch;
    at least three others must have got as far. While curves rise, that compares a trial's latest value with the middle
    of the others', so the rule stops late.
    """
    scheduler = MedianStoppingRule(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        grace_period=config.grace_period,
        min_samples_required=3,
        min_time_slice=math.inf,  # type: ignore[arg-type]  # else it pauses trials while fewer than three can be compared
        hard_stop=True,
    )
    return RayJudge(scheduler, (), f"Ray's median stopping rule from epoch {config.grace_period} on")


def none(config: SchedulerConfig, num_epochs: int) -> Judge:
    """Stops nothing."""
    return Rungs((), config.reduction_factor)


SCHEDULERS: dict[str, Callable[[SchedulerConfig, int], Judge]] = {
    "asha": asha,
    "ray_asha": ray_asha,
    "median": median,
    "none": none,
}
