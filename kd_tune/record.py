"""Recording a table of learning curves: an ordinary run whose configurations are random and are never pruned."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kd_tune import curve_table, results, search
from kd_tune.config import ArmConfig, SamplerConfig, SchedulerConfig
from kd_tune.errors import ConfigError
from kd_tune.run_state import RunState
from kd_tune.search_file import SearchFile


def record(file: SearchFile, folder: Path, launch: search.Launch, console: Console) -> RunState:
    """Trains `search.num_trials` random configurations of a search file's trial to the end; the run lies in `folder`.

    A recording that was interrupted goes on like any run (`search.resume`).

    Raises:
        ConfigError: see `search.start`.
    """
    return search.start(recording_of(file), folder, launch, console)


def recording_of(file: SearchFile) -> SearchFile:
    """A search file with all replaced by which a search chooses among configurations, or stops some."""
    settings = {
        "goal": "best",
        "points": [],
        "sampler": SamplerConfig(name="random"),
        "scheduler": SchedulerConfig(name="none"),
        "arms": [ArmConfig(name="distil")],
    }
    return replace(file, search=file.search.model_copy(update=settings))


def resume(folder: Path, launch: search.Launch, console: Console) -> RunState:
    """Goes on with a recording.

    Raises:
        ConfigError: it is none, which is said before anything is trained; or see `search.resume`.
    """
    curve_table.check_recording(results.read(folder))
    return search.resume(folder, launch, console)


def check_target(path: Path) -> None:
    """Raises ConfigError if a table cannot be written to `path`: tried before hours of training, leaving nothing."""
    if path.suffix != ".parquet":
        raise ConfigError(f"--out {path}: a table's name ends in .parquet")
    if path.exists():
        raise ConfigError(f"--out {path}: there is a table of this name; take another, or delete it first")
    try:
        with tempfile.TemporaryFile(dir=next(parent for parent in path.absolute().parents if parent.exists())):
            pass
    except OSError as error:
        raise ConfigError(f"--out {path}: nothing can be written there: {error.strerror}") from None


def write_table(run: Path, path: Path) -> str:
    """Writes a finished recording as `path` and the manifest beside it; returns a line about it."""
    tables = results.read(run)
    table = curve_table.from_run(tables)
    curve_table.write(table, tables, path)
    diverged = sum(trial.end == "diverged" for trial in tables.state.trials.values())
    kilobytes = path.stat().st_size / 1000
    return f"{path}: {len(table.draws)} configurations, {diverged} of them diverged, {kilobytes:.0f} kB"
