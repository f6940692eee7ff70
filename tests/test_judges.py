"""SCHEDULERS: what every judge promises, by being in the table; rungs exactly; trials that are never pruned."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.tune.schedulers import AsyncHyperBandScheduler

from kd_tune import records
from kd_tune.analysis import comparison_epoch
from kd_tune.config import SchedulerConfig, SearchConfig
from kd_tune.judges import SCHEDULERS
from kd_tune.results import RunTables
from kd_tune.run_state import Event, TrialState
from kd_tune.rungs import Rungs, rung_epochs
from kd_tune.scheduler import Referee, replay_verdicts
from kd_tune.searcher import is_never_pruned
from tests.driven import memory_run

NUM_EPOCHS = 9
PRUNING = [name for name in SCHEDULERS if name != "none"]
SETTINGS: dict[str, dict[str, Any]] = {
    "asha": {"grace_period": 1, "reduction_factor": 2},
    "ray_asha": {"grace_period": 1, "reduction_factor": 2},
    "median": {"grace_period": 1},
    "none": {},
}
# Rows of a search: (trial, value) of the next epoch of one of six trials, in any order.
VALUES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.9])), max_size=60)


def referee_of(name: str) -> Referee:
    return Referee(SchedulerConfig.model_validate({"name": name, **SETTINGS[name]}), NUM_EPOCHS)


def row(trial: int, epoch: int, value: float | None, diverged: bool = False) -> Event:
    return {"trial": trial, "epoch": epoch, "val_accuracy": value, "diverged": diverged}


def judged(name: str, steps: list[tuple[int, float]], never_pruned: frozenset[int] = frozenset()) -> list[Any]:
    """(trial, epoch, verdict) of every row, of trials that did not end before."""
    referee = referee_of(name)
    trials = {number: TrialState(number, "distil", {}, never_pruned=number in never_pruned) for number in range(6)}
    epochs = dict.fromkeys(trials, 0)
    verdicts = []
    for number, value in steps:
        if number in trials:
            epochs[number] += 1
            verdict = referee.judge(trials[number], row(number, epochs[number], value))
            verdicts.append((number, epochs[number], verdict))
            if verdict not in (None, "spared"):
                del trials[number]
    return verdicts


def test_every_name_that_a_file_may_give_has_a_judge() -> None:
    assert set(get_args(SchedulerConfig.model_fields["name"].annotation)) == set(SCHEDULERS) == set(SETTINGS)


@pytest.mark.parametrize("name", SCHEDULERS)
@given(steps=VALUES)
def test_a_judge_says_the_same_whenever_it_is_told_the_same(name: str, steps: list[tuple[int, float]]) -> None:
    first = judged(name, steps)
    np.random.random()  # whatever others do with the global generator
    assert judged(name, steps) == first


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_only_trial_is_never_stopped(name: str) -> None:
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]
    verdicts = [verdict for _, _, verdict in judged(name, [(0, value) for value in values])]
    assert verdicts == [None] * 8 + ["completed"]


@pytest.mark.parametrize("name", PRUNING)
def test_a_much_worse_trial_is_stopped(name: str) -> None:
    # Halves, because Ray's rule compares with a mean, and that of seven times 0.9 is not 0.9.
    others = [(number, 0.5) for number in range(5) for _ in range(8)]
    verdicts = judged(name, others + [(5, 0.1)] * 8)
    assert all(verdict is None for number, _, verdict in verdicts if number < 5), "equals stay together"
    assert verdicts[-1][2] == "pruned"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("broken", [row(0, 1, None), row(0, 1, 0.9, diverged=True), row(0, NUM_EPOCHS, None)])
@pytest.mark.parametrize("never_pruned", [False, True])
def test_divergence_ends_a_trial_at_once_whatever_the_judge(name: str, broken: Event, never_pruned: bool) -> None:
    trial = TrialState(0, "distil", {}, never_pruned=never_pruned)
    assert referee_of(name).judge(trial, broken) == "diverged"


@pytest.mark.parametrize("name", SCHEDULERS)
@given(steps=VALUES, never_pruned=st.frozensets(st.integers(0, 5)))
def test_a_replayed_ledger_gives_the_verdicts_again(
    name: str, steps: list[tuple[int, float]], never_pruned: frozenset[int]
) -> None:
    verdicts = judged(name, steps, never_pruned)
    live, lost = memory_run({"distil": 6}), memory_run({"distil": 6})
    for run, number in itertools.product((live, lost), range(6)):
        run.record(records.PROPOSED, trial=number, arm="distil", draw={}, never_pruned=number in never_pruned)
    values = dict(zip([(trial, epoch) for trial, epoch, _ in verdicts], _told(steps, verdicts), strict=True))
    for number, epoch, verdict in verdicts:
        for run in (live, lost):
            run.record(records.EPOCH, attempt=0, **row(number, epoch, values[number, epoch]))
        if verdict == "spared":
            live.record(records.SPARED, trial=number, epoch=epoch)
        elif verdict is not None:
            live.record(records.STOPPED, trial=number, reason=verdict, epoch=epoch)
    before = len(live.events)
    replay_verdicts(live, referee_of(name), live.events)
    assert len(live.events) == before, "there is nothing that was not recorded"
    replay_verdicts(lost, referee_of(name), list(lost.events))
    assert lost.state == live.state


def _told(steps: list[tuple[int, float]], verdicts: list[Any]) -> list[float]:
    """The values of those steps that were judged."""
    remaining = iter(verdicts)
    expected = next(remaining, None)
    told = []
    for number, value in steps:
        if expected is not None and expected[0] == number:
            told.append(value)
            expected = next(remaining, None)
    return told


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_epoch_that_is_run_again_is_not_judged_again(name: str) -> None:
    once, again = referee_of(name), referee_of(name)
    trials = [TrialState(number, "distil", {}) for number in range(5)]
    for number, epoch in itertools.product((1, 2, 3, 4), (1, 2)):
        found = row(number, epoch, 0.5 + number / 16)
        assert again.judge(trials[number], found) is once.judge(trials[number], found) is None
        assert again.judge(trials[number], row(number, epoch, 0.0)) is None
    # Had the zeros counted, this one would be above the median.
    found = row(0, 1, 0.4)
    assert again.judge(trials[0], found) == once.judge(trials[0], found) == (None if name == "none" else "pruned")


@pytest.mark.parametrize("name", PRUNING)
@given(steps=VALUES, never_pruned=st.frozensets(st.integers(0, 5)))
def test_trials_that_are_never_pruned_change_nothing_for_the_others(
    name: str, steps: list[tuple[int, float]], never_pruned: frozenset[int]
) -> None:
    with_them = judged(name, steps, never_pruned)
    without = judged(name, steps)
    assert [found for found in with_them if found[0] not in never_pruned] == [
        found for found in without if found[0] not in never_pruned
    ]
    spared = [(number, epoch) for number, epoch, verdict in with_them if verdict == "spared"]
    pruned = [(number, epoch) for number, epoch, verdict in without if verdict == "pruned" and number in never_pruned]
    assert spared == pruned, "once, where it would have been pruned"
    assert not [number for number, _, verdict in with_them if verdict == "pruned" and number in never_pruned]


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_never_pruned_trials_are_their_share_of_any_stretch_of_trials(length: int, share: float, offset: float) -> None:
    chosen = [is_never_pruned(index, share, offset) for index in range(300)]
    counts = {sum(chosen[begin : begin + length]) for begin in range(0, 300 - length, 7)}
    assert all(abs(count - length * share) < 1 + 1e-9 for count in counts)
    assert not any(is_never_pruned(index, 0.0, offset) for index in range(300))
    assert all(is_never_pruned(index, 1.0, offset) for index in range(300))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "median", "reduction_factor": 3}, "median has no use for reduction_factor"),
        ({"name": "none", "grace_period": 3, "never_pruned": 0}, "none has no use for grace_period and never_pruned"),
        ({"never_pruned": 1.1}, "less than or equal to 1"),
        ({"never_pruned": -0.1}, "greater than or equal to 0"),
        ({"never_pruned": math.nan}, "less than or equal to 1"),
    ],
)
def test_settings_without_a_use_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        SchedulerConfig.model_validate(settings)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resolved_section_can_be_read_again(name: str) -> None:
    written = SchedulerConfig(name=name).model_dump()  # type: ignore[arg-type]
    assert SchedulerConfig.model_validate(written) == SchedulerConfig(name=name)  # type: ignore[arg-type]
    assert ("reduction_factor" in written) == name.endswith("asha")


# Rungs, exactly.


@given(st.integers(1, 12), st.integers(2, 11), st.integers(1, 3000))
def test_rungs_are_the_whole_numbers_of_their_definition(grace_period: int, factor: int, num_epochs: int) -> None:
    def is_rung(epoch: int) -> bool:
        times, rest = divmod(epoch, grace_period)
        while times > 1 and times % factor == 0:
            times //= factor
        return rest == 0 and times == 1

    expected = tuple(epoch for epoch in range(1, num_epochs) if is_rung(epoch))
    assert rung_epochs(grace_period, factor, num_epochs) == expected


@given(st.integers(1, 12), st.integers(2, 11), st.integers(12, 3000))
def test_rays_rungs_below_the_last_epoch_are_ours(grace_period: int, factor: int, num_epochs: int) -> None:
    """The one that Ray loses to floating point, for 243 epochs at factor 3, is at the last epoch, where trials end."""
    ray = AsyncHyperBandScheduler(max_t=num_epochs, grace_period=grace_period, reduction_factor=factor)
    epochs = sorted(epoch for epoch, _ in ray._brackets[0]._rungs if epoch < num_epochs)
    assert tuple(epochs) == rung_epochs(grace_period, factor, num_epochs)


SEEN = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), max_size=12)


def verdict_after(seen: list[float], value: float, factor: int, first: int = 0) -> bool:
    """What a rung says of a value after others."""
    rungs = Rungs((1,), factor)
    for trial, other in enumerate(seen, start=first):
        rungs.report(trial, 1, other)
    return rungs.report(first + len(seen), 1, value)


@given(SEEN.flatmap(lambda seen: st.tuples(st.just(seen), st.permutations(seen))), st.floats(0, 1), st.integers(2, 5))
def test_a_verdict_depends_on_the_values_seen_but_not_on_their_order_or_trials(
    orders: tuple[list[float], list[float]], value: float, factor: int
) -> None:
    seen, shuffled = orders
    assert verdict_after(seen, value, factor) == verdict_after(shuffled, value, factor, first=100)


@given(SEEN, st.floats(0, 1), st.integers(2, 5))
def test_a_verdict_is_that_of_its_definition(seen: list[float], value: float, factor: int) -> None:
    better, count = sum(other > value for other in seen), len(seen) + 1
    assert verdict_after(seen, value, factor) == (better == 0 or better * factor < count)


@given(SEEN, st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), st.integers(2, 5))
def test_of_equal_values_in_a_row_the_second_goes_on_if_the_first_did(
    seen: list[float], value: float, factor: int
) -> None:
    if verdict_after(seen, value, factor):
        assert verdict_after([*seen, value], value, factor)


@given(SEEN, st.floats(0, 1), st.floats(0, 1), st.integers(2, 5))
def test_a_better_value_is_never_stopped_where_a_worse_goes_on(
    seen: list[float], one: float, other: float, factor: int
) -> None:
    worse, better = sorted((one, other))
    assert verdict_after(seen, better, factor) >= verdict_after(seen, worse, factor)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if "grace_period" in SETTINGS[name]])
def test_a_grace_period_longer_than_training_stops_nothing(name: str) -> None:
    referee = Referee(SchedulerConfig.model_validate({"name": name, "grace_period": 20}), NUM_EPOCHS)
    trials = [TrialState(number, "distil", {}) for number in range(6)]
    rows = [(trial, row(trial.number, epoch, 0.5 - trial.number / 16)) for trial in trials for epoch in range(1, 10)]
    assert {referee.judge(trial, found) for trial, found in rows} == {None, "completed"}


@pytest.mark.parametrize(("name", "epoch"), [("asha", 2), ("ray_asha", 2), ("median", 2), ("none", NUM_EPOCHS)])
def test_trials_are_compared_at_the_last_epoch_that_all_had_a_chance_to_reach(name: str, epoch: int) -> None:
    scheduler = SchedulerConfig.model_validate({"name": name} | ({} if name == "none" else {"grace_period": 2}))
    file = SimpleNamespace(search=SearchConfig(scheduler=scheduler), trial={"training": {"num_epochs": NUM_EPOCHS}})
    assert comparison_epoch(cast(RunTables, SimpleNamespace(file=file))) == epoch
