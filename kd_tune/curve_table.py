"""Recorded learning curves: many random configurations of one space, each trained to the end.

`record` makes such a table, `replay` runs searches over it. It lies in two files: `NAME.parquet` with a row a
configuration and epoch, and `NAME.json` with the space and the conditions that it was recorded under. A configuration
is one cell of JSON (`draw`): options of a choice may be of several types, which a column of Parquet cannot be.

Shapes: R configurations, E epochs.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kd_tune.advice import command
from kd_tune.errors import ConfigError
from kd_tune.paths import Record, read_record, write_json, written_whole
from kd_tune.records import DISTIL
from kd_tune.results import RunTables
from kd_tune.search_file import Source, parse_search_file
from kd_tune.space import Draw, Space, to_raw

MEASURED = ["val_accuracy_even", "val_accuracy_odd", "val_loss", "seconds", "num_parameters"]


class TableManifest(Record):
    """`NAME.json`: how a table was made.

    Attributes:
        trial: the trial section that was recorded: the space.
        trials: recorded configurations.
        failed: configurations that are missing because their training broke.
        parquet_sha256: of the table beside it.
        run: the recorded run's own manifest: data, teacher, versions, hardware.
    """

    trial: dict[str, Any]
    trials: int
    failed: int
    parquet_sha256: str
    run: dict[str, Any]


@dataclass(frozen=True)
class CurveTable:
    """A table of learning curves.

    Attributes:
        trial: the `trial` section that was recorded, ranges parsed.
        draws: the R configurations.
        curves: a row a configuration (`config`, 0 to R - 1) and epoch: both halves' validation accuracy, validation
            loss (nats), seconds of the epoch, parameters of the student. A diverged configuration has rows up to that
            epoch, whose accuracies are NaN.
    """

    trial: dict[str, Any]
    draws: list[Draw]
    curves: pd.DataFrame

    @property
    def space(self) -> Space:
        """What the configurations were drawn from."""
        return Space(self.trial)

    @property
    def num_epochs(self) -> int:
        """E: epochs of a whole trial."""
        return int(self.trial["training"]["num_epochs"])

    def accuracy(self, half: str) -> np.ndarray:
        """`[R, E]` validation accuracy on one half, `even` or `odd`; NaN from the epoch of a divergence on."""
        values = np.full((len(self.draws), self.num_epochs), np.nan)
        values[self.curves["config"], self.curves["epoch"] - 1] = self.curves[f"val_accuracy_{half}"]
        return values

    @cached_property
    def num_parameters(self) -> np.ndarray:
        """`[R]` parameters of each configuration's student."""
        return self.curves.groupby("config")["num_parameters"].first().to_numpy()

    @cached_property
    def epoch_seconds(self) -> np.ndarray:
        """`[R]` seconds of an epoch: the median over all students of that size, as the machine may have been shared."""
        return self.curves.groupby("num_parameters")["seconds"].median().loc[self.num_parameters].to_numpy()


def check_recording(tables: RunTables) -> None:
    """Raises ConfigError if a run chose among configurations, pruned them, or has other arms than the distilled one."""
    search = tables.file.search
    given = search.goal, search.points, search.sampler.name, search.scheduler.name, list(search.trials_by_arm())
    if given != ("best", [], "random", "none", [DISTIL]):
        raise ConfigError(
            f"{tables.folder}: a table needs goal best, no points, sampler random, scheduler none and the arm distil "
            "alone; `kd-tune record FILE.yaml` makes such a run"
        )


def from_run(tables: RunTables) -> CurveTable:
    """The curves of a run that trained random configurations of one arm to the end.

    Raises:
        ConfigError: the run pruned, chose its configurations, or is not finished.
    """
    check_recording(tables)
    if tables.state.num_left():
        again = command("kd-tune", "record", "--resume", tables.folder)
        raise ConfigError(f"{tables.folder}: not finished; go on with `{again} --out NAME.parquet`")
    trials = [trial for trial in tables.state.trials.values() if trial.end in ("completed", "diverged")]
    rows = [
        {"config": index, "epoch": epoch}
        | {name: _figure(row, name, trial.end == "diverged" and epoch == trial.epoch) for name in MEASURED}
        for index, trial in enumerate(trials)
        for epoch, row in sorted(trial.rows.items())
    ]
    return CurveTable(tables.file.trial, [trial.draw for trial in trials], pd.DataFrame(rows))


def write(table: CurveTable, tables: RunTables, path: Path) -> None:
    """Writes `path`, which is `NAME.parquet`, and `NAME.json` beside it."""
    cells = [json.dumps(draw) for draw in table.draws]
    curves = table.curves.assign(draw=[cells[config] for config in table.curves["config"]])
    with written_whole(path) as temporary:
        curves.to_parquet(temporary, index=False, compression="zstd")
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        manifest = TableManifest(
            trial=to_raw(table.trial),
            trials=len(table.draws),
            failed=len(tables.state.trials) - len(table.draws),
            parquet_sha256=digest,
            run=tables.manifest.model_dump(exclude={"source", "search_file"}),
        )
        write_json(path.with_suffix(".json"), manifest.model_dump())


def read(path: Path) -> CurveTable:
    """Reads a table.

    Raises:
        ConfigError: no table here, or one that does not belong to the manifest beside it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; `kd-tune record` makes tables") from None
    manifest = read_record(path.with_suffix(".json"), TableManifest)
    if hashlib.sha256(content).hexdigest() != manifest.parquet_sha256:
        raise ConfigError(f"{path}: not the table that {path.with_suffix('.json').name} describes")
    trial = parse_search_file({"trial": manifest.trial}, Source(str(path), {})).trial
    curves = pd.read_parquet(io.BytesIO(content))
    draws = [json.loads(cell) for cell in curves.groupby("config")["draw"].first()]
    return CurveTable(trial, draws, curves.drop(columns="draw"))


def _figure(row: dict[str, Any], name: str, diverged: bool) -> float:
    """A figure of an epoch; none where training diverged, though the network still gave answers."""
    value = row.get(name)
    return float("nan") if value is None or (diverged and name.startswith("val_")) else value
