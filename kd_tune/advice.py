"""Command lines that a person can copy: how to go on with a run, with the options that it does not remember."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from kd_tune import user_code


def search_again(run: Path, data: Path | None = None, address: str | None = None) -> str:
    """What goes on with a search; arguments as of `command`."""
    return command(interpreter(), "run_search.py", "--resume", run, data=data, address=address)


def command(*words: object, data: Path | None = None, address: str | None = None) -> str:
    """A command line, quoted for a shell, with `--allow-code` for every package that this process may run.

    Args:
        words: of it, as they are.
        data: `--data` as it was given; None: it was not.
        address: `--address`, likewise.
    """
    given = [("--data", data), ("--address", address), *(("--allow-code", package) for package in user_code.allowed())]
    options = [part for option, value in given if value is not None for part in (option, value)]
    return shlex.join(map(str, (*words, *options)))


def interpreter() -> str:
    """This Python as a person would type it from here."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else "python"
