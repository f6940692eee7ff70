"""Nothing is lost: searches that are interrupted or killed, then resumed; and searches that are extended."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kd_tune.ledger import replay
from tests.searches import (
    SearchProcess,
    complaints,
    epochs_of,
    ledger_text,
    proposals_of,
    toy_search,
    write_search,
)

DONE, USAGE, RESUMABLE = 0, 2, 75
NUM_TRIALS, NUM_EPOCHS = 6, 6


@pytest.fixture
def search(tmp_path: Path, toy_npz: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder and the arguments that start the toy search in it, as the run `toy`; one trial at a time."""
    write_search(tmp_path, toy_search(**{"resources.cpus_per_trial": os.cpu_count()}))
    return tmp_path, ("toy.yaml", "--data", str(toy_npz), "--name", "toy")


@pytest.fixture
def stacked_search(tmp_path: Path, toy_npz: Path) -> tuple[Path, tuple[str, ...]]:
    """The same with all of its trials at one host."""
    write_search(tmp_path, toy_search(**{"resources.cpus_per_trial": os.cpu_count(), "resources.stack": NUM_TRIALS}))
    return tmp_path, ("toy.yaml", "--data", str(toy_npz), "--name", "toy")


def start_and(stop: str, folder: Path, arguments: tuple[str, ...], epochs: int) -> Path:
    """Starts the search, ends it the given way after so many epochs, and returns the run's folder."""
    launch = SearchProcess(folder, *arguments)
    run = folder / "runs" / "toy"
    launch.wait_for_epochs(run, epochs)
    if stop == "interrupt":
        launch.interrupt()
        assert launch.wait() == RESUMABLE, launch.log.read_text()
        assert f"--resume {Path('runs') / 'toy'}" in launch.log.read_text()
    else:
        launch.kill()
    return run


def resume(folder: Path, *arguments: str) -> None:
    launch = SearchProcess(folder, "--resume", "runs/toy", *arguments)
    assert launch.wait() == DONE, launch.log.read_text()


def resume_and_check(folder: Path, run: Path) -> None:
    """Goes on to the end: what was recorded stays, and every trial has each of its epochs once."""
    before = ledger_text(run)
    resume(folder)
    assert ledger_text(run).startswith(before)
    assert complaints(run, NUM_TRIALS, NUM_EPOCHS) == []


@pytest.fixture(scope="session")
def undisturbed_proposals(tmp_path_factory: pytest.TempPathFactory, toy_npz: Path) -> list[Any]:
    """What the toy search proposes when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_search(folder, toy_search(**{"resources.cpus_per_trial": os.cpu_count()}))
    launch = SearchProcess(folder, "toy.yaml", "--data", str(toy_npz), "--name", "toy")
    assert launch.wait() == DONE, launch.log.read_text()
    assert complaints(folder / "runs" / "toy", NUM_TRIALS, NUM_EPOCHS) == []
    return proposals_of(folder / "runs" / "toy")


@pytest.mark.parametrize("stop", [pytest.param("interrupt", marks=pytest.mark.slow), "kill"])
def test_resumed_search_loses_nothing_and_proposes_the_same(
    stop: str, search: tuple[Path, tuple[str, ...]], undisturbed_proposals: list[Any]
) -> None:
    folder, arguments = search
    run = start_and(stop, folder, arguments, epochs=8)
    resume_and_check(folder, run)
    assert proposals_of(run) == undisturbed_proposals


@pytest.mark.parametrize("stop", ["interrupt", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_search_in_stacks_loses_nothing_either(stop: str, stacked_search: tuple[Path, tuple[str, ...]]) -> None:
    folder, arguments = stacked_search
    run = start_and(stop, folder, arguments, epochs=8)
    resume_and_check(folder, run)


@pytest.mark.slow
@pytest.mark.parametrize("round_number", range(5))
def test_killed_at_a_random_moment_a_search_can_be_resumed(
    round_number: int, search: tuple[Path, tuple[str, ...]], undisturbed_proposals: list[Any]
) -> None:
    folder, arguments = search
    rng = random.Random(round_number)
    launch = SearchProcess(folder, *arguments)
    run = folder / "runs" / "toy"
    launch.wait_for_epochs(run, rng.randrange(1, 18))
    time.sleep(rng.random() * 0.3)
    launch.kill()
    resume_and_check(folder, run)
    assert proposals_of(run) == undisturbed_proposals


@pytest.mark.parametrize("title", ["ray::ImplicitFunc", "ray::Host"])
def test_killed_workers_cost_no_trial(title: str, stacked_search: tuple[Path, tuple[str, ...]]) -> None:
    folder, arguments = stacked_search
    launch = SearchProcess(folder, *arguments)
    run = folder / "runs" / "toy"
    launch.wait_for_epochs(run, 5)
    workers = launch.worker_pids(title)
    assert workers, "no worker was found to kill"
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert launch.wait() == DONE, launch.log.read_text()
    assert complaints(run, NUM_TRIALS, NUM_EPOCHS) == []
    assert "broke and starts again" in launch.log.read_text()


def test_extended_search_gets_exactly_so_many_more_trials(search: tuple[Path, tuple[str, ...]]) -> None:
    folder, arguments = search
    launch = SearchProcess(folder, *arguments, "--num-trials", "2")
    assert launch.wait() == DONE, launch.log.read_text()
    run = folder / "runs" / "toy"
    first = {number: trial.rows for number, trial in replay(run).trials.items()}
    resume(folder, "--extend", "8")
    assert complaints(run, 10, NUM_EPOCHS) == []
    after = replay(run)
    assert {number: after.trials[number].rows for number in first} == first
    assert (run / "export" / "distil_1" / "student.onnx").exists()


def test_second_launcher_of_a_run_is_refused(search: tuple[Path, tuple[str, ...]]) -> None:
    folder, arguments = search
    launch = SearchProcess(folder, *arguments)
    run = folder / "runs" / "toy"
    launch.wait_for_epochs(run, 1)
    second = SearchProcess(folder, "--resume", "runs/toy")
    assert second.wait() == USAGE
    assert "another process is running this search" in second.log.read_text()
    launch.interrupt()
    assert launch.wait() == RESUMABLE
    assert len(epochs_of(run)) > 0
