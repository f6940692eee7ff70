"""The searcher: which arm is next, its points, its end; what Ray may pickle of it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from rich.console import Console

from kd_tune.config import SamplerConfig, SchedulerConfig, SearchConfig
from kd_tune.glance import Course
from kd_tune.ledger import Run, replay
from kd_tune.proposals import SAMPLERS
from kd_tune.ranges import Choice, FloatRange
from kd_tune.run_state import RunState, TrialState
from kd_tune.scheduler import Referee, RunScheduler
from kd_tune.searcher import RunSearcher, SearchProposer, next_arm, points_of_arm
from kd_tune.space import Space
from kd_tune.watch import Watch
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


def test_points_are_cut_to_what_an_arm_has() -> None:
    assert points_of_arm([{"optimizer.lr": 0.01, "objective.alpha": 1.0}], SPACE) == [{"optimizer.lr": 0.01}]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path / "run", "search: {}\n", toy_manifest())
    made.record("started", quota={"distil": 9, "cross_entropy": 2})
    yield made
    made.close()


CELLS = Space(
    {
        "objective": {"name": "hinton", "alpha": Choice(options=[0.0, 0.5]), "temperature": Choice(options=[1.0, 2.0])},
        "optimizer": {"name": "sgd", "lr": 0.1},
    }
)
ONE_CELL = Space({"objective": {"name": "cross_entropy"}})


def suggestions(run: Run, config: SearchConfig) -> list[dict[str, Any]]:
    """What a searcher proposes until it has no more, unless one that runs breaks."""
    searcher = RunSearcher(run, SearchProposer(run, {"distil": CELLS, "cross_entropy": ONE_CELL}, config))
    return list(iter(lambda: searcher.suggest("some id"), None))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_arm_ends_when_every_trial_of_its_space_was_proposed_once(run: Run, name: Any) -> None:
    """Of four cells two are the same trial: at alpha 0 the temperature does nothing. The other arm has one cell."""
    proposed = suggestions(run, SearchConfig(sampler=SamplerConfig(name=name)))
    assert len(proposed) == 4
    assert run.state.quota == {"distil": 3, "cross_entropy": 1}
    assert run.state.num_missing() == 0
    distilled = {
        (trial.draw["objective.alpha"], trial.draw["objective.temperature"]) for trial in run.state.of_arm("distil")
    }
    assert distilled == {(0.0, 1.0), (0.5, 1.0), (0.5, 2.0)}
    assert replay(run.folder) == run.state


def test_an_exhausted_arm_that_is_extended_ends_again(run: Run) -> None:
    suggestions(run, SearchConfig())
    run.record("extended", num_trials=5)
    assert [found["number"] for found in suggestions(run, SearchConfig())] == [0, 1, 2, 3], "those that can go on"
    assert run.state.num_missing() == 0
    assert run.state.quota == {"distil": 3, "cross_entropy": 1}


def test_a_trial_that_failed_makes_room_for_its_draw(run: Run) -> None:
    suggestions(run, SearchConfig())
    lost = run.state.of_arm("distil")[1]
    for trial in run.state.unfinished():
        run.record("stopped", trial=trial.number, reason="failed" if trial is lost else "diverged")
    run.record("extended", num_trials=1)
    (again,) = suggestions(run, SearchConfig())
    assert run.state.trials[again["number"]].draw == lost.draw


def test_trials_are_proposed_while_there_is_room(run: Run) -> None:
    """Room may grow and shrink meanwhile; a trial that has ended makes some."""
    places = [1]
    searcher = RunSearcher(
        run, SearchProposer(run, {"distil": CELLS, "cross_entropy": ONE_CELL}, SearchConfig()), lambda: places[0]
    )
    assert searcher.suggest("a")["number"] == 0
    assert searcher.suggest("b") is None
    places[0] = 2
    assert searcher.suggest("b")["number"] == 1
    assert searcher.suggest("c") is None
    places[0] = 1
    searcher.on_trial_complete("a")
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("b")
    assert searcher.suggest("c")["number"] == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_watcher_is_told_that_an_arm_has_ended(run: Run, terminal: bool) -> None:
    written = io.StringIO()
    run.listeners.append(
        Watch(Console(file=written, width=200, force_terminal=terminal, highlight=False), run.state, Course(9, (3,)))
    )
    suggestions(run, SearchConfig())
    assert "distil ends with 3 trials: its space holds no draw that was not tried" in written.getvalue()


def test_arms_take_turns_by_their_shares() -> None:
    state = RunState(quota={"distil": 4, "cross_entropy": 2})
    order = []
    while (arm := next_arm(state)) is not None:
        order.append(arm)
        state.trials[len(state.trials)] = TrialState(len(state.trials), arm, {})
    assert order == ["distil", "cross_entropy", "distil", "distil", "cross_entropy", "distil"]


def test_a_trial_that_broke_is_given_again_until_its_end_is_recorded(tmp_path: Path) -> None:
    """So Ray is told that there is no more only when no trial can break any more."""
    run = Run.create(tmp_path / "run", "search: {}\n", toy_manifest())
    run.record("started", quota={"cross_entropy": 1})
    searcher = RunSearcher(run, SearchProposer(run, {"cross_entropy": ONE_CELL}, SearchConfig()))
    first = searcher.suggest("a")
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("b") == first | {"retry": 1}
    searcher.on_trial_complete("b", error=True)
    assert searcher.suggest("c") == first | {"retry": 2}
    searcher.on_trial_complete("c", error=True)
    run.record("stopped", trial=0, reason="failed")
    assert searcher.suggest("d") == Searcher.FINISHED
    run.close()


def test_what_ray_pickles_holds_nothing_of_the_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search: {}\n", toy_manifest())
    run.record("started", quota={"distil": 1})
    searcher = RunSearcher(run, SearchProposer(run, {"distil": SPACE}, SearchConfig()))
    scheduler = RunScheduler(run, Referee(SchedulerConfig(), 9))
    assert vars(pickle.loads(pickle.dumps(searcher))) == {}
    assert vars(pickle.loads(pickle.dumps(scheduler))) == {}
    run.close()
