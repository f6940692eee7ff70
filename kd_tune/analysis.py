"""What a run says: functions from its tables to smaller tables, for people and for `plots`."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pandas as pd

from kd_tune import records
from kd_tune.failures import CRASH
from kd_tune.ranges import Choice
from kd_tune.records import DISTIL, METRIC, STOP_REASONS
from kd_tune.results import RunTables, plain_name
from kd_tune.space import Space

MOST_TRIALS = 200  # that fANOVA is given, in a second; its time grows with their square
NUM_TREES = 32  # as many again say the same within a hundredth, and take as long again


class Finding(NamedTuple):
    """One thing that a run says about its search.

    Attributes:
        text: a sentence.
        act: whether a person should change the search file.
    """

    text: str
    act: bool


def usable(tables: RunTables) -> pd.DataFrame:
    """Trials that have a figure: neither failed nor diverged, best last validation accuracy first."""
    return tables.trials.set_index("number", drop=False).rename_axis(None).loc[tables.ranking]


def best(tables: RunTables, top: int = 1, ended: bool = False) -> pd.DataFrame:
    """The best `top` trials of every arm, in the order of the search file; with `ended`, of those that have ended.

    Where the search had strata, of every arm and stratum, smallest students first.
    """
    trials = usable(tables)
    if ended:
        trials = trials[trials["status"] != "unfinished"]
    parts = [
        trials[(trials["arm"] == arm) & (trials["stratum"] == stratum)].head(top)
        for arm in tables.state.quota
        for stratum in range(max(1, len(tables.state.strata)))
    ]
    columns = ["arm", *(["stratum"] if tables.state.strata else [])]
    columns += ["number", METRIC, "status", "epoch", "num_parameters", *tables.parameters]
    return pd.concat(parts)[columns].reset_index(drop=True)


def best_by_student(tables: RunTables) -> pd.DataFrame:
    """The best trial of every arm at every size of student: a row each, smallest student first.

    `epoch` belongs to the figure: a trial that was stopped early had no chance to get further.
    """
    first = usable(tables).groupby(["num_parameters", "arm"], as_index=False).first()
    order = {arm: place for place, arm in enumerate(tables.state.quota)}
    first = first.sort_values(["num_parameters", "arm"], key=lambda column: column.map(order).fillna(column))
    return first[["num_parameters", "arm", METRIC, "epoch", "number"]].reset_index(drop=True)


def by_teacher(tables: RunTables) -> pd.DataFrame:
    """What students of each teacher reach, at every size of student: the capacity gap, where there is one.

    A better teacher does not make a better student if the student is too small to follow it (Mirzadeh et al. 2020,
    arXiv:1902.03393). Distilled trials only; `epoch` belongs to the figure, as in `best_by_student`.

    Returns:
        A row a teacher and size of student, weakest teacher first: teacher, whether it is a control, teacher_accuracy
        (validation), teacher_parameters, teacher_multiply_adds, num_parameters, trials, the best trial's METRIC, epoch
        and number; empty unless the run chose among teachers.
    """
    columns = ["teacher", "control", "teacher_accuracy", "teacher_parameters", "teacher_multiply_adds"]
    columns += ["num_parameters", "trials", METRIC, "epoch", "number"]
    facts = teachers(tables)
    trials = usable(tables)
    if len(facts) < 2 or "teacher" not in trials:
        return pd.DataFrame(columns=columns)
    groups = trials[trials["arm"] == DISTIL].groupby(["teacher", "num_parameters"], as_index=False)
    table = groups.first().merge(groups.size().rename(columns={"size": "trials"}))
    table = table.merge(facts, on="teacher").sort_values(["teacher_accuracy", "teacher", "num_parameters"])
    return table[columns].reset_index(drop=True)


def teachers(tables: RunTables) -> pd.DataFrame:
    """The teachers of a run, and whether they are controls, which know nothing: a row each, the most accurate first."""
    rows = [
        {
            "teacher": name,
            "control": fact.is_control,
            "teacher_accuracy": fact.val_accuracy,
            "teacher_parameters": fact.num_parameters,
            "teacher_multiply_adds": fact.multiply_adds,
            "knows_validation_images": {True: "yes", False: "no", None: "unknown"}[fact.knows_validation_images],
        }
        for name, fact in tables.manifest.teachers.items()
    ]
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.sort_values("teacher_accuracy", ascending=False, ignore_index=True)


def outcomes(tables: RunTables) -> pd.DataFrame:
    """How trials ended, by arm; with the epochs that they trained, and the share of training every trial to the end."""
    num_epochs = tables.file.trial["training"]["num_epochs"]
    rows = []
    for arm in tables.state.quota:
        trials = tables.trials[tables.trials["arm"] == arm]
        counts = {status: int((trials["status"] == status).sum()) for status in (*STOP_REASONS, "unfinished")}
        epochs = int(trials["epoch"].sum())
        share = epochs / (num_epochs * len(trials)) if len(trials) else 0.0
        rows.append({"arm": arm, "trials": len(trials), **counts, "epochs": epochs, "of_full": share})
    return pd.DataFrame(rows)


def failures(tables: RunTables) -> pd.DataFrame:
    """Every time that a trial broke, by trial: after which epoch, for which time, what it was, what followed, and why.

    Divergence is none. Ledgers from before it was told apart call all of them a crash.
    """
    columns = ["number", "arm", "epoch", "time", "what", "then", "error"]
    rows = [
        (
            trial.number,
            trial.arm,
            event.get("epoch"),
            count,
            event.get("what", CRASH),
            "started again" if event["event"] == records.RETRIED else "failed",
            event.get("error"),
        )
        for trial in sorted(tables.state.trials.values(), key=lambda trial: trial.number)
        for count, event in enumerate(trial.failures, start=1)
    ]
    return pd.DataFrame(rows, columns=columns)


def pareto(tables: RunTables, cost: str = "num_parameters") -> pd.DataFrame:
    """Trials that no other of their arm beats in accuracy at the same cost or a lower one, cheapest first.

    Args:
        tables: the run.
        cost: the column to count as cost, `num_parameters`, `multiply_adds` or `latency_ms`; where it was not recorded
            or measured, the front is empty.
    """
    columns = list(dict.fromkeys(["arm", "number", "num_parameters", "multiply_adds", cost, METRIC, "status", "epoch"]))
    fronts = []
    for arm in tables.state.quota:
        trials = usable(tables).reindex(columns=columns)
        trials = trials[(trials["arm"] == arm) & trials[cost].notna()]
        trials = trials.sort_values([cost, METRIC], ascending=[True, False])
        highest = trials[METRIC].cummax().shift(fill_value=-1.0)
        fronts.append(trials[trials[METRIC] > highest])
    return pd.concat(fronts).reset_index(drop=True)


def comparison_epoch(tables: RunTables) -> int:
    """The latest epoch that every trial had a chance to reach: the first rung, or the last epoch without pruning."""
    num_epochs: int = tables.file.trial["training"]["num_epochs"]
    scheduler = tables.file.search.scheduler
    return num_epochs if scheduler.name == "none" else min(scheduler.grace_period, num_epochs)


def importance(tables: RunTables) -> pd.DataFrame:
    """Share of the variance of validation accuracy that each parameter explains in the distilled arm (Optuna's fANOVA).

    All trials are compared at one epoch, `comparison_epoch`: later ones were reached only by trials that did well
    there, and of more than `MOST_TRIALS` every second, third and so on. Parameters inside a branch that not every trial
    took are left out, as Optuna does.

    Returns:
        `parameter` and `importance`, most important first; empty with fewer than four trials that differ.
    """
    import optuna  # only this table needs it
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    empty = pd.DataFrame({"parameter": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    epoch = comparison_epoch(tables)
    rows = tables.history[(tables.history["epoch"] == epoch) & (tables.history["arm"] == DISTIL)]
    rows = rows.iloc[:: -(-len(rows) // MOST_TRIALS) or 1]
    values = dict(zip(rows["trial"], rows[METRIC], strict=True))
    values = {number: value for number, value in values.items() if pd.notna(value)}
    draws = {tuple(tables.state.trials[number].draw.items()) for number in values}
    if len(values) < 4 or len(set(values.values())) < 2 or len(draws) < 2:
        return empty
    space = Space(tables.file.trial)
    study = optuna.create_study(direction="maximize")
    for number, value in values.items():
        draw = tables.state.trials[number].draw
        study.add_trial(create_trial(value=value, params=draw, distributions=space.distributions(draw)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about its own internals
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(n_trees=NUM_TREES, seed=0)
        )
    return pd.DataFrame({"parameter": list(shares), "importance": list(shares.values())})


def is_logarithmic(tables: RunTables, parameter: str) -> bool:
    """Whether a parameter was searched on a logarithmic scale."""
    return any(
        not isinstance(leaf, Choice) and leaf.log
        for name, leaf in Space(tables.file.trial).parameters().items()
        if plain_name(name) == parameter
    )


def options(tables: RunTables, parameter: str) -> list[object]:
    """The values of a parameter that is a choice, over all branches; empty for a range."""
    found: list[object] = []
    for name, leaf in Space(tables.file.trial).parameters().items():
        if plain_name(name) == parameter:
            if not isinstance(leaf, Choice):
                return []  # a range in another branch
            found += leaf.values
    return list(dict.fromkeys(found))
