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

from kd_tune.errors import ConfigError
from kd_tune.terminal import make_console

PERIOD = 5.0  # seconds from look to look


def status(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    follow: Annotated[bool, typer.Option("--follow", help="Look again every few seconds, until it has ended.")] = False,
) -> None:
    """Show how a search is getting on that runs elsewhere, or did: trials, rungs, the best so far, what is left."""
    from kd_tune.status import read

    console = make_console()
    found = read(run)
    if not (follow and console.is_terminal):
        console.print(Group(found.words, "", found.glance))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Group(found.words, "", found.glance), refresh=True)
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
    folders = {run.name: run / FOLDER if (run / FOLDER).is_dir() else run for run in runs}
    places = [f"{name}:{folder}" for name, folder in folders.items()] if len(runs) > 1 else [str(*folders.values())]
    where = ["--logdir_spec" if len(runs) > 1 else "--logdir", ",".join(places)]
    command = [sys.executable, "-m", "tensorboard.main", *where, "--host", "127.0.0.1", "--port", str(port)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
