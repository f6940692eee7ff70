"""Asynchronous successive halving, and what the referee says of every epoch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_tune.config import SchedulerConfig
from kd_tune.run_state import TrialState
from kd_tune.rungs import Rungs, rung_epochs
from kd_tune.scheduler import Referee


@pytest.mark.parametrize(
    ("grace_period", "reduction_factor", "num_epochs", "expected"),
    [
        (1, 3, 243, (1, 3, 9, 27, 81)),
        (1, 10, 1000, (1, 10, 100)),
        (1, 2, 64, (1, 2, 4, 8, 16, 32)),
        (3, 3, 27, (3, 9)),
        (3, 3, 28, (3, 9, 27)),
        (5, 4, 5, ()),
    ],
)
def test_rungs_are_counted_exactly(
    grace_period: int, reduction_factor: int, num_epochs: int, expected: tuple[int, ...]
) -> None:
    assert rung_epochs(grace_period, reduction_factor, num_epochs) == expected


def test_a_rung_keeps_the_best_third() -> None:
    rungs = Rungs((3,), 3)
    kept = [rungs.report(trial, 3, value) for trial, value in enumerate([0.5, 0.4, 0.6, 0.55, 0.7, 0.1, 0.65])]
    # The first has nothing better than it; after that, fewer than max(1, n / 3) may be better.
    assert kept == [True, False, True, True, True, False, True]


def test_equal_values_are_treated_equally() -> None:
    rungs = Rungs((1,), 2)
    assert all(rungs.report(trial, 1, 0.5) for trial in range(10))


def test_a_trial_seen_twice_counts_once_and_goes_on() -> None:
    rungs = Rungs((1,), 3)
    assert rungs.report(0, 1, 0.9)
    assert not rungs.report(1, 1, 0.1)
    assert rungs.report(0, 1, 0.0)
    assert not rungs.report(2, 1, 0.2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(2, 4))
def test_the_best_so_far_is_never_stopped(values: list[float], reduction_factor: int) -> None:
    rungs = Rungs((1,), reduction_factor)
    for trial, value in enumerate(values):
        kept = rungs.report(trial, 1, value)
        assert kept or value < max(values[: trial + 1])


@given(st.permutations(range(7)))
def test_the_last_verdict_does_not_depend_on_the_order_before_it(order: list[int]) -> None:
    rungs, sorted_rungs = Rungs((1,), 3), Rungs((1,), 3)
    for number in order:
        rungs.report(number, 1, number / 10)
    for number in range(7):
        sorted_rungs.report(number, 1, number / 10)
    assert rungs.report(99, 1, 0.45) == sorted_rungs.report(99, 1, 0.45)


def row(trial: int, epoch: int, value: float | None, diverged: bool = False) -> dict[str, Any]:
    return {"trial": trial, "epoch": epoch, "val_accuracy": value, "diverged": diverged}


def test_referee_ends_trials_that_diverge_complete_or_fall_behind() -> None:
    referee = Referee(SchedulerConfig(grace_period=1, reduction_factor=2), 4)
    assert referee.epochs == (1, 2)
    first = TrialState(0, "distil", {})
    assert referee.judge(first, row(0, 1, 0.5)) is None
    assert referee.judge(TrialState(1, "distil", {}), row(1, 1, 0.4)) == "pruned"
    assert referee.judge(TrialState(2, "cross_entropy", {}), row(2, 1, 0.3)) is None, "each arm has rungs of its own"
    assert referee.judge(TrialState(5, "distil", {}, stratum=1), row(5, 1, 0.3)) is None, "and each stratum"
    assert referee.judge(first, row(0, 3, 0.5)) is None
    assert referee.judge(first, row(0, 4, 0.5)) == "completed"
    assert referee.judge(TrialState(3, "distil", {}), row(3, 1, 0.1, diverged=True)) == "diverged"
    assert referee.judge(TrialState(4, "distil", {}), row(4, 1, None)) == "diverged"


def test_without_a_scheduler_nothing_is_pruned() -> None:
    referee = Referee(SchedulerConfig(name="none"), 9)
    verdicts = [
        referee.judge(TrialState(trial, "distil", {}), row(trial, epoch, 1 / (trial + 1)))
        for trial, epoch in itertools.product(range(4), range(1, 9))
    ]
    assert verdicts == [None] * 32
