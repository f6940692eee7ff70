"""What the events of a run add up to: its trials, and what is still wanted of it.

Folding the events of a ledger, or of any other record of the same kinds, gives the state, live and after a crash by the
same code. An event may come from a file that somebody changed, so what the fold relies on is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kd_tune import records
from kd_tune.records import METRIC, STOP_REASONS, StopReason

Event = dict[str, Any]

# What the fold relies on; a ledger comes from a file.
_FIELD_TYPES: dict[str, dict[str, type]] = {
    records.STARTED: {"quota": dict},
    records.EXTENDED: {"num_trials": int},
    records.EXHAUSTED: {"arm": str},
    records.REOPENED: {"trials": list, "quota": dict},
    records.KNOWN: {"arm": str, "trial": int, "draw": dict, "values": list, "reason": str},
    records.PROPOSED: {"trial": int, "arm": str, "draw": dict},
    records.EPOCH: {"trial": int, "attempt": int, "epoch": int},
    records.SPARED: {"trial": int, "epoch": int},
    records.RETRIED: {"trial": int},
    records.STOPPED: {"trial": int, "reason": str},
}
_OPTIONAL_TYPES: dict[str, dict[str, type]] = {
    records.STARTED: {"strata": list},
    records.KNOWN: {"stratum": int, "spared_at": int},
    records.PROPOSED: {"repeat": int, "stratum": int, "never_pruned": bool},
    records.STOPPED: {"error": str},
}
_LARGE = 2.0**63  # beyond all whole numbers of a table


@dataclass
class TrialState:
    """A trial as the ledger has it.

    Attributes:
        number: in the order of proposals, over all arms.
        arm: the arm that it belongs to.
        draw: its parameters by name.
        repeat: trials of one repeat see the images in the same order and views; 0 for all of a search's own.
        stratum: the size of student that it competes with; 0 where a search has no strata.
        never_pruned: whether it is trained to the end whatever its rungs say, so that they can be judged by it.
        spared_at: the first epoch that would have pruned it, if it is never pruned.
        attempt: 0, and one more for every time that epochs had to be run again.
        rows: its epochs' metrics by epoch; of epochs that were run again, the last.
        latest: the epoch that was reported last; below an earlier one while epochs are run again.
        end: why it ended; None while it can go on.
        error: the last error, if it failed.
        failures: events of every time that it broke, over all launches.
        after_opening: whether it was proposed when the run had opened the test set.
    """

    number: int
    arm: str
    draw: dict[str, Any]
    repeat: int = 0
    stratum: int = 0
    never_pruned: bool = False
    spared_at: int | None = None
    attempt: int = 0
    rows: dict[int, Event] = field(default_factory=dict)
    latest: int = 0
    end: StopReason | None = None
    error: str | None = None
    failures: list[Event] = field(default_factory=list)
    after_opening: bool = False

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return max(self.rows, default=0)

    @property
    def value(self) -> float | None:
        """The metric of the last epoch (never the best one); None before the first and where it was not finite."""
        return self.rows[self.epoch].get(METRIC) if self.rows else None

    @property
    def seconds(self) -> float:
        """Training and validation of its epochs, as they say."""
        return sum(row.get("seconds") or 0.0 for row in self.rows.values())

    @property
    def usable(self) -> bool:
        """Whether the trial has a figure that may be compared: it neither failed nor diverged."""
        return self.value is not None and self.end not in ("failed", "diverged")


@dataclass
class RunState:
    """What a ledger adds up to.

    Attributes:
        trials: by number, in the order of proposals.
        quota: trials wanted, by arm.
        strata: the largest parameter count of every stratum of students; empty where all compete with each other.
        launches: how often a launcher opened the run.
        test_openings: events that opened the test set.
        known: trials of earlier runs by arm, which samplers are shown; they belong to no table and no quota.
    """

    trials: dict[int, TrialState] = field(default_factory=dict)
    quota: dict[str, int] = field(default_factory=dict)
    strata: tuple[int, ...] = ()
    launches: int = 0
    test_openings: list[Event] = field(default_factory=list)
    known: dict[str, list[TrialState]] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Folds one event in; kinds that change no state are passed over."""
        kind = event["event"]
        _check_fields(kind, event)
        if kind == records.EPOCH:  # first, because nearly all are
            trial = self.trials[event["trial"]]
            trial.attempt, trial.latest = event["attempt"], event["epoch"]
            trial.rows[event["epoch"]] = event
        elif kind == records.STARTED:
            self.launches += 1
            self.quota = self.quota or dict(event["quota"])
            self.strata = self.strata or tuple(event.get("strata", ()))
        elif kind == records.EXTENDED:
            self.quota = {arm: count + event["num_trials"] for arm, count in self.quota.items()}
        elif kind == records.EXHAUSTED:
            self.quota[event["arm"]] = len(self.of_arm(event["arm"]))
        elif kind == records.REOPENED:
            self.quota = dict(event["quota"])
            for number in event["trials"]:
                self.trials[number].end = self.trials[number].error = None
        elif kind == records.KNOWN:
            self.known.setdefault(event["arm"], []).append(_known_trial(event))
        elif kind == records.PROPOSED:
            self.trials[event["trial"]] = TrialState(
                event["trial"],
                event["arm"],
                event["draw"],
                repeat=event.get("repeat", 0),
                stratum=event.get("stratum", 0),
                never_pruned=event.get("never_pruned", False),
                after_opening=bool(self.test_openings),
            )
        elif kind == records.SPARED:
            self.trials[event["trial"]].spared_at = event["epoch"]
        elif kind == records.RETRIED:
            self.trials[event["trial"]].failures.append(event)
        elif kind == records.STOPPED:
            trial = self.trials[event["trial"]]
            trial.end, trial.error = event["reason"], event.get("error")
            if trial.end == "failed":
                trial.failures.append(event)
        elif kind == records.TEST_OPENED:
            self.test_openings.append(event)

    def of_arm(self, arm: str) -> list[TrialState]:
        """An arm's trials in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.arm == arm]

    def unfinished(self) -> list[TrialState]:
        """Trials that can go on, in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.end is None]

    def failed(self) -> list[TrialState]:
        """Trials that an error ended, in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.end == "failed"]

    def num_missing(self) -> int:
        """Trials that were not proposed yet."""
        return max(0, sum(self.quota.values()) - len(self.trials))

    def num_left(self) -> int:
        """Trials that have not ended: those that can go on, and those that were not proposed yet."""
        return len(self.unfinished()) + self.num_missing()


def ranked(trials: Iterable[TrialState]) -> list[TrialState]:
    """Usable trials, best first; of equals the first.

    By their last value, whatever their epochs: under a schedule that ends at a small rate an early value is nearly a
    lower bound of the end's, and a trial that is never pruned reaches the end without having been good.
    """
    return sorted((trial for trial in trials if trial.usable), key=lambda trial: (-(trial.value or 0.0), trial.number))


def _check_fields(kind: str, event: Event) -> None:
    """Raises KeyError, TypeError or ValueError if an event is not what its kind must be."""
    for name, expected in _FIELD_TYPES.get(kind, {}).items():
        if type(event[name]) is not expected:
            raise TypeError(f"{name} must be of type {expected.__name__}")
    if kind == records.EPOCH:
        values = list(event.values())
        values.remove(kind)  # a text, and the only one
        _check_numbers(values)
        if event["epoch"] < 0:
            raise ValueError("epoch must not be below 0")
        return
    for name, expected in _OPTIONAL_TYPES.get(kind, {}).items():
        if event.get(name) is not None and type(event[name]) is not expected:
            raise TypeError(f"{name} must be of type {expected.__name__}")
    if kind in (records.PROPOSED, records.KNOWN):
        _check_numbers([value for value in event["draw"].values() if not isinstance(value, str)])
        _check_numbers([number for pair in event.get("values", ()) for number in pair])
    elif kind == records.STOPPED and event["reason"] not in STOP_REASONS:
        raise ValueError(f"reason must be one of {', '.join(STOP_REASONS)}")
    elif kind in (records.STARTED, records.REOPENED):
        _check_numbers([*event["quota"].values(), *event.get("strata", ()), *event.get("trials", ())])


def _check_numbers(numbers: list[Any]) -> None:
    """Raises TypeError or ValueError if one of some values is neither None nor a number that a table can hold.

    By the smallest and the largest of them, which is faster than asking each: there are millions.
    """
    try:
        if min(numbers, default=0) > -_LARGE and max(numbers, default=0) < _LARGE:
            return
    except TypeError:  # a value is None, or no number
        numbers = [number for number in numbers if number is not None]
    for number in numbers:  # a loss that diverges may be as large
        if not -_LARGE < number < _LARGE and (isinstance(number, int) or not math.isfinite(number)):
            raise ValueError("a number is not finite, or too large")


def _known_trial(event: Event) -> TrialState:
    return TrialState(
        event["trial"],
        event["arm"],
        event["draw"],
        stratum=event.get("stratum", 0),
        spared_at=event.get("spared_at"),
        rows={epoch: {"epoch": epoch, METRIC: value} for epoch, value in event["values"]},
        end=event["reason"],
    )
