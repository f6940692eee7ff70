"""Searches in this process, on the tests' one Ray: out of time, out of luck, impossible requests."""

from __future__ import annotations

import io
import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kd_tune.arms import space_of_arm
from kd_tune.checkpoint import WEIGHTS, newest
from kd_tune.cli import main
from kd_tune.cluster import slots_of
from kd_tune.config import ResourcesConfig
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.ledger import Run, checkpoints_of, read_events, replay
from kd_tune.limits import Allowance, Limits, device_time
from kd_tune.mirror import remember, storage_for
from kd_tune.records import PAUSED
from kd_tune.run_state import TrialState
from kd_tune.search import Launch, name_trials, resume, start
from kd_tune.search_checks import stack_size, stacks_in_words
from kd_tune.search_file import SearchFile, load_search_file
from tests.searches import complaints, ledger_text, toy_search, write_search

QUIET = Console(quiet=True)


@pytest.fixture
def long_search(tmp_path: Path) -> SearchFile:
    """Two trials that no limit of seconds lets finish; a trial that breaks is not started again."""
    changes = {"trial.training.num_epochs": 100_000, "search.num_trials": 2, "search.max_failures": 0}
    changes["search.scheduler"] = {"name": "none"}
    return load_search_file(write_search(tmp_path, toy_search(**changes)))


