"""What a person is told to go on with can be copied: it is quoted, and has the options that a run does not remember."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from kd_tune import advice, cli, user_code
from kd_tune.errors import ExitCode
from tests.confirmations import write_run


@pytest.fixture(autouse=True)
def forbidden_again() -> Iterator[None]:
    yield
    user_code.forbid_all()


def test_a_command_has_the_options_that_were_given_and_reads_back_as_it_was_meant() -> None:
    user_code.allow(["json", "csv"])
    line = advice.command("kd-tune", "record", "--resume", Path("my runs/a"), data=Path("it's"), address="auto")
    assert shlex.split(line) == [
        *("kd-tune", "record", "--resume", "my runs/a"),
        *("--data", "it's", "--address", "auto", "--allow-code", "csv", "--allow-code", "json"),
    ]


def test_options_that_were_not_given_are_not_advised() -> None:
    assert advice.search_again(Path("runs/toy")) == f"{advice.interpreter()} run_search.py --resume runs/toy"


def test_a_search_that_cannot_go_on_says_how_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # another test's Ray may be running in this process
    run = write_run(tmp_path / "my run", distil=[(0.5, 6, 0.9)])
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and nobody listens
        given = ["--data", "my data", "--address", f"127.0.0.1:{held.getsockname()[1]}", "--allow-code", "json"]
        with pytest.raises(SystemExit) as stop:
            cli.main(["search", "--resume", str(run), *given])
    assert stop.value.code == ExitCode.ENVIRONMENT
    _, _, again = capsys.readouterr().err.partition("go on with: ")
    assert shlex.split(again) == [advice.interpreter(), "run_search.py", "--resume", str(run), *given]
