"""The command `analyze`: a run's report, and what is made of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kd_tune import advice
from kd_tune.terminal import AllowOption, make_console


def analyze(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    export: Annotated[Path | None, typer.Option(help="Write the best students here.", show_default=False)] = None,
    top: Annotated[int, typer.Option(min=1, help="With --export: how many students of every arm.")] = 1,
    optuna: Annotated[
        Path | None, typer.Option(help="Write the run as Optuna studies to this new SQLite file.", show_default=False)
    ] = None,
    allow_code: AllowOption = None,
) -> None:
    """Summarise a run: tables here, CSV, pictures and a Markdown report in the run; export its best students."""
    from kd_tune import report, user_code

    user_code.allow(allow_code or [])
    console = make_console()
    path = report.write(run, console)
    console.print(f"report: {path}")
    if optuna is not None:
        _export_studies(run, optuna, console)
    if export is not None:
        export_best(run, export, top, console)


def analyze_again(folder: Path) -> str:
    """The command that writes a run's report again."""
    return advice.command(advice.interpreter(), "analyze.py", folder)


def export_best(run: Path, target: Path, top: int, console: Console, replace: bool = False) -> None:
    """Exports a run's best students, and says what came of each.

    Args:
        run: the run's folder.
        target: the folder that will hold a folder for each student.
        top: how many of every arm.
        console: is told.
        replace: whether an earlier export may lie there.
    """
    from kd_tune import export

    for line in export.export_best(run, target, top, replace):
        console.print(f"export: {line}")


def _export_studies(run: Path, target: Path, console: Console) -> None:
    from kd_tune import optuna_export, results

    names = optuna_export.export_studies(results.read(run), target)
    console.print(f"optuna: {target} holds the studies {', '.join(names)}; look at them with:")
    console.print(f"  pip install optuna-dashboard && optuna-dashboard sqlite:///{target}")
