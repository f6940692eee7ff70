"""What the command modules share: the console, what is said on standard error, options, and the way a command ends."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
MlflowOption = Annotated[
    str | None,
    typer.Option(
        "--mlflow", metavar="URI", help="Tell this MLflow of trials, e.g. sqlite:///mlflow.db.", show_default=False
    ),
]
WandbOption = Annotated[
    str | None,
    typer.Option(
        "--wandb", metavar="PROJECT", help="Tell this project of Weights & Biases of trials.", show_default=False
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
        complain(f"stopped; {advice}")
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
    """Standard output; what it is given is printed as it is, whatever brackets it holds, but for control characters."""
    width = None if sys.stdout.isatty() else 120  # wide enough for a table in a log
    file = cast(IO[str], Outlet(sys.stdout))
    return _Console(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def complain(text: str) -> None:
    """Says something on standard error."""
    print(harmless(text), file=Outlet(sys.stderr))


# C0, DEL and C1 but tab and newline; and halves of surrogate pairs, which no stream takes.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def harmless(text: str) -> str:
    """Text in which control characters, by which a file could steer the terminal, are written as `\\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class _Console(Console):
    """Rich's, whose own control codes pass and no others."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


class Outlet:
    """A standard stream that outlives its reader: what nobody can read (`| head`, a terminal that is gone) is dropped.

    Args:
        stream: standard output or error.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            _lead_nowhere(self._stream.fileno())


def _lead_nowhere(gone: int) -> None:
    """Has this descriptor, and the standard ones that lead to the same place, take everything and keep nothing.

    Python writes what it still holds when it ends, and would complain.
    """
    place, nowhere = os.fstat(gone), os.open(os.devnull, os.O_WRONLY)
    for number in (gone, 1, 2):
        with suppress(OSError):  # it was closed before
            if os.path.samestat(os.fstat(number), place):
                os.dup2(nowhere, number)
    os.close(nowhere)
