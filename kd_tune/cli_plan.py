"""The command `kd-tune plan`: what a search will take, before it spends anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_tune.terminal import AllowOption, DataOption, DeviceHoursOption, HoursOption, SetOption, make_console


def plan(
    file: Annotated[Path, typer.Argument(help="The search file.")],
    data: DataOption = None,
    overrides: SetOption = None,
    num_trials: Annotated[int | None, typer.Option(min=1, help="Trials of every arm, in place of the file's.")] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="An earlier run whose epochs say how long one takes [default: some are timed here]."),
    ] = None,
    places: Annotated[
        int | None, typer.Option(min=1, help="Places of the cluster that it is for [default: those of this machine].")
    ] = None,
    max_hours: HoursOption = None,
    max_device_hours: DeviceHoursOption = None,
    allow_code: AllowOption = None,
) -> None:
    """Say what a search will take before it is started: trials, epochs, teachers' answers, hours, disk."""
    from kd_tune import plan as words
    from kd_tune import plan_figures, user_code
    from kd_tune.limits import Limits
    from kd_tune.search_file import load_search_file

    user_code.allow(allow_code or [])
    limits = Limits(max_hours, max_device_hours)
    made = plan_figures.make(load_search_file(file, overrides or [], num_trials), data, like, places)
    console = make_console()
    for line in words.lines(made, limits):
        console.print(line)
