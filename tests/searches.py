"""Searches as a person starts them: a process of its own, watched through its ledger, interrupted, killed, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from kd_tune.ledger import read_events
from kd_tune.manifest import Fingerprints, Manifest
from kd_tune.run_state import Event

ROOT = Path(__file__).resolve().parent.parent
WAIT_SECONDS = 180.0


def toy_search(**changes: Any) -> dict[str, Any]:
    """A search over the `toy_npz` data that takes seconds; `changes` are values by dotted path."""
    search: dict[str, Any] = {
        "search": {
            "num_trials": 6,
            "arms": ["distil"],
            "sampler": {"name": "tpe", "num_startup_trials": 3},
            "scheduler": {"name": "asha", "grace_period": 2, "reduction_factor": 2},
            "seed": 3,
        },
        "resources": {"cpus_per_trial": 1},
        "trial": {
            "dataset": {"name": "npz", "split_seed": 0},
            "teacher": {"name": "digits"},
            "student": {"name": "studentnet", "width": {"choice": [0.25, 0.5]}},
            "objective": {"name": "hinton", "alpha": {"float": [0.1, 1.0]}, "temperature": 4.0},
            "optimizer": {"name": "sgd", "lr": {"float": [0.003, 0.1], "log": True}},
            "training": {"num_epochs": 6, "batch_size": 32, "views": 2},
        },
    }
    for path, value in changes.items():
        *sections, leaf = path.split(".")
        node = search
        for section in sections:
            node = node[section]
        node[leaf] = value
    return search


class SearchProcess:
    """One launch of run_search.py.

    Args:
        folder: holds the search file, the log, and `runs/`.
        arguments: of run_search.py, beside `--runs`.
        program: in place of run_search.py.
        stdout: a file descriptor for standard output, which else goes to the log.
    """

    def __init__(
        self, folder: Path, *arguments: str, program: Path = ROOT / "run_search.py", stdout: int | None = None
    ) -> None:
        self.folder = folder
        self.log = folder / f"log_{time.monotonic_ns()}.txt"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                stdout=log if stdout is None else stdout,
                stderr=log,
                cwd=folder,
            )

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """The exit code; the process and its output are shown where it takes too long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {seconds} s:\n{self.log.read_text()[-3000:]}") from None

    def wait_for_epochs(self, run: Path, count: int) -> None:
        """Waits until the run's ledger holds so many epochs."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(epochs_of(run)) < count:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"ended before epoch {count}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C, or what a cluster sends."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """`kill -9` of the driver; Ray's own processes follow it."""
        self._process.kill()
        self._process.wait()

    def worker_pids(self, title: str) -> list[int]:
        """Processes of this launch known by the title that Ray gives them, and by the launch's environment.

        Args:
            title: `ray::ImplicitFunc` of a trial's process, `ray::Host` of one that trains several trials.
        """
        cache = f"KD_TUNE_CACHE={os.environ['KD_TUNE_CACHE']}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                if command.startswith(title.encode()) and cache in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:  # it ended meanwhile
                continue
        return found


def epochs_of(run: Path) -> list[Event]:
    """Epoch events of a run's ledger so far; none before there is a ledger."""
    return [event for event in read_events(run) if event["event"] == "epoch"]


def write_search(folder: Path, search: dict[str, Any]) -> Path:
    """Writes a search file."""
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(search))
    return path


def proposals_of(run: Path) -> list[Any]:
    """Arm and draw of every proposal, in order."""
    return [(event["arm"], event["draw"]) for event in read_events(run) if event["event"] == "proposed"]


def complaints(run: Path, num_trials: int, num_epochs: int) -> list[str]:
    """What is wrong with a run that should have ended: trials lost, proposed twice, with gaps, or started twice."""
    events = list(read_events(run))
    numbers = [event["trial"] for event in events if event["event"] == "proposed"]
    problems = [] if numbers == list(range(num_trials)) else [f"proposed: {numbers}"]
    for number in range(num_trials):
        epochs = [event["epoch"] for event in events if event["event"] == "epoch" and event["trial"] == number]
        ends = [event for event in events if event["event"] == "stopped" and event["trial"] == number]
        if len(ends) != 1:
            problems.append(f"trial {number} ended {len(ends)} times")
        elif set(epochs) != set(range(1, ends[0]["epoch"] + 1)):
            problems.append(f"trial {number} has epochs {epochs}, but ended after {ends[0]['epoch']}")
        elif ends[0]["reason"] == "completed" and ends[0]["epoch"] != num_epochs:
            problems.append(f"trial {number} completed after {ends[0]['epoch']} epochs")
        if epochs.count(1) > 1:
            problems.append(f"trial {number} was started from the beginning {epochs.count(1)} times")
    return problems


def ledger_text(run: Path) -> str:
    """All whole lines of all segments."""
    segments = sorted((run / "ledger").glob("*.jsonl"))
    return "".join(re.sub(r"[^\n]*\Z", "", segment.read_text()) for segment in segments)


def without_checksums(run: Path) -> Path:
    """Makes a run's ledger one of before lines had checksums, for a test to change; returns its last segment."""
    for segment in (run / "ledger").iterdir():
        segment.write_text(re.sub(r', "crc32": "[0-9a-f]{8}"}$', "}", segment.read_text(), flags=re.MULTILINE))
    return max((run / "ledger").iterdir())


def toy_manifest() -> Manifest:
    """A manifest for runs that tests write by hand."""
    return Manifest(
        created="2026-01-01T00:00:00+0000",
        search_file="toy.yaml",
        seed=0,
        source=None,
        fingerprints=Fingerprints(data="0" * 16, teachers={}),
        dataset={"name": "npz", "split": {}, "class_names": []},
        teachers={},
        versions={},
        hardware={"processor": "", "cores": 1, "memory_gib": 1, "gpus": []},
    )
