"""What the command modules share: the console, options, and the way a command ends."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kd_tune.errors import ConfigError, EnvironmentProblem, ExitCode

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Where the data lie: a folder or an .npz file.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a leaf, for example trial.training.num_epochs=9.", show_default=False),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the run [default: the file's name and the time].")]
RunsOption = Annotated[Path, typer.Option(help="Folder that holds runs.")]
AddressOption = Annotated[str | None, typer.Option(help="A running Ray cluster, or `auto` [default: this machine].")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Keep the run there too, s3://bucket/prefix or a shared folder: nodes need share no folder for it.",
        show_default=False,
    ),
]
HoursOption = Annotated[
    float | None,
    typer.Option("--max-hours", help="Stop this launch after so many hours; can be resumed.", show_default=False),
]
DeviceHoursOption = Annotated[
    float | None,
    typer.Option(
        "--max-device-hours",
        help="Stop when the run's trials have held GPUs (or else CPU places) for so many hours over all launches.",
        show_default=False,
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-code", help="A package of yours that may run: package.module:callable names.", show_default=False
    ),
]


@contextmanager
def stoppable(advice: str) -> Iterator[None]:
    """Turns Ctrl-C into a word of advice and the exit code of what can be resumed; adds it to what an environment
    does not allow."""
    try:
        yield
    except EnvironmentProblem as problem:
        raise EnvironmentProblem(f"{problem}; when that is mended, {advice}") from None
    except KeyboardInterrupt:
        print(f"stopped; {advice}", file=sys.stderr)
        raise typer.Exit(ExitCode.RESUMABLE) from None


def check_resumed_alone(with_it: str, *given: object) -> None:
    """Refuses what cannot go with --resume.

    Args:
        with_it: the options that can, for the message.
        given: those that cannot, as they were given; None or empty: left out.

    Raises:
        ConfigError: one of `given` was given.
    """
    if any(given):
        raise ConfigError(f"--resume takes its search file from the run; only {with_it} go with it")


def run_folder(runs: Path, name: str | None, file: Path) -> Path:
    """Where a new run goes: `runs/NAME`, or the search file's name and the time.

    Raises:
        ConfigError: the name is not one for a folder.
    """
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name}: letters, digits, '.', '_' and '-' only, and no '.' or '-' first")
    return runs / (name or f"{file.stem}-{time.strftime('%Y%m%d-%H%M%S')}")


def make_console() -> Console:
    """Standard output; what it is given is printed as it is, whatever brackets it holds."""
    width = None if sys.stdout.isatty() else 120  # wide enough for a table in a log
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)
