"""Whole searches kept in S3: a machine is lost and another goes on; the storage is lost and comes back."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import pytest
from rich.console import Console

from kd_tune import results
from kd_tune.confirm import Request, confirm
from kd_tune.export import Wanted, export_best
from kd_tune.ledger import read_events, replay
from kd_tune.mirror import fetch
from kd_tune.search import Launch, start
from kd_tune.search_file import load_search_file
from kd_tune.storage import Storage
from tests.object_store import Gate
from tests.searches import SearchProcess, complaints, proposals_of, toy_search, write_search

DONE, USAGE, RESUMABLE = 0, 2, 75
NUM_TRIALS, NUM_EPOCHS = 6, 6
TIMES = ["seconds", "images_per_second"]  # of an epoch: what no two runs have in common

IMPATIENT = """
from kd_tune import cli, mirror

mirror.PATIENCE = 20.0  # in place of five minutes
cli.search_main()
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(tmp_path: Path, toy_npz: Path) -> tuple[str, ...]:
    """What starts the toy search as the run `toy`; one trial at a time."""
    write_search(tmp_path, toy_search(**{"resources.cpus_per_trial": os.cpu_count()}))
    return ("toy.yaml", "--data", str(toy_npz), "--name", "toy")


@pytest.fixture
def url(s3: Gate, tmp_path: Path) -> str:
    """An empty place in S3."""
    return Storage(s3.url).child(tmp_path.name).url


def epochs_in(storage: Storage) -> list[bytes]:
    """Epoch events in the copy of the ledger so far."""
    names = [name for name in storage.files() if "ledger/" in name]
    lines = b"".join(storage.read(name) or b"" for name in names).split(b"\n")
    return [line for line in lines if b'"event": "epoch"' in line]


def wait_for_copied_epochs(storage: Storage, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(epochs_in(storage)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def same_tables(run: Path, other: Path) -> bool:
    one, two = results.read(run), results.read(other)
    return one.history.drop(columns=TIMES).equals(two.history.drop(columns=TIMES))


def test_a_run_survives_its_machine(tmp_path: Path, arguments: tuple[str, ...], url: str) -> None:
    undisturbed = SearchProcess(tmp_path, *arguments, "--runs", "undisturbed")
    assert undisturbed.wait() == DONE, undisturbed.log.read_text()

    launch = SearchProcess(tmp_path, *arguments, "--storage", url)
    run, copy = tmp_path / "runs" / "toy", Storage(url).child("toy")
    launch.wait_for_epochs(run, 3)
    wait_for_copied_epochs(copy, 3)
    launch.kill()
    assert not (run / "checkpoints").exists()
    shutil.rmtree(tmp_path / "runs")

    second = SearchProcess(tmp_path, "--resume", copy.url)
    assert second.wait() == DONE, second.log.read_text()
    assert "watching for" in second.log.read_text()
    assert complaints(run, NUM_TRIALS, NUM_EPOCHS) == []
    assert proposals_of(run) == proposals_of(tmp_path / "undisturbed" / "toy")
    assert same_tables(run, tmp_path / "undisturbed" / "toy")
    assert (run / "export" / "distil_1" / "student.safetensors").exists()
    kept = {"report/report.md", "export/distil_1/student.safetensors"}
    assert kept <= set(copy.files())
    assert b'"released":true' in (copy.read("owner.json") or b"")
    assert [event for event in read_events(run) if event["event"] == "retried"] == []


def test_a_search_whose_storage_is_lost_pauses_and_goes_on(
    tmp_path: Path, arguments: tuple[str, ...], s3: Gate, url: str
) -> None:
    impatient = tmp_path / "impatient.py"
    impatient.write_text(IMPATIENT)
    launch = SearchProcess(tmp_path, *arguments, "--storage", url, program=impatient)
    run = tmp_path / "runs" / "toy"
    launch.wait_for_epochs(run, 3)
    s3.always = 503
    assert launch.wait() == RESUMABLE, launch.log.read_text()
    log = launch.log.read_text()
    assert "HTTP status 503" in log
    assert "Nothing is lost" in log
    assert "run_search.py --resume runs/toy" in log
    (pause,) = (event for event in read_events(run) if event["event"] == "paused")
    assert "503" in pause["limit"]
    assert not replay(run).failed()

    s3.always = None
    second = SearchProcess(tmp_path, "--resume", "runs/toy")
    assert second.wait() == DONE, second.log.read_text()
    assert complaints(run, NUM_TRIALS, NUM_EPOCHS) == []
    copy = Storage(url).child("toy")
    assert all(copy.read(f"ledger/{path.name}") == path.read_bytes() for path in (run / "ledger").iterdir())


def test_a_search_that_was_fetched_can_be_confirmed_and_exported(
    tmp_path: Path, toy_npz: Path, url: str, ray_cluster: None
) -> None:
    """In stacks, whose checkpoints go to the storage side by side; a trial's and a training's come back from there."""
    console = Console(file=io.StringIO(), width=120)
    file = load_search_file(write_search(tmp_path, toy_search(**{"search.num_trials": 2})))
    state = start(file, tmp_path / "here" / "toy", Launch(source=toy_npz, storage=url), console)
    assert not state.num_left()
    there = fetch(Storage(url).child("toy").url, tmp_path / "there", console)
    shutil.rmtree(tmp_path / "here")
    assert export_best(there, tmp_path / "students", Wanted(), None)

    result = confirm(there, Request(top=1, num_seeds=2), Launch(source=toy_npz), console)
    assert result is not None
    assert len(result.arms[0].test_accuracies) == 2
    copy = Storage(url).child("toy")
    assert b"test_opened" in b"".join(copy.read(name) or b"" for name in copy.files() if name.startswith("ledger"))
    assert {"confirmation/plan.json", "confirmation/confirmation.json"} <= set(copy.files()), copy.files()
    assert len(copy.folders("confirmation/checkpoints")) == 2
    assert (there / "confirmed").is_dir()
