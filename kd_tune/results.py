"""A run as tables, read from its ledger alone: pandas only, nothing is unpickled and no name in it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kd_tune.advice import search_again
from kd_tune.errors import ConfigError
from kd_tune.ledger import SEARCH_FILE, no_run, refuse_confirmation, replay
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import Record, read_record
from kd_tune.records import METRIC
from kd_tune.run_state import RunState, ranked
from kd_tune.search_file import SearchFile, load_search_file

SPEED = "speed.json"
LATENCY = "latency_ms_batch_1"


class Speed(Record):
    """`speed.json`: what students and teachers take in onnxruntime, where somebody measured it.

    Attributes:
        trials: figures by trial, among them `LATENCY`, or a `problem`.
        teachers: likewise, by name.
        conditions: of the measurement.
    """

    trials: dict[str, dict[str, Any]]
    teachers: dict[str, dict[str, Any]]
    conditions: dict[str, Any]


@dataclass(frozen=True)
class RunTables:
    """A run, read.

    Attributes:
        folder: where it lies.
        file: its search file.
        manifest: how it was made.
        state: the folded ledger.
        trials: a row a trial: number, arm, stratum, whether it is never pruned and where it would have been, status,
            epochs, the last epoch's metrics, and its parameters, each under its path without the branch
            (`objective.alpha`), the branch itself under the path of the choice.
        history: a row a trial and epoch, of epochs that were run again the last attempt.
        speed: what was measured of students and teachers; None: nothing was. `trials` has `latency_ms` then.
    """

    folder: Path
    file: SearchFile
    manifest: Manifest
    state: RunState
    trials: pd.DataFrame
    history: pd.DataFrame
    speed: Speed | None = None

    @cached_property
    def ranking(self) -> list[int]:
        """Numbers of the trials that have a figure, best first (`run_state.ranked`)."""
        return [trial.number for trial in ranked(self.state.trials.values())]

    @property
    def parameters(self) -> list[str]:
        """The columns of `trials` that hold searched parameters."""
        names = {plain_name(name) for trial in self.state.trials.values() for name in trial.draw}
        return [column for column in self.trials.columns if column in names]


def read(folder: Path) -> RunTables:
    """Reads a run, finished or not.

    Raises:
        ConfigError: no run here, none that has begun, a damaged one, or a confirmation, whose trials are no search's.
    """
    if not (folder / SEARCH_FILE).exists():
        raise ConfigError(no_run(folder))
    refuse_confirmation(folder, "what it found stands in the report of its search:")
    state = replay(folder)
    if not state.quota:
        raise ConfigError(f"{folder}: nothing has begun here; go on with: {search_again(folder)}")
    file = load_search_file(folder / SEARCH_FILE)
    manifest, trials = read_record(folder / MANIFEST, Manifest), _trials(state)
    speed = read_record(folder / SPEED, Speed) if (folder / SPEED).exists() else None
    if speed is not None:
        measured = {int(number): figures.get(LATENCY) for number, figures in speed.trials.items()}
        trials["latency_ms"] = trials["number"].map(measured).astype(float)
    return RunTables(folder, file, manifest, state, trials, _history(state), speed)


def plain_name(parameter: str) -> str:
    """A parameter's path without its branch: `objective[hinton].alpha` is `objective.alpha`."""
    head, bracket, rest = parameter.partition("[")
    return head + plain_name(rest.partition("]")[2]) if bracket else parameter


def _trials(state: RunState) -> pd.DataFrame:
    rows = []
    for trial in state.trials.values():
        last = trial.rows.get(trial.epoch, {})
        metrics = {key: value for key, value in last.items() if key not in ("event", "time", "trial", "attempt")}
        rows.append(
            {
                "number": trial.number,
                "arm": trial.arm,
                "stratum": trial.stratum,
                "never_pruned": trial.never_pruned,
                "spared_at": trial.spared_at,
                "status": trial.end or "unfinished",
                "attempt": trial.attempt,
                "error": trial.error,
                **{plain_name(name): value for name, value in trial.draw.items()},
                **metrics,
                "epoch": trial.epoch,
                "train_seconds": trial.seconds,
            }
        )
    columns = ["number", "arm", "stratum", "never_pruned", "spared_at", "status", "attempt", "error", "epoch", METRIC]
    columns += ["num_parameters", "train_seconds"]
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    for column in columns:
        if column not in frame:
            frame[column] = None
    return frame.sort_values("number").reset_index(drop=True)


def _history(state: RunState) -> pd.DataFrame:
    rows = [row for _, trial in sorted(state.trials.items()) for _, row in sorted(trial.rows.items())]
    layouts = list(dict.fromkeys(map(tuple, rows)))
    if len(layouts) == 1:  # nearly always; a row after the other takes three times as long
        columns = dict(zip(layouts[0], zip(*map(dict.values, rows), strict=True), strict=True))
    else:
        names = dict.fromkeys(name for layout in layouts for name in layout) or ["trial", "epoch", "attempt", METRIC]
        columns = {name: tuple(row.get(name) for row in rows) for name in names}
    # A dict a row takes thrice as much memory.
    frame = pd.DataFrame({name: _column(columns[name]) for name in columns if name not in ("event", "time")})
    frame["arm"] = [state.trials[number].arm for number in frame["trial"]]
    return frame


def _column(values: tuple[Any, ...]) -> np.ndarray | list[Any]:
    """Plain numbers as an array, which pandas takes in half the seconds; anything else for pandas to look at."""
    array = np.array(values)
    return array if array.dtype.kind in "bif" else list(values)
