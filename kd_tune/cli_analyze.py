"""The command `analyze`: a run's report, and what is made of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kd_tune import advice
from kd_tune.errors import ConfigError
from kd_tune.terminal import AllowOption, DataOption, make_console

if TYPE_CHECKING:
    from kd_tune.data import Dataset
    from kd_tune.export import Wanted


def analyze(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The run's folder; several are compared.")],
    export: Annotated[Path | None, typer.Option(help="Write the best students here.", show_default=False)] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="With --export: how many students of every arm [default: 1].", show_default=False),
    ] = None,
    trial: Annotated[
        list[int] | None,
        typer.Option(min=0, help="With --export: this trial's student; may be repeated.", show_default=False),
    ] = None,
    max_params: Annotated[
        int | None, typer.Option(min=1, help="With --export: at most so many parameters.", show_default=False)
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(min=1, help="With --export: at most so many multiply-adds.", show_default=False)
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(help="With --export: at most so long for one image, measured here.", show_default=False),
    ] = None,
    measure_speed: Annotated[
        bool, typer.Option("--measure-speed", help="With --export: latency and memory of students and teachers.")
    ] = False,
    data: DataOption = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html of a very large run, too [default: up to 2,000 trials].")
    ] = False,
    optuna: Annotated[
        Path | None, typer.Option(help="Write the run as Optuna studies to this new SQLite file.", show_default=False)
    ] = None,
    allow_code: AllowOption = None,
) -> None:
    """Summarise a run: tables here, CSV, pictures and report (Markdown, HTML, JSON) in it; export its best students.

    Of several runs: show side by side what was searched, what it cost, what was best and what was confirmed.
    """
    limits = {"--max-params": max_params, "--max-macs": max_macs, "--max-latency-ms": max_latency_ms}
    choice = {"--top": top, **limits}
    if export is None:
        options = {**choice, "--trial": trial, "--measure-speed": measure_speed or None, "--data": data}
        _refuse([name for name, value in options.items() if value], "says what to --export: add --export FOLDER")
    elif trial:
        _refuse([name for name, value in choice.items() if value], "chooses a student, which --trial has done")
    if max_latency_ms is not None and not max_latency_ms > 0:
        raise ConfigError(f"--max-latency-ms {max_latency_ms:g}: must be above 0")
    from kd_tune import report, user_code

    user_code.allow(allow_code or [])
    console = make_console()
    run, *others = runs
    if others:
        _refuse(
            [name for name, value in (("--export", export), ("--optuna", optuna), ("--html", html)) if value],
            "is about one run",
        )
        from kd_tune import compare

        compare.show(compare.read(runs), console)
        return
    if optuna is not None:
        _export_studies(run, optuna, console)
    if export is not None:
        from kd_tune.export import Wanted

        wanted = Wanted(top or 1, tuple(trial or ()), max_params, max_macs, max_latency_ms)
        export_best(run, export, wanted, data, console, measure_speed=measure_speed)
    console.print(f"report: {report.write(run, console, html)}")  # last: it shows speeds that were measured


def _refuse(options: list[str], why: str) -> None:
    if options:
        raise ConfigError(f"{options[0]} {why}")


def analyze_again(folder: Path) -> str:
    """The command that writes a run's report again."""
    return advice.command(advice.interpreter(), "analyze.py", folder)


def export_best(
    run: Path,
    target: Path,
    wanted: Wanted | None,
    source: Path | None,
    console: Console,
    replace: bool = False,
    measure_speed: bool = False,
) -> Dataset | None:
    """Exports students of a run, and says what came of each.

    Args:
        run: the run's folder.
        target: the folder that will hold a folder for each student.
        wanted: which students; None: the best of every arm.
        source: where the run's data lie; None: where the run found them, if they are still there.
        console: is told.
        replace: whether an earlier export may lie there.
        measure_speed: whether to measure latency and memory.

    Returns:
        The run's data; None: they are not at hand.
    """
    from kd_tune import export
    from kd_tune.progress import progress

    dataset = _data(run, source, console)
    with progress(console, "export: students") as advance:
        lines = export.export_best(run, target, wanted or export.Wanted(), dataset, replace, measure_speed, advance)
    for line in lines:
        console.print(f"export: {line}")
    return dataset


def _data(run: Path, source: Path | None, console: Console) -> Dataset | None:
    """The run's data; None, which is said, if nobody told where they are and they are no longer where they were."""
    from kd_tune import export

    try:
        return export.data_of(run, source)
    except ConfigError as error:
        if source is not None:
            raise
        console.print(
            f"export: {export.NO_DATA} ({error}): no int8, no calibration, and accuracy is not tested; with --data, "
            "which says where they are, all of that is done"
        )
        return None


def _export_studies(run: Path, target: Path, console: Console) -> None:
    from kd_tune import optuna_export, results

    names = optuna_export.export_studies(results.read(run), target)
    console.print(f"optuna: {target} holds the studies {', '.join(names)}; look at them with:")
    console.print(f"  pip install optuna-dashboard && optuna-dashboard sqlite:///{target}")
