"""The commands of `kd-tune`. Heavy imports happen inside them. How they end: `errors.ExitCode`."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from kd_tune import advice
from kd_tune.cli_analyze import analyze, analyze_again, export_best
from kd_tune.cli_doctor import doctor
from kd_tune.cli_init import init, schema
from kd_tune.cli_plan import plan
from kd_tune.cli_replay import record, replay
from kd_tune.cli_status import status, tensorboard
from kd_tune.cli_teacher import teacher_app
from kd_tune.errors import ConfigError, ExitCode, refused_by_system
from kd_tune.signals import Stop, end_at_once, handled
from kd_tune.terminal import (
    AddressOption,
    AllowOption,
    DataOption,
    DeviceHoursOption,
    HoursOption,
    MlflowOption,
    NameOption,
    RunsOption,
    SetOption,
    StorageOption,
    WandbOption,
    check_resumed_alone,
    complain,
    make_console,
    run_folder,
    stoppable,
)

if TYPE_CHECKING:
    from kd_tune.data import Dataset
    from kd_tune.run_state import RunState

TAKEOVER_SECONDS = 180.0  # a network file system lets go of a lost machine's locks after 90
DEFAULT_SEARCH = Path("search_spaces/mnist5k.yaml")

HELP = """Hyperparameter search for knowledge distillation.

