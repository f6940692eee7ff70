"""Replays: a simulated clock over known curves, each configuration used once, nothing seen of the scored half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kd_tune.config import SearchConfig
from kd_tune.curve_table import CurveTable
from kd_tune.errors import ConfigError
from kd_tune.ranges import Choice, FloatRange
from kd_tune.replay import Clock, Contender, Nearest, OwnSearch, RayDefaults, Trace, build, replay, replay_seed
from kd_tune.search_quality import PEERS, REFERENCE, compare, compare_fronts, replay_all, simultaneous_interval
from kd_tune.space import Space
from tests.curves import NUM_EPOCHS, made_table

CONTENDERS: dict[str, Contender] = {**PEERS, "tpe": SearchConfig()}


@pytest.fixture(scope="module")
def table() -> CurveTable:
    return made_table()


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_seed_gives_the_same_replay_again(table: CurveTable, name: str) -> None:
    clock = Clock.of_trials(table, trials=12, workers=4)
    first, second = (replay_seed(table, CONTENDERS[name], clock, seed=3) for _ in range(2))
    assert np.array_equal(first.times, second.times)
    assert np.array_equal(first.scores, second.scores)
    assert (first.epochs, first.trials) == (second.epochs, second.trials)


@pytest.mark.parametrize("name", CONTENDERS)
def test_no_more_is_trained_than_the_workers_have_time_for(table: CurveTable, name: str) -> None:
    clock = Clock(workers=3, seconds=40.0)
    trace = replay_seed(table, CONTENDERS[name], clock, seed=0)
    shortest = table.epoch_seconds.min()
    assert 0 < trace.epochs <= clock.workers * clock.seconds / shortest
    assert trace.times[-1] <= clock.seconds


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_search_sees_nothing_of_the_half_that_scores_it(table: CurveTable, name: str) -> None:
    shuffled = table.curves.assign(val_accuracy_odd=np.random.default_rng(0).random(len(table.curves)))
    clock = Clock.of_trials(table, trials=12, workers=4)
    traces = [
        replay(kind, build(kind, CONTENDERS[name], 0), clock, "even")
        for kind in (table, replace(table, curves=shuffled))
    ]
    assert (traces[0].epochs, traces[0].trials, traces[0].completed) == (
        traces[1].epochs,
        traces[1].trials,
        traces[1].completed,
    )
    assert not np.array_equal(traces[0].scores, traces[1].scores)


def test_random_search_without_pruning_trains_every_trial_to_the_end() -> None:
    table = made_table(40)
    trace = replay_seed(table, PEERS[REFERENCE], Clock(workers=4, seconds=1e9), seed=0)
    diverged = int((table.curves.groupby("config").size() == 1).sum())
    assert trace.trials == 40
    assert trace.epochs == (40 - diverged) * NUM_EPOCHS + diverged
    assert sum(trace.completed.values()) == 40 - diverged
    last = table.accuracy("odd")[:, -1]
    assert trace.scores[-1] == pytest.approx(np.nanmax(last))


def test_asha_trains_less_of_each_trial(table: CurveTable) -> None:
    clock = Clock(workers=4, seconds=1e9)
    pruned = replay_seed(table, SearchConfig(), clock, seed=0)
    whole = replay_seed(table, PEERS[REFERENCE], clock, seed=0)
    assert pruned.trials == whole.trials
    assert pruned.epochs < 0.8 * whole.epochs


def test_a_search_is_told_the_configuration_that_answered() -> None:
    table = made_table()
    search = RayDefaults(table, seed=0)
    number, proposed = search.suggest() or (0, {})
    draw = table.draws[7]
    assert proposed != draw
    search.told(number, draw)
    for epoch in range(1, NUM_EPOCHS + 1):
        search.report(number, epoch, 0.1 * epoch)
    assert search._searcher._ot_study.trials[0].params == draw
    own = build(table, SearchConfig(), 0)
    number, _ = own.suggest() or (0, {})
    own.told(number, draw)
    assert own._run.state.trials[number].draw == draw  # type: ignore[attr-defined]


def test_every_recorded_configuration_answers_itself_and_only_once(table: CurveTable) -> None:
    nearest = Nearest(table.space, table.draws)
    assert [nearest.take(draw) for draw in table.draws] == list(range(len(table.draws)))
    assert nearest.left == 0
    nearest = Nearest(table.space, table.draws)
    assert len({nearest.take(table.draws[0]) for _ in table.draws}) == len(table.draws)


def test_the_nearest_configuration_is_measured_on_the_scale_that_is_searched(table: CurveTable) -> None:
    low, high = ({"student.width": 1.0, "objective.alpha": 0.5, "optimizer.lr": rate} for rate in (0.01, 0.3))
    nearest = Nearest(table.space, [high, low])
    asked = {"student.width": 1.0, "objective.alpha": 0.5, "optimizer.lr": 0.05}  # 5 x above, 6 x below; 0.04 and 0.25
    assert nearest.take(asked) == 1
    other = Nearest(table.space, [low | {"student.width": 0.5}, low | {"objective.alpha": 0.0, "optimizer.lr": 0.02}])
    assert other.take(low) == 1


def test_an_option_that_is_none_is_as_far_from_the_others_as_they_are() -> None:
    space = Space(
        {"objective": {"name": "mine", "kind": Choice(options=[None, 1, "a"])}, "lr": FloatRange(bounds=[0, 1])}
    )
    nearest = Nearest(space, [{"objective.kind": 1, "lr": 0.0}, {"objective.kind": None, "lr": 0.9}])
    assert nearest.find({"objective.kind": None, "lr": 0.0}) == 1


def test_a_proposal_keeps_its_student_while_one_is_left(table: CurveTable) -> None:
    asked = {"student.width": 1.0, "objective.alpha": 0.0, "optimizer.lr": 0.001}
    far, near = {"objective.alpha": 1.0, "optimizer.lr": 1.0}, {"objective.alpha": 0.0, "optimizer.lr": 0.001}
    nearest = Nearest(table.space, [near | {"student.width": 0.5}, far | {"student.width": 1.0}])
    assert [nearest.take(asked), nearest.take(asked)] == [1, 0]


def test_a_trial_belongs_to_the_stratum_of_what_answered() -> None:
    table = made_table()
    search = OwnSearch(table, SearchConfig(goal="front"))
    number, _ = search.suggest() or (0, {})
    for width, stratum in ((0.5, 0), (1.0, 1)):
        search.told(number, {"student.width": width, "objective.alpha": 0.5, "optimizer.lr": 0.01})
        assert search._run.state.trials[number].stratum == stratum


def test_a_trace_is_read_as_a_step_function() -> None:
    trace = Trace("even", np.array([1.0, 2.0, 5.0]), np.array([0.3, 0.6, 0.5]), {}, 0, 0, {})
    assert [trace.at(time) for time in (0.5, 1.0, 1.9, 2.0, 9.0)] == [0.0, 0.3, 0.3, 0.6, 0.5]
    assert [trace.time_to(target) for target in (0.3, 0.5, 0.6, 0.7)] == [1.0, 2.0, 2.0, float("inf")]


def test_comparison_by_hand() -> None:
    def trace(*scores: float, seen: str = "even") -> Trace:
        return Trace(seen, np.arange(1.0, 1 + len(scores)), np.array(scores), {}, 0, 5, {})

    traces: Any = {
        REFERENCE: [trace(0.1, 0.2, 0.3, 0.5), trace(0.1, 0.2, 0.3, 0.5)],
        "random + ASHA": [trace(0.1, 0.2, 0.3, 0.4), trace(0.1, 0.2, 0.3, 0.4)],
        "mine": [trace(0.5, 0.6, 0.7, 0.8), trace(0.2, 0.6, 0.4, 0.4)],
    }
    rows = compare(traces, Clock(workers=1, seconds=4.0)).set_index("search")
    assert rows["target"].tolist() == [0.5] * 3
    assert rows["time"].tolist() == [1.0, float("inf"), pytest.approx((1 / 4 + 2 / 4) / 2)]
    assert rows["reach"].tolist() == [1.0, 0.0, 1.0]
    assert rows["keep"].tolist() == [1.0, 0.0, 0.5]
    assert rows["minus_rival_0.5"].tolist() == pytest.approx([0.0, 0.0, 0.4])


def test_each_half_of_the_validation_images_has_its_own_target() -> None:
    def trace(score: float, seen: str) -> Trace:
        return Trace(seen, np.array([1.0]), np.array([score]), {}, 0, 1, {})

    halves = [trace(0.6, "even"), trace(0.5, "odd")]
    rows = compare({REFERENCE: halves, "random + ASHA": halves}, Clock(workers=1, seconds=2.0))
    assert rows["reach"].tolist() == [1.0, 1.0]
    assert rows["target"].tolist() == [pytest.approx(0.55)] * 2


def test_searches_of_many_processes_are_those_of_one(table: CurveTable) -> None:
    clock = Clock.of_trials(table, trials=6, workers=2)
    contenders = {REFERENCE: PEERS[REFERENCE]}
    one = replay_all(table, contenders, clock, range(4))
    two = replay_all(table, contenders, clock, range(4), jobs=2)
    assert [trace.scores.tolist() for trace in one[REFERENCE]] == [trace.scores.tolist() for trace in two[REFERENCE]]


def test_simultaneous_intervals_hold_all_at_once() -> None:
    # 300 experiments of 30 correlated triples with known means; 95 % +- 3 standard errors of 1.26 points.
    covered = 0
    random = np.random.default_rng(0)
    for experiment in range(300):
        common = random.normal(size=(30, 1))
        differences = common + random.normal(size=(30, 3)) + np.array([0.0, 1.0, 2.0])
        _, low, high = simultaneous_interval(differences, experiment)
        covered += bool(np.all((low <= [0.0, 1.0, 2.0]) & (high >= [0.0, 1.0, 2.0])))
    assert 0.91 <= covered / 300 <= 0.99


def test_equal_searches_differ_by_nothing() -> None:
    mean, low, high = simultaneous_interval(np.zeros((5, 3)), 0)
    assert mean.tolist() == low.tolist() == high.tolist() == [0.0, 0.0, 0.0]


def test_fronts_are_compared_size_by_size() -> None:
    def trace(small: float, large: float, completed: int) -> Trace:
        return Trace("even", np.array([]), np.array([]), {10: small, 20: large}, 0, 0, {10: completed, 20: 3})

    rows = compare_fronts([trace(0.4, 0.8, 2), trace(0.6, 0.8, 1)], [trace(0.3, 0.9, 0), trace(0.3, 0.9, 1)])
    assert rows["num_parameters"].tolist() == [10, 20, 0]
    assert rows["front"].tolist() == pytest.approx([0.5, 0.8, 0.65])
    assert rows["difference"].tolist() == pytest.approx([0.2, -0.1, 0.05])
    assert rows["least_completed_front"].tolist() == [1, 3, 1]
    assert rows["least_completed_best"].tolist() == [0, 3, 0]


def test_a_search_without_a_student_of_a_size_is_not_compared_as_one_that_knows_nothing() -> None:
    def trace(sizes: dict[int, float]) -> Trace:
        return Trace("even", np.array([]), np.array([]), sizes, 0, 0, dict.fromkeys(sizes, 1))

    front = [trace({10: 0.5, 20: 0.8}) for _ in range(3)]
    best = [trace({10: 0.4, 20: 0.9}), trace({20: 0.9}), trace({10: 0.4, 20: 0.9})]
    rows = compare_fronts(front, best)
    assert rows["seeds"].tolist() == [2, 2, 2]
    assert rows["best"].tolist() == pytest.approx([0.4, 0.9, 0.65])
    assert rows["least_completed_best"].tolist() == [0, 1, 0], "of all seeds"
    with pytest.raises(ConfigError, match="in 1 of 2 seeds both searches have a student of every size"):
        compare_fronts(front[:2], best[:2])


def test_a_front_is_searched_evenly(table: CurveTable) -> None:
    clock = Clock.of_trials(table, trials=16, workers=4)
    trace = replay_seed(table, SearchConfig(goal="front"), clock, seed=0)
    assert min(trace.completed.values()) >= 1
    assert set(trace.sizes) == set(table.num_parameters.tolist())
