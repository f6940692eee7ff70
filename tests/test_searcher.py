"""Proposals: a function of seed, number and finished trials; pruned and diverged trials told as such."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState

from kd_tune.config import Choice, FloatRange, SamplerConfig, SchedulerConfig, SearchConfig
from kd_tune.ledger import Run, RunState, TrialState
from kd_tune.proposals import _to_optuna, propose
from kd_tune.scheduler import Referee, RunScheduler
from kd_tune.searcher import RunSearcher, next_arm, points_of_arm
from kd_tune.space import Draw, Space, contains
from tests.searches import toy_manifest

SPACE = Space(
    {
        "student": {"name": "studentnet", "width": Choice(options=[0.5, 1.0])},
        "objective": Choice(
            options=[{"name": "hinton", "alpha": FloatRange(bounds=[0.0, 1.0])}, {"name": "cross_entropy"}]
        ),
        "optimizer": {"name": "sgd", "lr": FloatRange(bounds=[1e-3, 1e-1], log=True)},
    }
)
TPE = SamplerConfig(num_startup_trials=3)


def ended(number: int, draw: dict[str, Any], value: float | None, end: Any = "completed") -> TrialState:
    rows = {epoch: {"val_accuracy": value, "epoch": epoch} for epoch in (1, 2)}
    return TrialState(number, "distil", draw, rows=rows, end=end)


def new_draw(past: list[TrialState], config: SamplerConfig, seed: int) -> Draw:
    draw = propose(SPACE, past, config, seed)
    assert draw is not None
    return draw


def history(length: int) -> list[TrialState]:
    """Trials of which small rates did well."""
    trials: list[TrialState] = []
    for index in range(length):
        draw = new_draw([], SamplerConfig(name="random"), index)
        trials.append(ended(index, draw, 1 + math.log10(draw["optimizer.lr"]) / -4))
    return trials


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_proposal_follows_from_seed_and_history_alone(name: Any) -> None:
    config = SamplerConfig(name=name, num_startup_trials=3)
    past = history(8)
    first = new_draw(past, config, 5)
    assert first == propose(SPACE, past, config, 5)
    assert first != propose(SPACE, past, config, 6)
    assert all(contains(leaf, first[parameter]) for parameter, leaf in SPACE.active(first).items())


def test_tpe_learns_from_history() -> None:
    past = history(30)
    proposed = [new_draw(past, TPE, seed)["optimizer.lr"] for seed in range(30)]
    blind = [new_draw([], TPE, seed)["optimizer.lr"] for seed in range(30)]
    # Small rates were best; the medians of 30 draws differ by far more than chance allows (a factor above 2).
    assert sorted(proposed)[15] * 2 < sorted(blind)[15]


def test_failed_trials_teach_nothing() -> None:
    past = history(8)
    failed = [*past, ended(8, past[0].draw, 0.9, "failed")]
    assert propose(SPACE, failed, TPE, 1) == propose(SPACE, past, TPE, 1)


def test_pruned_and_diverged_trials_are_told_as_pruned() -> None:
    draw = new_draw([], TPE, 0)
    pruned = _to_optuna(SPACE, ended(0, draw, 0.4, "pruned"))
    assert pruned.state == OptunaState.PRUNED
    assert pruned.intermediate_values == {1: 0.4, 2: 0.4}
    diverged = _to_optuna(SPACE, ended(0, draw, 0.4, "diverged"))
    assert diverged.state == OptunaState.PRUNED
    assert math.isnan(diverged.intermediate_values[2])
    completed = _to_optuna(SPACE, ended(0, draw, 0.4))
    assert (completed.state, completed.value) == (OptunaState.COMPLETE, 0.4)


def test_grid_takes_every_cell_in_turn() -> None:
    space = Space({"a": Choice(options=[1, 2, 3]), "b": Choice(options=["x", "y"])})
    trials: list[TrialState] = []
    for index in range(6):
        draw = propose(space, trials, SamplerConfig(name="grid"), seed=index)
        assert draw is not None
        trials.append(TrialState(index, "distil", draw))
    assert len({tuple(trial.draw.items()) for trial in trials}) == 6


def test_points_come_first_and_what_they_leave_out_is_drawn() -> None:
    draw = propose(SPACE, [], TPE, 0, start={"optimizer.lr": 0.01, "objective": "hinton"})
    assert draw is not None
    assert draw["optimizer.lr"] == 0.01
    assert 0 <= draw["objective[hinton].alpha"] <= 1
    assert points_of_arm([{"optimizer.lr": 0.01, "objective.alpha": 1.0}], SPACE) == [{"optimizer.lr": 0.01}]


def test_arms_take_turns_by_their_shares() -> None:
    state = RunState(quota={"distil": 4, "cross_entropy": 2})
    order = []
    while (arm := next_arm(state)) is not None:
        order.append(arm)
        state.trials[len(state.trials)] = TrialState(len(state.trials), arm, {})
    assert order == ["distil", "cross_entropy", "distil", "distil", "cross_entropy", "distil"]


def test_what_ray_pickles_holds_nothing_of_the_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search: {}\n", toy_manifest())
    run.record("started", quota={"distil": 1})
    searcher = RunSearcher(run, {"distil": SPACE}, SearchConfig())
    scheduler = RunScheduler(run, Referee(SchedulerConfig(), 9))
    assert vars(pickle.loads(pickle.dumps(searcher))) == {}
    assert vars(pickle.loads(pickle.dumps(scheduler))) == {}
    run.close()
