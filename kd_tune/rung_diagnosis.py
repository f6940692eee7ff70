"""Whether early epochs rank trials as the end does: what a run says about its own rungs, or about pruning without any.

Judged by trials that were trained to the end whatever their first epochs said: those that are never pruned, or all of a
search without pruning. They are ranked among those that they compete with, of their arm and stratum (a group).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import pandas as pd

from kd_tune.analysis import Finding
from kd_tune.records import METRIC
from kd_tune.results import RunTables
from kd_tune.run_state import TrialState
from kd_tune.rungs import rung_epochs

ALL = "all"
MIN_FREEDOM = 3  # six trials of one group; below, an interval of a rank correlation says nothing
AS_THE_END, POOR, COIN = 0.8, 0.5, 0.3  # rank correlations
KEPT = 1 / 3  # of a rung that is not the search's own


def prunes(tables: RunTables) -> bool:
    """Whether the search stops trials early."""
    return tables.file.search.scheduler.name != "none"


def judged_epochs(tables: RunTables) -> tuple[int, ...]:
    """The search's rungs; where it has none, epochs that might be some, and the last after which it prunes."""
    num_epochs: int = tables.file.trial["training"]["num_epochs"]
    scheduler = tables.file.search.scheduler
    if scheduler.has_rungs:
        return rung_epochs(scheduler.grace_period, scheduler.reduction_factor, num_epochs)
    last = range(1, num_epochs)[-1:] if prunes(tables) else ()
    return tuple(sorted({*rung_epochs(1, 3, num_epochs), *last}))


def rungs(tables: RunTables) -> pd.DataFrame:
    """How well early epochs rank trials, and what pruning does by then to those that end best.

    The epochs are `judged_epochs`; without pruning, each as if it were a rung that keeps the best third.

    Returns:
        The columns of `rank_correlation`, and `best`: how many trials are the tenth that ends best, at least one;
        `best_stopped`: how many of these would have been stopped by then. Empty if no trial can tell.
    """
    return _rungs(_evidence(tables), tables)


def _rungs(evidence: pd.DataFrame, tables: RunTables) -> pd.DataFrame:
    """`rungs`, from its evidence."""
    epochs = judged_epochs(tables)
    table = _correlations(evidence, tables, epochs)
    if evidence.empty:
        return table.iloc[:0].assign(best=0, best_stopped=0)
    best = {arm: _best_tenth(mine) for arm, mine in _by_arm(evidence, tables)}
    own = prunes(tables)
    stopped = {epoch: evidence["stopped_at"] <= epoch if own else _is_below(evidence, epoch) for epoch in epochs}
    table["best"] = [len(best[arm]) for arm in table["arm"]]
    table["best_stopped"] = [
        int(stopped[epoch][best[arm]].sum()) for arm, epoch in zip(table["arm"], table["epoch"], strict=True)
    ]
    return table


def rank_correlation(tables: RunTables, epochs: Iterable[int]) -> pd.DataFrame:
    """Spearman's correlation of the validation accuracies of epochs with those of the end.

    Returns:
        A row an arm and epoch, those of several arms pooled (`ALL`) first: arm, epoch, n (trials), rho, and the ends
        `low` and `high` of its 95 % interval; NaN where trials are too few or all alike.
    """
    return _correlations(_evidence(tables), tables, epochs)


