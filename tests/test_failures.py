"""What broke a trial: said in one line, and found out where its process cannot say it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from kd_tune import records, report, report_parts
from kd_tune.failures import CRASH, HANG, LOST, LOST_HOST, MEMORY, explain
from kd_tune.ledger import Run
from kd_tune.storage import Storage
from kd_tune.watchdog import HANG as HANG_FILE
from kd_tune.watchdog import MARK, in_hand, take_mark
from tests.runs_by_hand import Trained, write_run

# As Ray 2.60 says it.
DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n\tpid: 7\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)
UNAVAILABLE = (
    "The actor bf80ea0cc22121ad32a60a3b01000000 is unavailable: The actor is temporarily unavailable: RpcError: RPC "
    "error: Socket closed rpc_code: 14. The task may or may not have been executed on the actor."
)
NODE = "The actor died unexpectedly before finishing this task.\nThe actor died because its node has died. Node Id: 7"
RAN_OUT = "Task was killed due to the node running low on memory.\nMemory on the node was 15.2GB / 16.0GB"
IN_TORCH = (
    'ray::ImplicitFunc.train() (pid=7)\n  File "engine.py", line 7, in _train_epoch\n'
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB.\n"
)
STACK = f"ray.exceptions.ActorDiedError: gone\n\nThe above exception was the cause\n\nRuntimeError: {LOST_HOST}\n"


@pytest.mark.parametrize(
    ("text", "in_hand", "what", "said"),
    [
        ("Traceback\n  File\nKeyError: 'no such weights'\n\n", None, CRASH, "KeyError: 'no such weights'"),
        ("", None, CRASH, "Ray gave no reason"),
        (DIED, "", CRASH, "its process died: killed, out of memory"),
        (UNAVAILABLE, "", CRASH, "its process cannot be reached: it died, or its node"),
        (DIED, "no epoch in 1:00:00", HANG, "no epoch in 1:00:00"),
        (NODE, "", LOST, "its node has gone"),
        (NODE, "no epoch in 1:00:00", LOST, "its node has gone"),
        (RAN_OUT, "", MEMORY, "out of memory on its machine: a smaller training.batch_size"),
        (IN_TORCH, None, MEMORY, "resources.stack) need less; torch.OutOfMemoryError: CUDA out of memory."),
        ("MemoryError: Unable to allocate 9 GiB", None, MEMORY, "out of memory on its machine"),
        (STACK, None, LOST, "with other trials in hand"),
        (STACK, "", CRASH, "its process died"),
        (STACK, "no epoch in 1:00:00", HANG, "no epoch in 1:00:00"),
        (NODE + STACK, None, LOST, "its node has gone"),
        ("KeyError: " + "x" * 9999, None, CRASH, "KeyError: xxx"),
    ],
)
def test_a_failure_is_said_in_one_line(text: str, in_hand: str | None, what: str, said: str) -> None:
    failure = explain(text, in_hand)
    assert failure.what == what
    assert said in failure.error
    assert len(failure.error) <= 500
    assert "\n" not in failure.error


ENDLESS = """
import sys, threading
from pathlib import Path
from kd_tune.watchdog import in_hand

def forward():
    sum(0 for _ in iter(int, 1))  # one call into C, which keeps Python's lock for the most part

def open_trial():
    forward()

threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a client's call waits in a host
for _ in range(3):
    with in_hand(2.0, Path(sys.argv[1])):
        pass
with in_hand(2.0, Path(sys.argv[1]) if sys.argv[2] == "alone" else None):
    open_trial()
"""


@pytest.mark.parametrize("how", ["alone", "in a stack"])
def test_a_process_that_hangs_ends_and_leaves_what_it_was_doing(how: str, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS, str(tmp_path / "trial"), how], timeout=60, check=False)
    assert ended.returncode == 1
    line = take_mark(tmp_path / "trial")
    if how == "alone":
        assert line is not None
        assert line.startswith("no epoch in 0:00:02")
        assert "resources.epoch_seconds" in line
        assert "last seen in <string>:7" in line
        assert "in forward" in (tmp_path / "trial" / HANG_FILE).read_text()
    else:
        assert line is None
    assert take_mark(tmp_path / "trial") is None


@pytest.mark.parametrize("place", [Path, lambda path: Storage(str(path))], ids=["folder", "storage"])
def test_a_mark_without_words_is_of_a_process_that_died(
    place: Callable[[Path], Path | Storage], tmp_path: Path
) -> None:
    (tmp_path / MARK).touch()
    assert take_mark(place(tmp_path)) == ""
    assert take_mark(place(tmp_path)) is None


@pytest.mark.parametrize("place", [Path, lambda path: Storage(str(path))], ids=["folder", "storage"])
def test_what_is_in_hand_is_marked_until_it_is_done(place: Callable[[Path], Path | Storage], tmp_path: Path) -> None:
    with in_hand(60, place(tmp_path)):
        assert (tmp_path / MARK).exists()
    assert take_mark(place(tmp_path)) is None


def test_the_report_holds_a_table_of_failures_with_what_explains_each(tmp_path: Path) -> None:
    """Of the newest kind and of a ledger from before it was told apart; what a file says formats nothing."""
    folder = tmp_path / "run"
    write_run(folder, [Trained([0.5, 0.6]), Trained([0.5], end=None), Trained([0.1], end="diverged")])
    run = Run(folder)
    for _ in range(report_parts.MOST_FAILURES):
        run.record(records.RETRIED, trial=1, epoch=1, what=LOST, error="its node has gone")
    run.record(records.RETRIED, trial=0, error="KeyError: a|b <script>[x](y)")
    run.record(records.STOPPED, trial=1, reason="failed", epoch=1, what=MEMORY, error="out of memory on its GPU")
    run.close()
    page = report.write(folder, Console(quiet=True)).read_text()
    shown = page.partition("### Failures")[2].partition("\n#")[0]
    assert "| 0 | distil |  | 1 | crash | started again | KeyError: a\\|b \\<script\\>\\[x\\](y) |" in shown
    assert shown.count("| 1 | distil | 1 |") == report_parts.MOST_FAILURES - 1
    assert "| 1 | distil | 1 | 1 | lost | started again | its node has gone |" in shown
    assert "2 more are in `failures.csv`" in shown
    table = pd.read_csv(folder / "report" / "failures.csv")
    last = table.iloc[-1]
    assert len(table) == report_parts.MOST_FAILURES + 2
    assert (last["number"], last["time"], last["then"]) == (1, report_parts.MOST_FAILURES + 1, "failed")
    assert (last["what"], last["error"]) == (MEMORY, "out of memory on its GPU")
    assert 2 not in set(table["number"])