def test_a_search_out_of_time_can_go_on(
    long_search: SearchFile, tmp_path: Path, toy_npz: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    ask = Allowance.reached
    in_two_places = Limits(device_hours=40 / 3600)
    state = start(long_search, run, Launch(source=toy_npz, limits=in_two_places), QUIET)
    assert len(state.unfinished()) == 2
    reached = {trial.number: trial.epoch for trial in state.unfinished()}
    damaged = newest(checkpoints_of(run, 1))
    assert damaged is not None
    (damaged / WEIGHTS).write_bytes(b"damaged")

    with pytest.raises(ConfigError, match=r"has held devices for .* hours in all its launches; allow more"):
        resume(run, Launch(limits=in_two_places), QUIET)

    def when_it_went_on(allowance: Allowance) -> str | None:
        """The hour is over as soon as one trial is further, and the damaged one has ended."""
        trials = replay(run).trials
        if trials[0].epoch > reached[0] and trials[1].end is not None:
            allowance._began -= 3600.0
        return ask(allowance)

    monkeypatch.setattr(Allowance, "reached", when_it_went_on)
    state = resume(run, Launch(limits=Limits(hours=1.0)), QUIET)
    assert state.trials[0].epoch > reached[0]
    assert sorted(state.trials[0].rows) == list(range(1, state.trials[0].epoch + 1))
    assert state.trials[1].end == "failed"
    assert f"{damaged / WEIGHTS}: " in (state.trials[1].error or "")

    events = list(read_events(run))
    first, second = (event for event in events if event["event"] == PAUSED)
    assert first["limit"] == f"--max-device-hours {40 / 3600:g}"
    assert second["limit"] == "--max-hours 1"
    assert 40 / 3600 - 1e-4 <= first["device_hours"] < second["device_hours"]
    counted = device_time(events, long_search.resources).hours()
    assert second["device_hours"] == pytest.approx(counted, abs=1e-3)


def test_a_resumed_run_must_find_its_data_unchanged(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, train_images=np.zeros((60, 16, 16), np.uint8), train_labels=np.arange(60) % 3)
    with pytest.raises(ConfigError, match="the data is not what the run started with"):
        resume(finished_run, Launch(source=other), QUIET)
    assert complaints(finished_run, 24, 6) == []


def test_the_same_command_starts_or_goes_on(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here, and where the storage alone has the run; what is said of a new one does not count for it."""

    def launch(runs: Path, code: ExitCode) -> str:
        command = ["search", "not_there.yaml", "--runs", str(runs), "--name", "run", "--or-resume"]
        with pytest.raises(SystemExit) as ended:
            main([*command, "--storage", str(tmp_path / "storage")])
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        return said.out + said.err

    assert "not_there.yaml" in launch(tmp_path / "here", ExitCode.USAGE), "a search file that a new run would need"
    shutil.copytree(finished_run, tmp_path / "here" / "run")
    remember(tmp_path / "here" / "run", storage_for(str(tmp_path / "storage"), Path("run")))
    shutil.copytree(finished_run / "checkpoints", tmp_path / "storage" / "run" / "checkpoints")  # as trials do
    assert "run: every trial has ended; --extend adds some" in launch(tmp_path / "here", ExitCode.DONE)
    assert "run: every trial has ended; --extend adds some" in launch(tmp_path / "there", ExitCode.DONE)
    assert ledger_text(tmp_path / "there" / "run") == ledger_text(finished_run)


def test_a_storage_that_is_not_the_runs_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run is kept in none; leave --storage out"):
        resume(finished_run, Launch(storage=str(tmp_path / "storage")), QUIET)


def test_a_run_that_a_lost_machine_may_hold_is_waited_for(finished_run: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    holding = closing(Run(finished_run))
    with holding, pytest.raises(ConfigError, match="another process is running this search"):
        resume(finished_run, Launch(patience=1.5), console)
    with closing(Run(finished_run)) as run:
        threading.Timer(1.0, run.close).start()
        resume(finished_run, Launch(patience=60.0), console)
    assert said.getvalue().count("waiting for up to") == 2
    assert "every trial has ended" in said.getvalue()


def test_an_arm_whose_space_is_used_up_ends_early_and_can_be_extended_in_vain(
    tmp_path: Path, toy_npz: Path, ray_cluster: None
) -> None:
    changes = {"trial.student.width": 0.25, "trial.objective.alpha": {"choice": [0.2, 0.8]}, "trial.optimizer.lr": 0.05}
    file = load_search_file(write_search(tmp_path, toy_search(**changes)))
    state = start(file, tmp_path / "run", Launch(source=toy_npz), QUIET)
    assert (state.quota, len(state.trials)) == ({"distil": 2}, 2)
    assert complaints(tmp_path / "run", 2, 6) == []
    again = resume(tmp_path / "run", Launch(extend=3), QUIET)
    assert (again.quota, len(again.trials), again.num_missing()) == ({"distil": 2}, 2, 0)


def test_a_request_that_no_node_can_meet_is_refused_at_once(tmp_path: Path, toy_npz: Path, ray_cluster: None) -> None:
    file = load_search_file(write_search(tmp_path, toy_search(**{"resources.cpus_per_trial": 1000})))
    with pytest.raises(ConfigError, match="asks for 1000 CPUs and 0 GPUs, but no node has them"):
        start(file, tmp_path / "run", Launch(source=toy_npz), QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "slots"),
    [
        ({"CPU": 8.0}, 1, 0, 8),
        ({"CPU": 8.0}, 3, 0, 2),
        ({"CPU": 8.0}, 1, 0.5, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.25, 8),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.6, 2),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.1, 8),
        ({"CPU": 8.0, "GPU": 4.0}, 1, 2, 2),
    ],
)
def test_slots_are_counted_by_device(node: dict[str, float], cpus: int, gpus: float, slots: int) -> None:
    assert slots_of(node, ResourcesConfig(cpus_per_trial=cpus, gpus_per_trial=gpus)) == slots


@pytest.mark.parametrize(
    ("changes", "of_a_search", "of_a_confirmation"),
    [
        ({}, 4, 8),
        ({"resources.stack": 3}, 3, 3),
        ({"resources.cpus_per_trial": 2}, 1, 1),
        ({"resources.gpus_per_trial": 1, "search.num_trials": 1000}, 64, 64),
        ({"resources.gpus_per_trial": 1, "search.num_trials": 40, "search.arms": ["distil"]}, 10, 64),
        ({"trial.training.transform": "trivial_augment"}, 1, 1),
        ({"trial.student": {"name": "digits"}}, 1, 1),
    ],
)
def test_trials_are_stacked_where_it_pays(
    changes: dict[str, Any], of_a_search: int, of_a_confirmation: int, tmp_path: Path
) -> None:
    file = load_search_file(write_search(tmp_path, toy_search(**changes)))
    spaces = {arm: space_of_arm(file.trial, arm) for arm in file.search.trials_by_arm()}
    assert [stack_size(file, spaces, proposes=proposes) for proposes in (True, False)] == [
        of_a_search,
        of_a_confirmation,
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "each trains up to 4 trials in one step"),
        ({"resources.stack": 1}, "trials are trained one by one"),
        ({"resources.stack": 1, "trial.student": {"name": "digits"}}, "trials are trained one by one"),
        (
            {"trial.student": {"name": "digits"}, "trial.training.transform": "trivial_augment"},
            "trials are trained one by one, for these cannot be stacked: transform trivial_augment, student digits",
        ),
        (
            {
                "resources.stack": 3,
                "trial.student": {"choice": [{"name": "studentnet"}, {"name": "digits"}]},
                "trial.training.batch_size": {"choice": [16, 32]},
            },
            "each trains up to 3 trials that have the same batch size in one step; by themselves, for they cannot be "
            "stacked: student digits",
        ),
    ],
)
def test_a_search_says_what_is_stacked(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = load_search_file(write_search(tmp_path, toy_search(**changes)))
    spaces = {arm: space_of_arm(file.trial, arm) for arm in file.search.trials_by_arm()}
    assert stacks_in_words(stack_size(file, spaces), file, spaces) == said


@pytest.mark.parametrize(("numbers", "said"), [((), "none"), ((3, 7), "2 (trial 3, 7)"), (range(11), "11")])
def test_trials_that_go_on_are_named_if_they_are_few(numbers: tuple[int, ...], said: str) -> None:
    assert name_trials([TrialState(number, "distil", {}) for number in numbers]) == said
