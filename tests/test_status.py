"""How a search is getting on, from its ledger: running, stopped, finished, or gone without a word."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kd_tune import records
from kd_tune.cli import main
from kd_tune.errors import ConfigError
from kd_tune.ledger import PLAN, Run
from kd_tune.status import read
from kd_tune.strict_yaml import dump_yaml
from tests.searches import toy_manifest, toy_search


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """One that trains a trial."""
    search = toy_search(**{"search.arms": ["distil"]})
    with closing(Run.create(tmp_path / "toy", dump_yaml(search), toy_manifest())) as made:
        made.record(records.STARTED, quota={"distil": 2}, slots=1)
        made.record(records.PROPOSED, trial=0, arm="distil", draw={"optimizer.lr": 0.1})
        for epoch in (1, 2):
            made.record(records.EPOCH, trial=0, attempt=0, epoch=epoch, val_accuracy=epoch / 10)
        yield made


def test_a_search_that_runs(run: Run) -> None:
    found = read(run.folder)
    assert found.words.startswith(f"{run.folder}: running, last heard of ")
    assert found.runs
    assert (found.glance.pace.epochs, found.glance.course.num_epochs) == (2, 6)
    assert found.glance.state == run.state


@pytest.mark.parametrize(
    ("event", "fields", "words"),
    [
        (records.PAUSED, {"limit": "--max-hours 2"}, "stopped by --max-hours 2; go on with: "),
        (records.PAUSED, {"limit": None}, "stopped; go on with: "),
        (records.FINISHED, {}, "finished"),
        (records.STOPPED, {"trial": 0, "reason": "pruned"}, "ended without a word, last heard of "),
    ],
)
def test_a_search_that_runs_no_more(event: str, fields: dict[str, Any], words: str, run: Run) -> None:
    run.record(event, **fields)
    run.close()
    found = read(run.folder)
    assert found.words.startswith(f"{run.folder}: {words}")
    assert not found.runs
    assert ("--resume" in found.words) == (event != records.FINISHED)


def test_only_the_last_launch_says_how_fast_it_goes(run: Run) -> None:
    run.record(records.STARTED, quota={"distil": 2}, slots=1)
    assert read(run.folder).glance.pace.epochs == 0


def test_the_command_shows_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", str(run.folder)])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "running, last heard of" in said
    assert "distil: 20.00%  ▁█  trial 0, 2 epochs" in said


def test_what_is_no_search_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing: no run here"):
        read(tmp_path / "nothing")
    (run.folder / PLAN).touch()
    with pytest.raises(ConfigError, match=f"this is a confirmation; name its search, {tmp_path}"):
        read(run.folder)


def test_tensorboard_serves_runs_on_this_machine_alone(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run / "tensorboard", other / "tensorboard")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "kd_tune.cli", "tensorboard", str(finished_run), str(other), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as served:
        try:
            shown = ask(f"http://127.0.0.1:{port}/data/runs")
        finally:
            served.terminate()
    assert {name.split("/")[0] for name in shown} == {"run", "other"}


def ask(url: str) -> list[str]:
    """What it answers, when it is there."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return list(json.load(answer))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_tensorboard_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tensorboard", str(tmp_path / "nothing")])
    assert ended.value.code == 2
    assert "nothing: no such folder; name those of runs" in capsys.readouterr().err