Exit codes: 0 done, 2 usage or configuration, 3 no usable trial, 4 done but for trials that errors ended, 5 the
machine or cluster is not fit, 75 stopped (Ctrl-C, SIGTERM, a limit) and can be resumed, 130 ended at once by a second
Ctrl-C."""

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fetch data sets.")
app.add_typer(teacher_app, name="teacher")
app.add_typer(data_app, name="data")
app.command()(init)
app.command()(schema)
app.command()(analyze)
app.command()(plan)
app.command()(record)
app.command()(replay)
app.command()(doctor)
app.command()(status)
app.command()(tensorboard)


class Students(StrEnum):
    """Where a confirmation compares arms."""

    BEST = "best"
    ALL = "all"


@app.command()
def search(
    file: Annotated[Path | None, typer.Argument(help=f"The search file [default: {DEFAULT_SEARCH}].")] = None,
    data: DataOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    num_trials: Annotated[int | None, typer.Option(min=1, help="Trials of every arm, in place of the file's.")] = None,
    max_hours: HoursOption = None,
    max_device_hours: DeviceHoursOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    mlflow: MlflowOption = None,
    wandb: WandbOption = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run: a folder, or the URL of one in a storage, which is fetched to --runs first.",
            show_default=False,
        ),
    ] = None,
    or_resume: Annotated[
        bool,
        typer.Option(
            "--or-resume",
            help="Go on with the run of this --name where there is one, here or in --storage, as it was begun. "
            "So a scheduler can give the same command again and again.",
        ),
    ] = False,
    extend: Annotated[int, typer.Option(min=0, help="With --resume: so many more trials in every arm.")] = 0,
    warm_start: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run of an equal trial to learn from; may be repeated.", show_default=False),
    ] = None,
    allow_code: AllowOption = None,
) -> None:
    """Start, resume or extend a search; ends with a report and the best student of every arm exported."""
    from kd_tune import search as searching
    from kd_tune import user_code
    from kd_tune.limits import Limits
    from kd_tune.search_file import load_search_file
    from kd_tune.trackers import Trackers

    user_code.allow(allow_code or [])
    console = make_console()
    limits, trackers = Limits(max_hours, max_device_hours), Trackers(mlflow, wandb)
    launch = searching.Launch(
        data, address, limits, extend, tuple(warm_start or ()), storage=storage, trackers=trackers
    )
    if resume is not None:
        with_it = (
            "--extend, --data, --runs, --address, --max-hours, --max-device-hours, --mlflow, --wandb and --allow-code"
        )
        check_resumed_alone(with_it, file, name, overrides, num_trials, warm_start, storage, or_resume)
        with stoppable("nothing was begun; the same command begins again"):
            folder = _folder_of(resume, runs, console)
        again = advice.search_again(folder, data, address)
        with stoppable(f"go on with: {again}"):
            state = searching.resume(folder, launch, console)
    else:
        if extend:
            raise ConfigError("--extend adds trials to a run: name it with --resume RUN")
        path = file or DEFAULT_SEARCH
        if file is None and not path.exists():
            raise ConfigError("name a search file: kd-tune search FILE.yaml")
        folder = run_folder(runs, name, path)
        again = advice.search_again(folder, data, address)
        with stoppable(f"if {folder} is there by now, go on with: {again}; if not, with the same command"):
            if or_resume and _is_there(folder, name, storage, console):
                state = searching.resume(folder, replace(launch, patience=TAKEOVER_SECONDS), console)
            else:
                state = searching.start(load_search_file(path, overrides or [], num_trials), folder, launch, console)
    with stoppable(f"the search itself has ended; its report is written by: {analyze_again(folder)}"):
        code = _conclude(folder, state, data, again, console)
        _copy(folder, again, console)
    raise typer.Exit(code)


@app.command()
def confirm(
    run: Annotated[Path, typer.Argument(help="The folder of a search that has ended.")],
    top: Annotated[
        int,
        typer.Option(help="Best configurations of every arm of which one is chosen, each trained on half of --seeds."),
    ] = 3,
    seeds: Annotated[
        int, typer.Option(help="Trainings of the chosen one, on seeds that had no part in the choice; at least 2.")
    ] = 5,
    students: Annotated[
        Students | None,
        typer.Option(
            help="Compare arms at the best trial's student, or at all that they have in common "
            "[default: all after a search with goal: front, else best].",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Compare the values of this parameter, such as objective.alpha, in place of arms.", show_default=False
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only trials with this value, such as optimizer.lr=0.1; repeatable.", show_default=False),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Confirm once more, on other seeds: opens the test set once more.")
    ] = False,
    data: DataOption = None,
    max_hours: HoursOption = None,
    max_device_hours: DeviceHoursOption = None,
    address: AddressOption = None,
    allow_code: AllowOption = None,
) -> None:
    """Train a search's best again, choose one an arm, and measure trainings of it on fresh seeds on the test images."""
    from kd_tune import confirm as confirming
    from kd_tune import report, user_code
    from kd_tune.limits import Limits
    from kd_tune.search import Launch

    user_code.allow(allow_code or [])
    console = make_console()
    launch = Launch(data, address, Limits(max_hours, max_device_hours))
    all_students = None if students is None else students is Students.ALL
    request = confirming.Request(top, seeds, all_students, by, parse_values(where or []), again)
    go_on = "the same command goes on, without --again"
    with stoppable(go_on):
        result = confirming.confirm(run, request, launch, console)
    if result is None:
        console.print(f"stopped before the test set was opened; {go_on}")
        raise typer.Exit(ExitCode.RESUMABLE)
    with stoppable(f"the confirmation itself has ended; its report is written by: {analyze_again(run)}"):
        console.print(f"report: {report.write(run, console)}")
        _copy(run, advice.search_again(run, data, address), console)


@data_app.command()
def download(
    name: Annotated[str, typer.Argument(help="Which data set: cifar10, cifar100, mnist or fashion_mnist.")],
    to: Annotated[Path | None, typer.Option(help="Where to [default: where searches look].")] = None,
) -> None:
    """Fetch a published data set and check its integrity."""
    from kd_tune import data

    make_console().print(f"{name} is in {data.download(name, to)}")


def parse_values(texts: list[str]) -> dict[str, Any]:
    """`name=value` of every `--where`, each value read as YAML."""
    from kd_tune.strict_yaml import StrictYamlError, parse_scalar

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"--where {text}: must look like optimizer.lr=0.1")
        try:
            values[name] = parse_scalar(value)
        except StrictYamlError as error:
            raise ConfigError(f"--where {text}: {error}") from None
    return values


