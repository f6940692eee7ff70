"""What a person is told while a search runs, and of how long it will take."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from ray.tune.experiment import Trial
from rich.console import Console

from kd_tune import records
from kd_tune.config import SchedulerConfig
from kd_tune.glance import Course, epochs_left
from kd_tune.ledger import Run, read_events
from kd_tune.records import EpochRow
from kd_tune.run_state import RunState, TrialState
from kd_tune.scheduler import Referee, RunScheduler
from kd_tune.watch import Watch
from tests.searches import toy_manifest


@pytest.mark.parametrize(
    ("ended", "running", "expected"),
    [
        ([], [0], 45 + 9 * 45),
        ([], [50], 40 + 9 * 45),  # past half of the way, and nothing stopped it
        ([10, 20], [5], 10 + 7 * 15),
        ([10, 20], [15], 75 + 7 * 15),  # further than most: it goes to the end
        ([10, 20] * 5, [], 0),
    ],
)
def test_the_epochs_that_are_left_follow_from_the_trials_that_ended(
    ended: list[int], running: list[int], expected: float
) -> None:
    trials = [TrialState(0, "distil", {}, rows={epoch: {}}, end="pruned") for epoch in ended]
    trials += [TrialState(0, "distil", {}, rows={epoch: {}}) for epoch in running]
    state = RunState(dict(enumerate(trials)), {"distil": 10})
    assert epochs_left(state, Course(90, (3,))) == expected


def test_where_nothing_is_pruned_a_trial_is_trained_to_the_end() -> None:
    state = RunState({0: TrialState(0, "distil", {}, rows={30: {}})}, {"distil": 10})
    assert epochs_left(state, Course(90)) == 60 + 9 * 90


def test_what_a_host_says_is_recorded_beside_its_row_and_shown(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search: {}\n", toy_manifest())
    run.record(records.STARTED, quota={"distil": 1})
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    console = Console(file=io.StringIO(), width=200)
    run.listeners.append(Watch(console, run.state, Course(9)))
    row = EpochRow(1, *([0.5] * 8), 1.0, 9.0, 10, 10, note="3 students do not fit")
    scheduler = RunScheduler(run, Referee(SchedulerConfig(), 9))
    scheduler.on_trial_result(None, cast(Trial, SimpleNamespace(config={"number": 0})), row.to_metrics())
    run.close()
    noted, epoch = list(read_events(tmp_path / "run"))[-2:]
    assert (noted["event"], noted["trial"], noted["note"]) == ("noted", 0, "3 students do not fit")
    assert "note" not in epoch
    assert "note: 3 students do not fit" in console.file.getvalue()  # type: ignore[attr-defined]
