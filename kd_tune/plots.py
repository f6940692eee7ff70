"""Pictures of a run: functions from tables to matplotlib figures. The colours are Okabe and Ito's."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kd_tune import analysis
from kd_tune.records import METRIC
from kd_tune.results import RunTables

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def figures(tables: RunTables, shares: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Every picture of a run that has at least one figure to show, with its file name's stem."""
    if analysis.usable(tables).empty:
        return
    yield "curves", curves(tables)
    yield "accuracy_by_parameters", accuracy_by_parameters(tables)
    if not shares.empty:
        yield "importance", importance(shares, analysis.comparison_epoch(tables))
    for parameter in tables.parameters:
        yield f"by_{parameter.replace('.', '_')}", by_parameter(tables, parameter)


def curves(tables: RunTables) -> Figure:
    """Validation accuracy by epoch: a thin line a trial, a thick one for the best of each arm."""
    arms = list(tables.state.quota)
    figure, axes_row = _figure(len(arms), width=4.2 * len(arms))
    best = analysis.best(tables).set_index("arm")
    for axes, arm, colour in zip(axes_row, arms, COLOURS, strict=False):
        for _, rows in tables.history[tables.history["arm"] == arm].groupby("trial"):
            axes.plot(rows["epoch"], rows[METRIC], color="0.7", linewidth=0.8)
        if arm in best.index:
            rows = tables.history[tables.history["trial"] == best.loc[arm, "number"]]
            number, value = int(best["number"][arm]), float(best[METRIC][arm])
            label = f"best: trial {number}, {value:.2%}"
            axes.plot(rows["epoch"], rows[METRIC], color=colour, linewidth=2.2, label=label)
            axes.legend(loc="lower right", frameon=False)
        axes.set_title(arm)
        axes.set_xlabel("epoch")
    axes_row[0].set_ylabel("validation accuracy")
    _zoom(axes_row, tables)
    return figure


def accuracy_by_parameters(tables: RunTables) -> Figure:
    """Validation accuracy against the student's size; each arm's front is joined by a line."""
    figure, (axes,) = _figure(1, width=6.4)
    trials, fronts = analysis.usable(tables), analysis.pareto(tables)
    for arm, colour, marker in zip(tables.state.quota, COLOURS, MARKERS, strict=False):
        mine, front = trials[trials["arm"] == arm], fronts[fronts["arm"] == arm]
        axes.scatter(mine["num_parameters"], mine[METRIC], s=14, color=colour, marker=marker, alpha=0.35, linewidths=0)
        axes.plot(front["num_parameters"], front[METRIC], color=colour, marker=marker, label=arm)
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the student")
    axes.set_ylabel("validation accuracy")
    axes.legend(loc="lower right", frameon=False)
    _zoom([axes], tables)
    return figure


def importance(shares: pd.DataFrame, epoch: int) -> Figure:
    """Share of the variance that each parameter explains in the distilled arm, from `analysis.importance`."""
    table = shares.iloc[::-1]
    figure, (axes,) = _figure(1, width=6.4, height=1.2 + 0.4 * len(table))
    bars = axes.barh(table["parameter"], table["importance"], color=COLOURS[0])
    axes.bar_label(bars, labels=[f" {share:.0%}" for share in table["importance"]])
    axes.set_xlim(0, 1.1 * float(table["importance"].max()))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"share of the variance at epoch {epoch}, distilled trials")
    return figure


def by_parameter(tables: RunTables, parameter: str) -> Figure:
    """Last validation accuracy against one parameter; pruned trials are hollow."""
    figure, (axes,) = _figure(1, width=6.4)
    trials = analysis.usable(tables)
    trials = trials[trials[parameter].notna()]
    numeric = analysis.is_number(tables, parameter)
    categories = sorted(trials[parameter].unique(), key=str)
    for arm, colour, marker in zip(tables.state.quota, COLOURS, MARKERS, strict=False):
        mine = trials[trials["arm"] == arm]
        if mine.empty:
            continue
        places = mine[parameter] if numeric else mine[parameter].map(categories.index)
        ended = mine["status"] == "completed"
        axes.scatter(places[ended], mine[METRIC][ended], color=colour, marker=marker, label=arm)
        axes.scatter(
            places[~ended], mine[METRIC][~ended], facecolors="none", edgecolors=colour, marker=marker, alpha=0.6
        )
    if not numeric:
        axes.set_xticks(range(len(categories)), [str(category) for category in categories])
    elif analysis.is_logarithmic(tables, parameter):
        axes.set_xscale("log")
    axes.set_xlabel(parameter)
    axes.set_ylabel("validation accuracy at the last epoch")
    axes.set_title("filled: trained to the end; hollow: stopped earlier", fontsize=9, color="0.4")
    axes.legend(loc="lower left", frameon=False)
    _zoom([axes], tables)
    return figure


def _figure(columns: int, width: float, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes_row = list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])
    for axes in axes_row:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.92")
        axes.set_axisbelow(True)
    return figure, axes_row


def _zoom(axes_row: list[Axes], tables: RunTables) -> None:
    """Gives the picture to the better trials: from the first decile of last accuracies to just above the best."""
    values = analysis.usable(tables)[METRIC]
    low, high = float(values.quantile(0.1)), float(values.max())
    margin = max(0.05 * (high - low), 0.002)
    for axes in axes_row:
        axes.set_ylim(low - margin, min(1.0, high + margin) if high < 1 else 1.0 + margin)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
