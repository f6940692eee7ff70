"""A run as Optuna studies, one an arm, for optuna-dashboard and `optuna.visualization`.

Unlike what samplers are told (`studies`), this is the plain truth: every trial with its end and its whole curve.
"""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.pool import StaticPool

from kd_tune.arms import space_of_arm
from kd_tune.errors import ConfigError
from kd_tune.paths import written_whole
from kd_tune.records import METRIC, derive_seed
from kd_tune.results import RunTables
from kd_tune.run_state import TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)

STATES = {
    None: OptunaState.RUNNING,
    "completed": OptunaState.COMPLETE,
    "pruned": OptunaState.PRUNED,
    "diverged": OptunaState.PRUNED,  # with a NaN at its end: Optuna knows no such state, and it is no failure
    "failed": OptunaState.FAIL,
}


def export_studies(tables: RunTables, target: Path) -> list[str]:
    """Writes a run's arms as studies `RUN/ARM` to a new SQLite file.

    Returns:
        The names of the studies.

    Raises:
        ConfigError: there is such a file, which may hold other studies, or it cannot be written.
    """
    if target.exists():
        raise ConfigError(f"{target}: there is something already; name a new file, or delete it")
    names = [f"{tables.folder.resolve().name}/{arm}" for arm in tables.state.quota]
    # In memory, on one connection that is kept: Optuna would wait for a disk after every trial.
    memory = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=memory)
    with closing(storage.engine.raw_connection()) as connection, written_whole(target) as temporary:
        for name, arm in zip(names, tables.state.quota, strict=True):
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
            distributions = space_of_arm(tables.file.trial, arm).all_distributions()
            study.add_trials([_to_optuna(tables, trial, distributions) for trial in tables.state.of_arm(arm)])
        database = connection.driver_connection
        assert isinstance(database, sqlite3.Connection)
        temporary.write_bytes(database.serialize())
    storage.remove_session()
    storage.engine.dispose()
    return names


def _to_optuna(
    tables: RunTables, trial: TrialState, distributions: dict[str, optuna.distributions.BaseDistribution]
) -> FrozenTrial:
    state = STATES[trial.end]
    began, ended = _times(trial)
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=trial.value if state == OptunaState.COMPLETE else None,
        params=trial.draw,
        distributions={name: distributions[name] for name in trial.draw},
        intermediate_values=_curve(trial),
        datetime_start=began,
        datetime_complete=ended if state.is_finished() else None,
        user_attrs=_attributes(tables, trial),
        system_attrs={},
    )


def _curve(trial: TrialState) -> dict[int, float]:
    values = {epoch: math.nan if row[METRIC] is None else row[METRIC] for epoch, row in sorted(trial.rows.items())}
    if trial.end == "diverged":
        values[trial.epoch] = math.nan
    return values


def _attributes(tables: RunTables, trial: TrialState) -> dict[str, Any]:
    last = trial.rows.get(trial.epoch, {})
    facts = {
        "number": trial.number,
        "end": trial.end,
        "epochs": trial.epoch,
        "num_parameters": last.get("num_parameters"),
        "train_seconds": trial.seconds,
        "seed": derive_seed(tables.file.search.seed, "trial", trial.number),
        "stratum": trial.stratum,
        "never_pruned": trial.never_pruned,
        "spared_at": trial.spared_at,
        "error": trial.error,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _times(trial: TrialState) -> tuple[datetime, datetime]:
    """When its first epoch began and its last one ended, by the ledger's clock; 1970 for a trial without epochs.

    A clock that was set back meanwhile makes no trial end before it began.
    """
    rows = [trial.rows[epoch] for epoch in sorted(trial.rows)]
    if not rows:
        return datetime.fromtimestamp(0), datetime.fromtimestamp(0)
    began = rows[0]["time"] - (rows[0].get("seconds") or 0.0)
    return datetime.fromtimestamp(began), datetime.fromtimestamp(max(began, rows[-1]["time"]))
