"""Commands to watch a search from beside it: `kd-tune status` and `kd-tune tensorboard`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live

from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.terminal import make_console

PERIOD = 5.0  # seconds from look to look
LOG_PERIOD = 30.0  # the same where a line is printed for each


def status(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    follow: Annotated[bool, typer.Option("--follow", help="Look again every few seconds, until it has ended.")] = False,
) -> None:
    """Show how a search is getting on that runs elsewhere, or did: trials, rungs, the best so far, what is left."""
    from kd_tune.status import read

    console = make_console()
    found = read(run)
    if not (follow and console.is_terminal):
        console.print(Group(found.words, found.glance), soft_wrap=False)
        while follow and found.runs:
            time.sleep(LOG_PERIOD)
            found = read(run)
            console.print(f"{found.words}; {found.glance.summary()}", soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Group(found.words, found.glance), refresh=True)
            if not found.runs:
                return
            time.sleep(PERIOD)
            found = read(run)


def tensorboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of many runs.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine alone.")] = 6006,
) -> None:
    """Start TensorBoard on runs, at http://127.0.0.1:6006, until Ctrl-C."""
    from kd_tune.tensorboard_log import FOLDER

    if missing := [run for run in runs if not run.is_dir()]:
        raise ConfigError(f"{missing[0]}: no such folder; name those of runs, such as runs/NAME")
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    folders = [run / FOLDER if (run / FOLDER).is_dir() else run for run in runs]
    where = ["--logdir", str(folders[0])]
    if len(runs) > 1:
        if odd := [run for run in runs if "," in str(run) or ":" in str(run)]:
            raise ConfigError(f"{odd[0]}: TensorBoard takes no comma or colon in the path of one of several runs")
        where = ["--logdir_spec", ",".join(f"{name}:{folder}" for name, folder in zip(names, folders, strict=True))]
    command = [sys.executable, "-m", "tensorboard.main", *where, "--host", "127.0.0.1", "--port", str(port)]
    if subprocess.run(command, check=False).returncode > 0:
        raise EnvironmentProblem("TensorBoard ended with an error; what it said stands above")
