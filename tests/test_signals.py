"""Ctrl-C and SIGTERM: whatever a command is doing, it says how to go on and ends with 75; the second time, at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kd_tune import cli, signals
from kd_tune.errors import ExitCode
from tests.runs_by_hand import Trained, write_run
from tests.searches import SearchProcess, toy_search, write_search

BOTH = pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)


@pytest.fixture
def stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str], signal.Signals, str], str]:
    """`stopped(arguments, number, pattern)` signals a command when such a file is there; what it said before 75."""
    monkeypatch.setenv("KD_TUNE_CACHE", str(tmp_path / "cache"))

    def run(arguments: list[str], number: signal.Signals, pattern: str) -> str:
        ended = threading.Event()

        def send() -> None:
            while not any(tmp_path.glob(pattern)):
                if ended.wait(0.002):
                    return
            os.kill(os.getpid(), number)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            with pytest.raises(SystemExit) as end:
                cli.main(arguments)
        finally:
            ended.set()
            sender.join()
        assert end.value.code == ExitCode.RESUMABLE
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return said.err

    return run


@BOTH
def test_a_teachers_training_is_stopped_and_goes_on(
    number: signal.Signals, stopped: Callable[..., str], tmp_path: Path, toy_npz: Path
) -> None:
    arguments = ["teacher", "train", "digits", "--dataset", "npz", "--data", str(toy_npz)]
    long = [*arguments, "--out", str(tmp_path / "digits"), "--set", "training.num_epochs=100000"]
    said = stopped(long, number, "digits.training/epochs.json")
    assert "stopped; the same command goes on from the last checkpoint" in said


@BOTH
def test_a_search_that_prepares_is_stopped(
    number: signal.Signals, stopped: Callable[..., str], tmp_path: Path, toy_npz: Path
) -> None:
    """Ray was not started, and there is no run yet."""
    file = write_search(tmp_path, toy_search())
    runs = tmp_path / "runs"
    arguments = ["search", str(file), "--data", str(toy_npz), "--runs", str(runs), "--name", "toy"]
    assert "if not, with the same command" in stopped(arguments, number, "cache/**/epochs.json")
    assert not runs.exists()


# A signal may come when pandas has opened a file and holds it nowhere yet; the command's process ends then.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@BOTH
def test_a_report_that_is_written_is_stopped_and_leaves_nothing(
    number: signal.Signals, stopped: Callable[..., str], tmp_path: Path
) -> None:
    """Of the commands that say no more than this."""
    write_run(tmp_path / "run", [Trained([0.5, 0.6 + trial / 100]) for trial in range(8)])
    said = stopped(["analyze", str(tmp_path / "run")], number, "run/*report*")
    assert "stopped; the same command starts again" in said
    assert not list(tmp_path.glob("run/*report*"))


WAITS = """
import sys, time
from kd_tune.signals import end_at_once, handled
with handled(again=end_at_once) as stop:
    for _ in range(2):  # a stop that takes its time
        try:
            print("asked" if stop.asked else "waits", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            pass
sys.exit("nobody ended it")
"""


@BOTH
def test_a_second_signal_ends_at_once_but_a_repeated_one_is_the_first(number: signal.Signals) -> None:
    waiting = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(number)
        assert waiting.stdout.readline() == "asked\n"
        waiting.send_signal(number)  # as from a terminal and from a script that hands it on
        time.sleep(signals.SAME_WISH_SECONDS)
        assert waiting.poll() is None
        began = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        _, said = waiting.communicate()
    assert time.monotonic() - began < 5
    assert waiting.returncode == ExitCode.ENDED_AT_ONCE
    assert "stopping; once more ends it at once" in said
    assert "ended at once" in said


@BOTH
def test_a_signal_is_heard_where_nobody_reads_what_is_said(number: signal.Signals) -> None:
    """In `... 2>&1 | tee log`, tee ends of the same Ctrl-C."""
    reads, writes = os.pipe()
    os.close(reads)
    waiting = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=writes, text=True)
    os.close(writes)
    with waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(number)
        assert waiting.stdout.readline() == "asked\n"
        waiting.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([signal.SIGTERM], ExitCode.RESUMABLE),
        # For a moment, while Ray shuts down, a second SIGTERM is the system's.
        ([signal.SIGTERM, signal.SIGINT], ExitCode.ENDED_AT_ONCE),
    ],
)
def test_a_search_that_trains_is_stopped_and_no_process_of_ray_stays(
    sent: list[signal.Signals], code: ExitCode, tmp_path: Path, toy_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has handlers of its own."""
    monkeypatch.setenv("KD_TUNE_CACHE", str(tmp_path / "cache"))  # by which its processes are known
    write_search(tmp_path, toy_search(**{"trial.training.num_epochs": 100_000}))
    launch = SearchProcess(tmp_path, "toy.yaml", "--data", str(toy_npz), "--name", "toy")
    try:
        launch.wait_for_epochs(tmp_path / "runs" / "toy", 4)
        assert launch.worker_pids("")
        for number in sent:
            launch.interrupt(number)
            time.sleep(signals.SAME_WISH_SECONDS + 0.1)
        assert launch.wait() == code, launch.log.read_text()
    finally:
        launch.kill()
    if len(sent) == 1:
        assert "go on with:" in launch.log.read_text()
    deadline = time.monotonic() + 30
    while found := launch.worker_pids(""):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored() -> None:
    """A shell script starts what it puts behind its back with SIGINT ignored."""
    before = signal.getsignal(signal.SIGTERM)
    given = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.handled(again=signals.interrupt) as stop:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is stop
            with signals.handled(again=signals.end_at_once) as inner:
                assert inner is stop
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGINT, given)
