"""The commands `kd-tune record` and `kd-tune replay`: evidence about searches, from recorded learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kd_tune import advice
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.terminal import (
    AddressOption,
    AllowOption,
    DataOption,
    DeviceHoursOption,
    HoursOption,
    NameOption,
    RunsOption,
    SetOption,
    check_resumed_alone,
    make_console,
    run_folder,
    stoppable,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from kd_tune.config import SearchConfig
    from kd_tune.curve_table import CurveTable


def record(
    out: Annotated[Path, typer.Option(help="The table, NAME.parquet; NAME.json is written beside it.")],
    file: Annotated[Path | None, typer.Argument(help="The search file whose space is recorded.")] = None,
    data: DataOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    num_trials: Annotated[int | None, typer.Option(min=1, help="Configurations, in place of the file's.")] = None,
    max_hours: HoursOption = None,
    max_device_hours: DeviceHoursOption = None,
    address: AddressOption = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this recording.", show_default=False)] = None,
    allow_code: AllowOption = None,
) -> None:
    """Train random configurations to the end and keep their learning curves as a table, for `kd-tune replay`."""
    from kd_tune import record as recording
    from kd_tune import search, user_code
    from kd_tune.limits import Limits
    from kd_tune.search_file import load_search_file

    user_code.allow(allow_code or [])
    console = make_console()
    launch = search.Launch(data, address, Limits(max_hours, max_device_hours))
    if resume is not None:
        with_it = "--out, --data, --address, --max-hours, --max-device-hours and --allow-code"
        check_resumed_alone(with_it, file, name, overrides, num_trials)
        folder = resume
    elif file is not None:
        folder = run_folder(runs, name, file)
    else:
        raise ConfigError("name a search file to record, or a recording to go on with (--resume RUN)")
    recording.check_target(out)
    again = advice.command("kd-tune", "record", "--resume", folder, "--out", out, data=data, address=address)
    with stoppable(f"go on with: {again}"):
        if file is None:
            state = recording.resume(folder, launch, console)
        else:
            state = recording.record(load_search_file(file, overrides or [], num_trials), folder, launch, console)
    left = state.num_left()
    if left:
        console.print(f"stopped; {left} configurations are left; go on with:\n  {again}")
        raise typer.Exit(ExitCode.RESUMABLE)
    console.print(f"table: {recording.write_table(folder, out)}")
    raise typer.Exit(ExitCode.DONE)


def replay(
    table: Annotated[Path, typer.Argument(help="A table that `kd-tune record` wrote.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A search setting, for example search.scheduler.grace_period=1."),
    ] = None,
    num_trials: Annotated[int, typer.Option(min=1, help="Full budget: so many whole trainings.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Simulated trials at a time.")] = 8,
    seeds: Annotated[int, typer.Option(min=2, help="Searches of each kind.")] = 50,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
) -> None:
    """Replay whole searches over recorded curves: this file's search settings beside random search and Ray's own."""
    from kd_tune import curve_table, search_quality
    from kd_tune.progress import progress
    from kd_tune.replay import Clock

    console = make_console()
    recorded = curve_table.read(table)
    contenders = {**search_quality.PEERS, "these settings": _settings(overrides or [], recorded)}
    clock = Clock.of_trials(recorded, num_trials, workers)
    with progress(console, "replay") as advance:
        traces = search_quality.replay_all(recorded, contenders, clock, range(seeds), jobs, advance)
    title = f"{seeds} searches of each kind, {workers} workers, budget {num_trials} whole trainings"
    _show(search_quality.compare(traces, clock), title, console)


def _settings(overrides: list[str], table: CurveTable) -> SearchConfig:
    """The defaults of a `search` section, with overrides, checked as a search's own."""
    from kd_tune.records import DISTIL
    from kd_tune.replay import SETTINGS, recorded_students
    from kd_tune.search_checks import check_settings, check_sizes
    from kd_tune.search_file import Source, override, parse_search_file
    from kd_tune.space import to_raw

    usable = ", ".join(f"search.{name}" for name in SETTINGS)
    search = {"num_trials": len(table.draws), "sampler": {}, "scheduler": {}}
    raw = {"search": search, "trial": to_raw(table.trial)}
    for text in overrides:
        section, _, name = text.partition("=")[0].partition(".")
        if section != "search" or name.partition(".")[0] not in SETTINGS:
            raise ConfigError(f"--set {text}: a replay has no use for it; what can be set: {usable}")
        override(raw, text)
    file = parse_search_file(raw, Source("--set", {}))
    check_settings(file, {DISTIL: table.space})
    if file.search.goal == "front":
        check_sizes(file, recorded_students(table))
    return file.search


def _show(comparison: pd.DataFrame, title: str, console: Console) -> None:
    from rich.table import Table

    target = comparison["target"][0]
    grid = Table(title=f"{title}; target {target:.2%}", title_justify="left", box=None, pad_edge=False)
    for column in ("search", "time to target", "reach it", "keep it", "at 1/4", "at 1/2", "at the end", "trials"):
        grid.add_column(column, justify="left" if column == "search" else "right")
    for row in comparison.to_dict("records"):
        time_to = "never" if row["time"] > 1 else f"{row['time']:.3f}"
        shares = [f"{row[name]:.0%}" for name in ("reach", "keep")]
        scores = [f"{row[f'at_{share}']:.2%}" for share in ("0.25", "0.5", "1")]
        grid.add_row(row["search"], time_to, *shares, *scores, f"{row['trials']:.0f}")
    console.print(grid)