def main(arguments: list[str] | None = None, command: str | None = None, name: str | None = None) -> Any:
    """Runs a command line; turns errors that a person can mend, Ctrl-C and SIGTERM into a message and an exit code.

    Args:
        arguments: of the command line; None: this process's.
        command: run this command alone, under `name`; None: `kd-tune` with all of them.
        name: of the program, in its help.
    """
    os.umask(0o077)
    program: Any = typer.main.get_command(app)
    try:
        with handled(again=end_at_once) as stop:
            return _call(program if command is None else program.commands[command], arguments, name, stop)
    except ConfigError as error:
        _end_with(error)
    except OSError as error:
        if (problem := refused_by_system(error)) is None:
            raise
        _end_with(problem)


def _call(program: Any, arguments: list[str] | None, name: str | None, stop: Stop) -> Any:
    """Runs a command; one that knows no better way to end when it is stopped ends here."""
    try:
        return program(args=arguments, prog_name=name)
    except SystemExit as end:
        # What click makes of a KeyboardInterrupt.
        if not (stop.asked and end.code == ExitCode.ENDED_AT_ONCE):
            raise
    complain("stopped; the same command starts again")
    sys.exit(ExitCode.RESUMABLE)


def _end_with(error: ConfigError) -> NoReturn:
    for problem in error.problems:
        complain(f"error: {problem}")
    sys.exit(error.code)


def search_main() -> Any:
    """The door of `run_search.py`."""
    return main(sys.argv[1:], "search", "run_search.py")


def analyze_main() -> Any:
    """The door of `analyze.py`."""
    gc.disable()  # it looks for cycles among a million rows again and again: a tenth of a large run's time
    return main(sys.argv[1:], "analyze", "analyze.py")


def _conclude(folder: Path, state: RunState, data: Path | None, again: str, console: Console) -> ExitCode:
    """Says how a search ended; writes a report if anything was tried, and an export if anything came of it.

    Args:
        folder: of its run.
        state: that it ended in.
        data: where they lie, as the command was told.
        again: the command that goes on with it.
        console: is told.
    """
    from kd_tune import report

    unfinished = state.num_left()
    usable = any(trial.usable for trial in state.trials.values())
    if state.trials:
        console.print(f"report: {report.write(folder, console)}")
    if usable and not unfinished:
        dataset = export_best(folder, folder / "export", None, data, console, replace=True)
        if dataset is not None:
            _picture(folder, dataset, console)
    if unfinished:
        console.print(f"stopped; {unfinished} trials are left; go on with:\n  {again}")
        return ExitCode.RESUMABLE
    if not usable:
        complain(f"error: no trial of {folder} gave a figure; its report says why")
        return ExitCode.NOTHING_USABLE
    if failed := state.failed():
        complain(f"error: {len(failed)} of {len(state.trials)} trials failed, the last with: {failed[-1].error}")
        return ExitCode.PARTIAL
    return ExitCode.DONE


def _picture(folder: Path, dataset: Dataset, console: Console) -> None:
    """Adds to TensorBoard how the exported students answer the validation images."""
    from kd_tune import validation_pictures

    try:
        validation_pictures.write(folder, folder / "export", dataset)
    except ConfigError as error:
        console.print(f"tensorboard: no pictures of the exported students: {error}", markup=False)


def _folder_of(run: str, runs: Path, console: Console) -> Path:
    """A run's folder, fetched if it is named by its storage."""
    from kd_tune.mirror import fetch
    from kd_tune.storage import is_url

    return fetch(run, runs, console) if is_url(run) else Path(run)


def _is_there(folder: Path, name: str | None, storage: str | None, console: Console) -> bool:
    """Whether a run of this name has been begun; fetched if it is in the storage alone."""
    from kd_tune.mirror import copy_of, fetch

    if name is None:
        raise ConfigError("--or-resume goes on with the run of a name: give --name NAME")
    if folder.exists() or storage is None:
        return folder.exists()
    copied = copy_of(name, storage)
    if copied is not None:
        fetch(copied, folder.parent, console)
    return copied is not None


def _copy(folder: Path, again: str, console: Console) -> None:
    """Brings the copy in a run's storage, if it has one, up to what was written since the run was let go.

    Args:
        folder: of the run.
        again: a command that copies what could not be copied now.
        console: is told if this takes time.
    """
    from kd_tune.mirror import mirrored

    with mirrored(folder, console, f"the rest is copied by: {again}"):
        return


if __name__ == "__main__":
    main()
