"""Parallel coordinates: every distilled trial as a line through its parameters to its accuracy."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from kd_tune import analysis
from kd_tune.plots import halvings
from kd_tune.records import DISTIL, METRIC
from kd_tune.results import RunTables

# The middle of viridis, which stands out from a white page and from a dark one.
COLOURS = LinearSegmentedColormap.from_list("accuracy", mpl.colormaps["viridis"](np.linspace(0.2, 0.9, 256)))
NOT_DRAWN = -0.12  # where a trial is that took another branch
FEWEST = 2  # trials, and parameters
MOST_LINES = 500  # of more only the best are drawn: the rest would hide them


def parallel_coordinates(tables: RunTables) -> Figure | None:
    """The distilled arm's trials, the best on top; None where trials or parameters are too few."""
    trials = analysis.usable(tables)
    trials = trials[trials["arm"] == DISTIL]
    count = f"{len(trials):,} distilled trials"
    if len(trials) > MOST_LINES:
        count = f"the best {MOST_LINES} of {count}"
    trials = trials.head(MOST_LINES).iloc[::-1]
    names = [name for name in tables.parameters if trials[name].nunique() >= FEWEST]
    if len(trials) < FEWEST or len(names) < FEWEST:
        return None
    figure = Figure(figsize=(max(6.4, 1.5 * (len(names) + 2)), 4.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    floor = float(trials[METRIC].quantile(0.1))
    levels = halvings(trials[METRIC].clip(lower=floor).to_numpy(float))
    norm = Normalize(float(levels.min()), float(levels.max()))
    columns = [_axis(axes, place, tables, trials[name], name) for place, name in enumerate(names)]
    columns.append(_accuracy_axis(axes, len(names), trials[METRIC], floor, norm))
    lines = np.stack([np.column_stack([np.arange(len(columns)), row]) for row in np.stack(columns, axis=1)])
    axes.add_collection(
        LineCollection(
            list(lines),
            colors=COLOURS(norm(levels)),
            linewidths=np.where(np.arange(len(lines)) == len(lines) - 1, 2.6, 0.9),
            alpha=0.75,
        )
    )
    axes.set_xlim(-0.35, len(names) + 0.45)
    axes.set_ylim(min(0.0, *(float(column.min()) for column in columns)) - 0.05, 1.05)
    axes.set_xticks(range(len(columns)), [*(name.replace(".", "\n", 1) for name in names), "validation\naccuracy"])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_title(f"{count}; thick: the best one", fontsize=9, color="0.4")
    return figure


def _axis(axes: Axes, place: int, tables: RunTables, values: pd.Series, name: str) -> np.ndarray:
    """Draws a parameter's axis; the height of every trial on it."""
    options = analysis.options(tables, name)
    if options:
        most = max(1, len(options) - 1)
        heights = values.map(lambda value: options.index(value) / most if value in options else NOT_DRAWN)
        marks = [(number / most, str(option)) for number, option in enumerate(options)]
    else:
        numbers = values.astype(float)
        low, high = float(numbers.min()), float(numbers.max())
        log = analysis.is_logarithmic(tables, name) and low > 0
        heights = _share(numbers, low, high, log)
        middle = math.sqrt(low * high) if log else (low + high) / 2
        marks = [(height, f"{value:.3g}") for height, value in ((0.0, low), (0.5, middle), (1.0, high))]
    missing = values.isna()
    if missing.any():
        marks.append((NOT_DRAWN, "not drawn"))
    _draw(axes, place, marks)
    return np.where(missing, NOT_DRAWN, heights.astype(float))


def _share(values: pd.Series, low: float, high: float, log: bool) -> pd.Series:
    """Where values lie between two ends, 0 to 1."""
    if log:
        return pd.Series(np.log(values / low) / math.log(high / low))
    return (values - low) / (high - low)


def _accuracy_axis(axes: Axes, place: int, values: pd.Series, floor: float, norm: Normalize) -> np.ndarray:
    """Like `_axis`, on a scale on which halving the error is always the same step; the worst tenth lies at its foot."""
    heights = norm(halvings(values.clip(lower=floor).to_numpy(float)))
    middle = float(values.median())
    marks = [(0.0, f"≤ {floor:.1%}"), (1.0, f"{values.max():.1%}")]
    height = float(norm(halvings(np.array([max(middle, floor)])))[0])
    if 0.1 < height < 0.9:
        marks.append((height, f"{middle:.1%}"))
    _draw(axes, place, marks)
    return np.asarray(heights)


def _draw(axes: Axes, place: int, marks: list[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color="0.2", linewidth=1, zorder=3)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for height, label in marks:
        axes.plot([place - 0.03, place], [height, height], color="0.2", linewidth=1, zorder=3)
        axes.annotate(
            label, (place, height), (3, 0), textcoords="offset points", va="center", fontsize=8, zorder=4, bbox=behind
        )
