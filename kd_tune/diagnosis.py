"""What a run says about its own search: are its ranges too narrow, what diverged, and (`rung_diagnosis`) do rungs rank.

Tables first, then `findings`: what they say in words, for a person to act on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from scipy import special

from kd_tune import rung_diagnosis
from kd_tune.analysis import Finding, usable
from kd_tune.ranges import Choice, IntRange, Range
from kd_tune.results import RunTables
from kd_tune.space import Space, describe

MIN_RANKED = 10  # trials of an arm; of fewer, the best three are not its best
NEAR_END = 0.05  # of a range
CHANCE = 0.05  # that so many of the best lie at one end of a range that does not matter

# What an argument may be at all: a range that ends there cannot be widened. `tests/test_diagnosis.py` compares this
# with the annotations in OBJECTIVES and OPTIMIZERS, which cannot be imported here without torch.
LIMITS: dict[str, tuple[float, float]] = {
    "alpha": (0.0, 1.0),
    "beta1": (0.0, 1.0),
    "beta2": (0.0, 1.0),
    "lr": (0.0, math.inf),
    "momentum": (0.0, 1.0),
    "smoothing": (0.0, 1.0),
    "temperature": (0.0, math.inf),
    "weight_decay": (0.0, math.inf),
}

MIN_DIVERGED, MIN_SHARE = 3, 0.1  # below, it is an accident


def findings(tables: RunTables) -> list[Finding]:
    """All that a run says about its search; what should be acted on comes first."""
    on_rungs, ends, often = rung_diagnosis.advice(tables), range_ends(tables), _often_diverged(divergence(tables))
    found = [*([] if on_rungs is None else [on_rungs]), *_on_ranges(tables, ends, often), *_on_divergence(ends, often)]
    return sorted(found, key=lambda finding: not finding.act)


def range_ends(tables: RunTables) -> pd.DataFrame:
    """Parameters whose best values lie at one end of their range, more often than chance would have it.

    The best are the top tenth of an arm's trials that have ended, at least three. The student's own arguments are left
    out: they say how large it is, and larger is better; what one can afford is not for a search to say.

    Returns:
        A row an arm, parameter and end: arm, parameter, end (`low` or `high`), bound (the range's end), value (the best
        trial's), at_end and best (so many of so many), and whether the bound is the `limit` of what is allowed.
    """
    rows = []
    space = {name: leaf for name, leaf in Space(tables.file.trial).parameters().items() if _is_ordered(name, leaf)}
    for arm in tables.state.quota:
        trials = usable(tables)
        trials = trials[(trials["arm"] == arm) & (trials["status"] != "unfinished")]
        best = list(trials["number"].head(max(3, len(trials) // 10))) if len(trials) >= MIN_RANKED else []
        for name, leaf in space.items():
            values = [
                tables.state.trials[number].draw[name] for number in best if name in tables.state.trials[number].draw
            ]
            rows += [{"arm": arm, "parameter": name, **row} for row in _at_ends(name, leaf, values, len(best))]
    return pd.DataFrame(rows, columns=["arm", "parameter", "end", "bound", "value", "at_end", "best", "limit"])


def divergence(tables: RunTables) -> pd.DataFrame:
    """Arms in which trials diverged, with the learning rates at which they did.

    Returns:
        A row an arm and learning rate that it draws, and one for trials that draw none, whose parameter is empty: arm,
        trials (ended), diverged, share, parameter, diverged_at (the median rate of these), and others_below, what three
        quarters of the others lie below; NaN where there are none.
    """
    names = [name for name in Space(tables.file.trial).parameters() if name.endswith(".lr")]
    rows = []
    for arm in tables.state.quota:
        trials = [trial for trial in tables.state.of_arm(arm) if trial.end is not None]
        groups = [(name, [trial for trial in trials if name in trial.draw]) for name in names]
        groups.append(("", [trial for trial in trials if not trial.draw.keys() & set(names)]))
        for name, drawn in groups:
            rates = pd.Series([trial.draw.get(name) for trial in drawn], dtype=float)
            diverged = pd.Series([trial.end == "diverged" for trial in drawn], dtype=bool)
            if not diverged.any():
                continue
            row = {"arm": arm, "trials": len(drawn), "diverged": int(diverged.sum()), "share": diverged.mean()}
            where = {"diverged_at": rates[diverged].median(), "others_below": rates[~diverged].quantile(0.75)}
            rows.append(row | {"parameter": name} | where)
    return pd.DataFrame(
        rows, columns=["arm", "trials", "diverged", "share", "parameter", "diverged_at", "others_below"]
    )


def _is_ordered(name: str, leaf: Range) -> bool:
    """Whether a parameter has ends that a search could move: a range, or a choice of rising or falling numbers."""
    if name.startswith("student"):
        return False
    if not isinstance(leaf, Choice):
        return True
    if any(isinstance(option, bool) or not isinstance(option, int | float) for option in leaf.options):
        return False
    return len(leaf.options) > 1


def _at_ends(name: str, leaf: Range, values: list[float], best: int) -> Iterator[dict[str, object]]:
    """The ends at which so many of the best values lie that it is no chance."""
    low, high = min(leaf.extremes), max(leaf.extremes)
    allowed = LIMITS.get(name.rpartition(".")[2], (-math.inf, math.inf))
    places = [_place(leaf, value) for value in values]
    for end, bound, distance in (("low", low, places), ("high", high, [1 - place for place in places])):
        near = [value for value, far in zip(values, distance, strict=True) if far <= NEAR_END]
        # The chance of so many or more, at least one (binomial).
        if near and special.bdtrc(len(near) - 1, best, _share_near_end(leaf)) < CHANCE:
            row = {"end": end, "bound": bound, "value": near[0], "at_end": len(near), "best": best}
            yield row | {"limit": bound in allowed}


def _place(leaf: Range, value: float) -> float:
    """Where a value lies in its range, 0 to 1."""
    if isinstance(leaf, Choice):
        return sorted(leaf.options).index(value) / (len(leaf.options) - 1)
    low, high = leaf.bounds
    if leaf.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _share_near_end(leaf: Range) -> float:
    """The chance that a value drawn evenly lies at one end."""
    if isinstance(leaf, Choice):
        return 1 / len(leaf.options)
    step = leaf.step or (1 if isinstance(leaf, IntRange) else 0)
    return max(NEAR_END, step / (leaf.bounds[1] - leaf.bounds[0] + step))


def _on_ranges(tables: RunTables, ends: pd.DataFrame, often: pd.DataFrame) -> Iterator[Finding]:
    space = Space(tables.file.trial).parameters()
    for (parameter, end), rows in ends.groupby(["parameter", "end"], sort=False):
        leaf = space[str(parameter)]
        row = rows.iloc[0]
        arms = ", ".join(
            f"{arm} {at_end} of {best}"
            for arm, at_end, best in zip(rows["arm"], rows["at_end"], rows["best"], strict=True)
        )
        text = (
            f"{parameter}: the best trials lie at the {end} end of {describe(leaf)} (best {row['value']:.4g}; {arms})"
        )
        if row["limit"]:
            yield Finding(f"{text}, which is also the limit of what is allowed", act=False)
        elif end == "high" and parameter in set(often["parameter"]):
            yield Finding(f"{text}, but others diverge there: leave it", act=False)
        else:
            yield Finding(f"{text}: widen it", act=True)


def _often_diverged(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `divergence` where it was no accident, and at high rates."""
    table = table[(table["diverged"] >= MIN_DIVERGED) & (table["share"] >= MIN_SHARE) & (table["parameter"] != "")]
    return table[~(table["diverged_at"] <= table["others_below"])]  # NaN: all of them diverged


def _on_divergence(ends: pd.DataFrame, often: pd.DataFrame) -> Iterator[Finding]:
    wanted = set(ends["parameter"][ends["end"] == "high"])  # there the best trials lie, too
    for parameter, rows in often[~often["parameter"].isin(wanted)].groupby("parameter", sort=False):
        shares = zip(rows["arm"], rows["diverged"], rows["trials"], strict=True)
        arms = ", ".join(f"{arm} {diverged} of {trials}" for arm, diverged, trials in shares)
        text = f"{parameter}: trials diverged ({arms}), at rates around {rows['diverged_at'].median():.2g}"
        yield Finding(f"{text}, higher than most others: lower the upper end of the range", act=True)
