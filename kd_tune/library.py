"""kd_tune from Python: what the commands do, as functions. `kd_tune` itself offers these names."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from kd_tune import host, results, user_code
from kd_tune import search as searching
from kd_tune.catalog import check_trial, load_dataset
from kd_tune.data import resolve_source
from kd_tune.engine import advance
from kd_tune.errors import ConfigError
from kd_tune.export import Student, load_student
from kd_tune.limits import Limits
from kd_tune.prepare import prepare
from kd_tune.progress import progress
from kd_tune.records import DISTIL, Assignment
from kd_tune.results import RunTables
from kd_tune.search import Launch
from kd_tune.search_file import SearchFile, Source, load_search_file, parse_search_file
from kd_tune.space import Space
from kd_tune.terminal import make_console
from kd_tune.trial_data import best_device

__all__ = [
    "ConfigError",
    "RunTables",
    "Student",
    "load_student",
    "read_run",
    "resume_search",
    "run_search",
    "train_trial",
]


def run_search(
    file: Path | str | Mapping[str, Any],
    run: Path | str,
    *,
    data: Path | str | None = None,
    overrides: Iterable[str] = (),
    max_hours: float | None = None,
    address: str | None = None,
    storage: str | None = None,
    warm_start: Sequence[Path | str] = (),
    allow_code: Iterable[str] = (),
    console: Console | None = None,
) -> RunTables:
    """Runs a new search to its end, or until Ctrl-C or `max_hours` stop it; `resume_search` goes on with it.

    Args:
        file: a search file, or its content.
        run: the folder to keep it in, which must not exist yet.
        data: where the data lie; None: the usual place.
        overrides: `a.b.c=value` strings for leaves of a file.
        max_hours: for this launch.
        address: of a running Ray cluster; None: Ray on this machine alone.
        storage: a URL or shared folder where the run is kept too.
        warm_start: earlier runs that it learns from.
        allow_code: packages of yours that it may import.
        console: shows progress; None: standard output.

    Raises:
        ConfigError: anything that is wrong with file, data, teacher, folder or cluster.
    """
    user_code.allow(list(allow_code))
    launch = Launch(
        None if data is None else Path(data),
        address,
        Limits(max_hours),
        warm_start=tuple(map(Path, warm_start)),
        storage=storage,
    )
    if isinstance(file, Mapping):
        if list(overrides):
            raise ConfigError("overrides are for a file; change the mapping itself")
        parsed = _parse(file, "search")
    else:
        parsed = load_search_file(Path(file), overrides)
    searching.start(parsed, Path(run), launch, console or make_console())
    return results.read(Path(run))


def resume_search(
    run: Path | str,
    *,
    extend: int = 0,
    data: Path | str | None = None,
    max_hours: float | None = None,
    address: str | None = None,
    allow_code: Iterable[str] = (),
    console: Console | None = None,
) -> RunTables:
    """Goes on with a run; with `extend`, with so many more trials in every arm. Other arguments as of `run_search`.

    Raises:
        ConfigError: no run here, a damaged one, or its data or teachers are no longer what they were.
    """
    user_code.allow(list(allow_code))
    launch = Launch(None if data is None else Path(data), address, Limits(max_hours), extend)
    searching.resume(Path(run), launch, console or make_console())
    return results.read(Path(run))


def read_run(run: Path | str) -> RunTables:
    """A run as tables: `.trials`, a row a trial, and `.history`, a row a trial and epoch, are pandas data frames.

    Raises:
        ConfigError: no run here, or a damaged one.
    """
    return results.read(Path(run))


def train_trial(
    trial: Mapping[str, Any],
    *,
    data: Path | str | None = None,
    seed: int = 0,
    allow_code: Iterable[str] = (),
    console: Console | None = None,
) -> tuple[pd.DataFrame, Student]:
    """Trains one student in this process, on the fastest device that it has.

    Args:
        trial: the section `trial` of a search file, with a value in place of every range.
        data: where the data lie; None: the usual place.
        seed: of first weights, of order and views.
        allow_code: packages of yours that it may import.
        console: shows progress; None: standard output.

    Returns:
        A row an epoch, and the student with its normalisation inside: images `[B, C, H, W]`, float32 from 0 to 1, to
        logits `[B, classes]`.

    Raises:
        ConfigError: anything that is wrong with the trial, its data or its teacher.
    """
    user_code.allow(list(allow_code))
    console = console or make_console()
    file = _parse({"trial": trial}, "trial")
    if problems := check_trial(file.trial, file.source):
        raise ConfigError(problems)
    if ranges := Space(file.trial).parameters():
        raise ConfigError(f"{', '.join(ranges)}: one trial has one value, not a range; search the range, or choose")
    source = resolve_source(file.trial["dataset"]["name"], None if data is None else Path(data))
    dataset = load_dataset(file.trial["dataset"], source)
    prepared = prepare(file.trial, dataset, source, console)
    with tempfile.TemporaryDirectory(prefix="kd_tune_") as folder:
        assignment = Assignment(
            number=0,
            arm=DISTIL,
            trial=file.trial,
            seed=seed,
            order_seed=seed,
            checkpoints=folder,
            source=None if source is None else str(source),
            teacher=next((teacher.place for teacher in prepared.values()), None),
            device=best_device().type,
            checkpoint_seconds=math.inf,
        )
        training = host.Training(assignment)
        rows = []
        with progress(console, "training") as show:
            while not training.ended:
                rows.append(advance(training.student, training.data))
                training.keep(rows[-1])
                show(len(rows), training.student.training.num_epochs, f"validation {rows[-1].val_accuracy:.2%}")
    mean, std = dataset.normalisation["mean"], dataset.normalisation["std"]
    student = Student(training.student.network.cpu(), mean, std).eval()
    return pd.DataFrame([row.to_metrics() for row in rows]), student


def _parse(content: Mapping[str, Any], name: str) -> SearchFile:
    """A search file that was never a file."""
    return parse_search_file(copy.deepcopy(dict(content)), Source(name, {}))
