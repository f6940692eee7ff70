"""What leaves for the terminal cannot steer it, and nothing depends on somebody reading it."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.live import Live
from rich.table import Table

from kd_tune import cli
from kd_tune.errors import ExitCode
from kd_tune.ledger import read_events
from kd_tune.terminal import Outlet, complain, harmless, make_console
from tests.confirmations import write_run
from tests.searches import ROOT, SearchProcess, toy_search, write_search

TITLE = "\x1b]0;mine now\x07"
SHOWN = r"\x1b]0;mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\n\tlines, größer, 学生, 🎓", "two\n\tlines, größer, 学生, 🎓"),
        (TITLE, r"\x1b]0;mine now\x07"),
        ("\x00 \r \x7f \x85 \x9b2J", r"\x00 \r \x7f \x85 \x9b2J"),
        ("\ud800", r"\ud800"),  # YAML can name it, and no stream takes it
    ],
)
def test_control_characters_are_written_out(text: str, expected: str) -> None:
    assert harmless(text) == expected


def test_the_console_lets_none_through_in_text_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=TITLE)
    table.add_column(TITLE)
    table.add_row(TITLE)
    console = make_console()
    console.print(TITLE, style="bold")
    console.print(table)
    complain(f"error: {TITLE}")
    said = capsys.readouterr()
    assert said.out.count(SHOWN) == 4
    assert said.err == "error: \\x1b]0;mine now\\x07\n"
    assert not set(said.out + said.err) & {"\x1b", "\x07"}


def test_a_live_tables_own_codes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written = Terminal()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setenv("TERM", "xterm")
    with Live(TITLE, console=make_console()):
        pass
    assert SHOWN in written.getvalue()
    assert TITLE not in written.getvalue()
    assert "\x1b[?25l" in written.getvalue(), "the cursor is not hidden"


def test_a_search_file_cannot_steer_the_terminal_by_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_search(tmp_path, toy_search(**{"trial.student.name": TITLE}))
    with pytest.raises(SystemExit) as stop:
        cli.main(["search", str(file)])
    assert stop.value.code == ExitCode.USAGE
    said = capsys.readouterr()
    assert SHOWN in said.err
    assert "\x1b" not in said.err + said.out


@pytest.mark.filterwarnings("ignore:Glyph")  # pictures have none for these
def test_a_strangers_run_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", **{f"arm{TITLE}": [(0.5, 6, 0.9)], "cross_entropy": [(0.5, 6, 0.8)]})
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", str(run)])
    assert stop.value.code == ExitCode.DONE
    said = capsys.readouterr()
    assert SHOWN in said.out
    assert "\x1b" not in said.err + said.out


def test_a_pipe_that_nobody_reads_takes_everything() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        for _ in range(2):
            print("dropped", file=Outlet(stream), flush=True)


def test_a_terminal_that_is_gone_takes_everything() -> None:
    master, slave = pty.openpty()
    os.close(master)
    with os.fdopen(slave, "w") as stream:
        for _ in range(2):
            print("dropped", file=Outlet(stream), flush=True)


def test_what_a_full_disk_refuses_is_no_reader_that_has_gone() -> None:
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "w") as stream:
        print("a log", file=Outlet(stream), flush=True)


def test_a_search_whose_reader_leaves_goes_on_and_can_be_stopped(tmp_path: Path, toy_npz: Path) -> None:
    write_search(tmp_path, toy_search(**{"search.num_trials": 10_000}))
    reader, writer = os.pipe()
    search = SearchProcess(tmp_path, "toy.yaml", "--data", str(toy_npz), "--name", "toy", stdout=writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert any(line.startswith("places: ") for line in lines), search.log.read_text()
    search.wait_for_epochs(tmp_path / "runs" / "toy", 20)  # of several trials, whose start and end it would tell
    search.interrupt()
    assert search.wait() == ExitCode.RESUMABLE, search.log.read_text()
    assert "Traceback" not in search.log.read_text()
    assert list(read_events(tmp_path / "runs" / "toy"))[-1]["event"] == "paused"


def test_a_report_is_written_to_the_end_though_its_reader_leaves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    words = [sys.executable, str(ROOT / "analyze.py"), str(run), "--optuna", str(tmp_path / "studies.db")]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, b"")
    assert (run / "report" / "report.md").exists()
    assert (tmp_path / "studies.db").exists()