def _correlations(evidence: pd.DataFrame, tables: RunTables, epochs: Iterable[int]) -> pd.DataFrame:
    """`rank_correlation`, from its evidence."""
    rows = []
    for arm, mine in _by_arm(evidence, tables):
        for epoch in epochs:
            rho, low, high = _correlation(mine, epoch)
            rows.append({"arm": arm, "epoch": epoch, "n": len(mine), "rho": rho, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["arm", "epoch", "n", "rho", "low", "high"])


def advice(tables: RunTables) -> Finding | None:
    """Whether pruning can stay as it is; where there is doubt, it can. None if trials have no early epoch."""
    if not judged_epochs(tables):
        return None
    evidence = _evidence(tables)
    if _freedom(evidence) < MIN_FREEDOM:
        return _too_few(tables, len(evidence))
    table = _rungs(evidence, tables)
    pooled = table[table["arm"] == table["arm"].iloc[0]]
    if math.isnan(pooled["rho"].iloc[0]):
        return Finding(f"all {len(evidence)} trials that had to reach the end ended alike: nothing to judge by", False)
    if not prunes(tables):
        return _without_pruning(pooled)
    return _on_grace_period(pooled) if tables.file.search.scheduler.has_rungs else _on_loss(tables, pooled)


def _too_few(tables: RunTables, found: int) -> Finding:
    """How many trials must reach the end whatever their first epochs said, and what would give so many."""
    scheduler, strata = tables.file.search.scheduler, max(1, len(tables.state.strata))
    groups = strata * len(tables.state.quota)
    needed = groups + 2 + MIN_FREEDOM
    each = math.ceil(needed / groups)  # trials that are never pruned are shared out by arm and stratum
    share = scheduler.never_pruned if prunes(tables) else 1.0
    now = min(tables.state.quota.values()) // strata
    ways = [f"{strata * math.ceil(each / share)} trials of every arm"] if share else []
    if prunes(tables) and each <= now:
        ways.append(f"scheduler.never_pruned: {math.ceil(100 * each / now) / 100:g}")
    what = "rungs" if scheduler.has_rungs else "early epochs"
    return Finding(
        f"{found} trials had to reach the end, but to judge {what} takes {needed}: "
        f"{' or '.join(ways) or 'more trials'} would give them",
        act=False,
    )


def _on_loss(tables: RunTables, pooled: pd.DataFrame) -> Finding:
    """What a judge without rungs does to the best; its own settings say too little for advice on them."""
    last = pooled.iloc[-1]
    lost = last["best_stopped"] or "none"
    text = f"{tables.file.search.scheduler.name} would have stopped {lost} of the best {last['best']}"
    return Finding(f"{text} among {last['n']} trials that had to reach the end", act=False)


def _on_grace_period(pooled: pd.DataFrame) -> Finding:
    first = pooled.iloc[0]
    grace, known = first["epoch"], f"rho {first['rho']:.2f}, n = {first['n']}"
    lost, best = pooled["best_stopped"].iloc[-1], first["best"]
    loss = f"; pruning would have stopped {lost} of the best {best}" if lost else ""
    if first["rho"] < POOR and first["high"] < AS_THE_END:
        later = pooled["epoch"][(pooled["rho"] >= POOR) & (pooled["low"] > first["rho"])]
        mend = (
            f"raise grace_period to {later.iloc[0]}" if len(later) else "no later one is surely better: prune nothing"
        )
        worth = "like a coin" if first["rho"] < COIN else "poorly"
        return Finding(f"rung {grace} ranks {worth} ({known}): {mend}{loss}", act=True)
    if _trusted(first) and 2 * lost <= best:
        return Finding(
            f"rung {grace} already ranks as the end does ({known}): grace_period {grace} can stay{loss}", act=False
        )
    interval = f"95 % interval {first['low']:.2f} to {first['high']:.2f}"
    return Finding(
        f"rung {grace} may rank well or badly ({known}, {interval}): more never-pruned trials would tell{loss}",
        act=False,
    )


def _without_pruning(pooled: pd.DataFrame) -> Finding:
    for _, row in pooled.iterrows():
        if _trusted(row) and not row["best_stopped"]:
            known = f"rho {row['rho']:.2f}, n = {row['n']}"
            text = (
                f"epoch {row['epoch']} already ranks as the end does ({known}): asha with grace_period {row['epoch']}"
            )
            return Finding(f"{text} would find as much in less time", act=False)
    return Finding(
        f"no early epoch surely ranks as the end does (n = {pooled['n'].iloc[0]}): go on without pruning", act=False
    )


def _trusted(rung: pd.Series) -> bool:
    """Whether a rung ranks as the end does, and is surely better than poor."""
    return bool(rung["rho"] >= AS_THE_END and rung["low"] >= POOR)


def _evidence(tables: RunTables) -> pd.DataFrame:
    """The trials that judge: arm, group, stopped_at, end, and a column an epoch with its accuracy."""

    def judges(trial: TrialState) -> bool:
        return trial.end == "completed" and trial.usable and (trial.never_pruned or not prunes(tables))

    rows = [
        {"arm": trial.arm, "group": f"{trial.arm}/{trial.stratum}", "end": trial.value}
        | {"stopped_at": math.inf if trial.spared_at is None else trial.spared_at}
        | {epoch: row[METRIC] for epoch, row in trial.rows.items()}
        for _, trial in sorted(tables.state.trials.items())
        if judges(trial)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["arm", "group", "stopped_at", "end"])


def _by_arm(evidence: pd.DataFrame, tables: RunTables) -> Iterator[tuple[str, pd.DataFrame]]:
    arms = list(tables.state.quota)
    if len(arms) > 1:
        yield ALL, evidence
    for arm in arms:
        yield arm, evidence[evidence["arm"] == arm]


def _correlation(evidence: pd.DataFrame, epoch: int) -> tuple[float, float, float]:
    """Spearman's correlation within groups, and its interval; where an epoch's values are all alike, no order: 0."""
    freedom = _freedom(evidence)
    if freedom < MIN_FREEDOM:
        return math.nan, math.nan, math.nan
    early, late = (_centred_ranks(evidence[column], evidence["group"]) for column in (epoch, "end"))
    if not late.any():
        return math.nan, math.nan, math.nan
    rho = float((early * late).sum()) / math.sqrt(float((early**2).sum() * (late**2).sum())) if early.any() else 0.0
    return rho, *_interval(rho, len(evidence), freedom)


def _freedom(evidence: pd.DataFrame) -> int:
    return len(evidence) - evidence["group"].nunique() - 2


def _interval(rho: float, num_trials: int, freedom: int) -> tuple[float, float]:
    """The 95 % interval of a rank correlation by Fisher's transformation.

    The standard error is Bonett and Wright's (2000, Psychometrika 65), with n - 3 degrees of freedom in one group and
    one fewer for every further one. A perfect order counts as one with two neighbours exchanged: else it would be
    certain however few the trials.
    """
    most = 1 - 12 / (num_trials * (num_trials**2 - 1))
    middle = math.atanh(min(max(rho, -most), most))
    error = 1.96 * math.sqrt((1 + rho**2 / 2) / freedom)
    return math.tanh(middle - error), math.tanh(middle + error)


def _centred_ranks(values: pd.Series, groups: pd.Series) -> pd.Series:
    """Ranks within each group as shares of it, 0 for its middle, so that groups can be pooled."""
    ranks = values.groupby(groups).rank()
    return (ranks - ranks.groupby(groups).transform("mean")) / ranks.groupby(groups).transform("size")


def _best_tenth(evidence: pd.DataFrame) -> pd.Index:
    """The trials that end best, by rank within their group."""
    ranks = _centred_ranks(evidence["end"], evidence["group"])
    return ranks.sort_values(ascending=False, kind="stable").index[: max(1, len(evidence) // 10)]


def _is_below(evidence: pd.DataFrame, epoch: int) -> pd.Series:
    """Whether a rung at this epoch would stop a trial if it kept the best share `KEPT` of a group, and at least one."""
    better = evidence[epoch].groupby(evidence["group"]).rank(ascending=False, method="min") - 1
    size = evidence["group"].groupby(evidence["group"]).transform("size")
    return better >= (size * KEPT).clip(lower=1)
