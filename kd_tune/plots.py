"""Pictures of a run: functions from tables to matplotlib figures. The colours are Okabe and Ito's."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from kd_tune import analysis, rung_diagnosis
from kd_tune.records import METRIC
from kd_tune.results import RunTables

mpl.rcParams["text.parse_math"] = False  # a $ in a name is a $

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
TICKS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)
LEGEND = "filled: trained to the end; hollow: stopped earlier"
COSTS = {
    "num_parameters": "parameters of the student",
    "multiply_adds": "multiply-adds of the student for an image",
    "latency_ms": "milliseconds of the student for an image, measured on one core",
}
MOST_VECTORS = 400  # lines or points of an arm; in a page more are one bitmap
CEILING = 0.9995  # an accuracy of 1 has no place on the scale of halvings


def curves(tables: RunTables) -> Figure:
    """Validation accuracy by epoch: a thin line a trial, a thick one for the best of each arm (and stratum)."""
    arms = list(tables.state.quota)
    figure, axes_row = new_figure(len(arms), width=4.2 * len(arms))
    best = analysis.best(tables)
    for axes, arm, colour in zip(axes_row, arms, COLOURS, strict=False):
        rows = tables.history[tables.history["arm"] == arm]
        begins = np.flatnonzero(np.diff(rows["trial"])) + 1
        lines = np.split(rows[["epoch", METRIC]].to_numpy(float), begins)
        many = len(lines) > MOST_VECTORS
        axes.add_collection(LineCollection(lines, color="0.7", linewidth=0.8, rasterized=many))
        axes.autoscale_view()
        for trial in best[best["arm"] == arm].to_dict("records"):
            rows = tables.history[tables.history["trial"] == trial["number"]]
            label = f"{arm}: trial {trial['number']}, {trial[METRIC]:.2%}"
            axes.plot(rows["epoch"], rows[METRIC], color=colour, linewidth=2.2, label=label)
        axes.set_title(arm)
        axes.set_xlabel("epoch")
    axes_row[0].set_ylabel("validation accuracy")
    _finish(figure, axes_row, tables)
    return figure


def accuracy_by_cost(tables: RunTables) -> Figure:
    """Validation accuracy against the student's parameters and multiply-adds; the step line is each arm's front."""
    trials = analysis.usable(tables)
    costs = {name: label for name, label in COSTS.items() if name in trials}
    figure, axes_row = new_figure(len(costs), width=5.2 * len(costs), height=4.4)
    for axes, (cost, label) in zip(axes_row, costs.items(), strict=True):
        fronts = analysis.pareto(tables, cost)
        for arm, colour, marker in zip(tables.state.quota, COLOURS, MARKERS, strict=False):
            mine, front = trials[trials["arm"] == arm], fronts[fronts["arm"] == arm]
            if front.empty:
                continue
            many = len(mine) > MOST_VECTORS
            look: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.3, "linewidths": 0}
            axes.scatter(mine[cost], mine[METRIC], s=12, rasterized=many, **look)
            end = [trials[cost].max()], [front[METRIC].iloc[-1]]  # a front goes on to the right of its last trial
            steps = [np.append(front[cost], end[0]), np.append(front[METRIC], end[1])]
            axes.plot(*steps, color=colour, linewidth=1.2, alpha=0.7, drawstyle="steps-post")
            _scatter(axes, front[cost], front, colour, marker, arm if axes is axes_row[0] else "")
        _log_sizes(axes, sorted(trials[cost].dropna().unique()))
        axes.set_xlabel(label)
    axes_row[0].set_title(LEGEND, fontsize=9, color="0.4")
    axes_row[-1].set_title("line: the best at this cost or less" if len(costs) > 1 else LEGEND, fontsize=9, color="0.4")
    axes_row[0].set_ylabel("validation accuracy, last epoch")
    _finish(figure, axes_row, tables)
    return figure


def _log_sizes(axes: Axes, sizes: list[float]) -> None:
    """A logarithmic scale of sizes: each is written out where they are few and far between."""
    axes.set_xscale("log")
    far = [size for size, last in zip(sizes, [0.0, *sizes], strict=False) if size > 1.3 * last]
    if len(sizes) <= 8 and len(far) == len(sizes):
        axes.set_xticks(sizes, [_short_size(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda size, _: _short_size(size))
        axes.xaxis.set_minor_locator(NullLocator())


def _short_size(size: float) -> str:
    """A count in three digits: 62.0k."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return f"{size:.3g}"


def rank_correlation(tables: RunTables) -> Figure | None:
    """How well every epoch ranks trials as the end does, with the rungs marked; None where trials are too few."""
    num_epochs = tables.file.trial["training"]["num_epochs"]
    table = rung_diagnosis.rank_correlation(tables, range(1, num_epochs)).dropna()
    if table.empty:
        return None
    figure, (axes,) = new_figure(1, width=6.4)
    pooled = table["arm"].iloc[0]
    colours = dict(zip(tables.state.quota, COLOURS, strict=False))
    for arm, rows in table.groupby("arm", sort=False):
        label = f"{'all arms' if arm == rung_diagnosis.ALL else str(arm)} (n = {rows['n'].iloc[0]})"
        thick = arm == pooled
        axes.plot(rows["epoch"], rows["rho"], color=colours.get(str(arm), "0.2"), linewidth=1 + thick, label=label)
        if thick:
            axes.fill_between(rows["epoch"], rows["low"], rows["high"], color="0.2", alpha=0.12, linewidth=0)
    has_rungs = tables.file.search.scheduler.has_rungs
    for rung in rung_diagnosis.judged_epochs(tables) if has_rungs else ():
        axes.axvline(rung, color="0.5", linestyle=":", linewidth=1)
    axes.set_xlim(1, num_epochs)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(min(-0.02, float(table["rho"].min()), float(table["low"][table["arm"] == pooled].min())), 1.02)
    axes.set_xlabel("epoch (dotted: rungs)" if has_rungs else "epoch")
    axes.set_ylabel("rank correlation with the end")
    axes.set_title("1: ranks as the end does; 0: like a coin; shaded: 95 % interval", fontsize=9, color="0.4")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def capacity_gap(tables: RunTables, by_teacher: pd.DataFrame) -> Figure:
    """The best student of every teacher, from `analysis.by_teacher`: by the teacher's accuracy, and by its size.

    A line that falls to the right says that better teachers make worse students of that size. Teachers stand at equal
    distances, in order: on a scale of accuracy the real ones would lie on top of each other, far from the controls.
    """
    real = by_teacher[~by_teacher["control"]]
    sized = real.dropna(subset="teacher_parameters").sort_values("teacher_parameters", kind="stable")
    figure, (left, right) = new_figure(2, width=9.6, height=4.6)
    accuracies = {name: f"{accuracy:.1%}" for name, accuracy in _first_of(by_teacher, "teacher_accuracy")}
    sizes = {name: f"{int(size):,}" for name, size in _first_of(sized, "teacher_parameters")}
    for size, colour, marker in zip(_shown_sizes(by_teacher), COLOURS, MARKERS, strict=False):
        for axes, table, names in ((left, by_teacher, list(accuracies)), (right, sized, list(sizes))):
            mine = table[table["num_parameters"] == size]
            line, controls = mine[~mine["control"]], mine[mine["control"]]
            label = f"student of {int(size):,} parameters" if axes is left else None
            places = line["teacher"].map(names.index)
            axes.plot(places, line[METRIC], color=colour, marker=marker, linewidth=1.2, label=label)
            axes.scatter(
                controls["teacher"].map(names.index),
                controls[METRIC],
                marker=marker,
                facecolors="none",
                edgecolors=colour,
            )
    for axes, labels, title in (
        (left, accuracies, "teacher, with its validation accuracy"),
        (right, sizes, "teacher, with its parameters"),
    ):
        axes.set_xticks(range(len(labels)), [f"{name}\n{value}" for name, value in labels.items()], fontsize=8)
        axes.set_xlim(-0.5, max(len(labels) - 0.5, 0.5))
        axes.set_xlabel(title)
    if by_teacher["control"].any():
        left.set_title("hollow: controls, whose teacher knows nothing", fontsize=9, color="0.4")
    left.set_ylabel("validation accuracy of its best student")
    _finish(figure, [left, right], tables, by_teacher[METRIC])
    return figure


def _first_of(table: pd.DataFrame, column: str) -> list[tuple[str, float]]:
    """Every teacher and its figure, in the table's order."""
    once = table.drop_duplicates("teacher")
    return list(zip(once["teacher"], once[column], strict=True))


def _shown_sizes(by_teacher: pd.DataFrame) -> list[int]:
    """Sizes of student, at most as many as there are colours, spread over all of them."""
    sizes = sorted(by_teacher["num_parameters"].unique())
    return sizes[:: max(1, -(-len(sizes) // len(COLOURS)))]


def confirmed(table: pd.DataFrame) -> Figure:
    """Test accuracies with 95 % intervals, from `confirmation.arms_table`: a row a model, in groups by student."""
    students = list(dict.fromkeys(table["student"]))
    models = list(dict.fromkeys(table["model"]))
    figure, (axes,) = new_figure(1, width=6.4, height=1.6 + 0.35 * len(table))
    heights = [-(row + students.index(student)) for row, student in enumerate(table["student"])]
    for index, model in enumerate(models):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        mine = (table["model"] == model).to_numpy()
        rows, places = table[mine], np.array(heights)[mine]
        errors = np.array([rows["test_accuracy"] - rows["low"], rows["high"] - rows["test_accuracy"]])
        axes.errorbar(rows["test_accuracy"], places, xerr=errors, fmt=marker, color=colour, capsize=3)
        axes.scatter(rows["search_maximum"], places, marker=marker, facecolors="none", edgecolors=colour, alpha=0.6)
    axes.set_yticks(heights, list(table["model"]))
    axes.set_ylim(min(heights) - 0.7, 1.0)
    for student in students:
        top = max(height for height, of in zip(heights, table["student"], strict=True) if of == student)
        axes.annotate(student, (0.01, top + 0.5), xycoords=("axes fraction", "data"), fontsize=8, color="0.4")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("test accuracy, 95 % interval over seeds and images")
    axes.set_title("hollow: the search's own validation maximum", fontsize=9, color="0.4")
    return figure


def importance(shares: pd.DataFrame, epoch: int) -> Figure:
    """Share of the variance that each parameter explains in the distilled arm, from `analysis.importance`."""
    table = shares.iloc[::-1]
    figure, (axes,) = new_figure(1, width=6.4, height=1.2 + 0.4 * len(table))
    bars = axes.barh(table["parameter"], table["importance"], color=COLOURS[0])
    axes.bar_label(bars, labels=[f" {share:.0%}" for share in table["importance"]])
    axes.set_xlim(0, 1.1 * float(table["importance"].max()))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"share of the variance at epoch {epoch}, distilled trials")
    return figure


def by_parameter(tables: RunTables, parameter: str) -> Figure:
    """Last validation accuracy against one parameter; trials that were stopped early are hollow."""
    figure, (axes,) = new_figure(1, width=6.4)
    trials = analysis.usable(tables)
    trials = trials[trials[parameter].notna()]
    options = analysis.options(tables, parameter)
    for place, (arm, colour, marker) in enumerate(zip(tables.state.quota, COLOURS, MARKERS, strict=False)):
        mine = trials[trials["arm"] == arm]
        if mine.empty:
            continue
        if options:  # side by side, not on top of each other
            places = mine[parameter].map(options.index) + 0.2 * (place - (len(tables.state.quota) - 1) / 2)
        else:
            places = mine[parameter]
        _scatter(axes, places, mine, colour, marker, arm)
    if options:
        axes.set_xticks(range(len(options)), [str(option) for option in options])
    elif analysis.is_logarithmic(tables, parameter):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(parameter)
    axes.set_ylabel("validation accuracy, last epoch")
    axes.set_title(LEGEND, fontsize=9, color="0.4")
    _finish(figure, [axes], tables)
    return figure


def new_figure(columns: int, width: float, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """An empty picture in the house style, and its panels, side by side with a common y axis."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes_row = list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])
    for axes in axes_row:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.92")
        axes.set_axisbelow(True)
    return figure, axes_row


def _scatter(axes: Axes, places: pd.Series, trials: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    """Trials at their accuracies: filled if they were trained to the end, hollow if they were stopped earlier."""
    ended, many = trials["status"] == "completed", len(trials) > MOST_VECTORS
    look: dict[str, Any] = {"marker": marker, "s": 10 if many else None, "rasterized": many}
    axes.scatter(places[ended], trials[METRIC][ended], color=colour, label=label, **look)
    hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": colour, "alpha": 0.6}
    axes.scatter(places[~ended], trials[METRIC][~ended], **hollow, **look)


def _finish(figure: Figure, axes_row: list[Axes], tables: RunTables, shown: pd.Series | None = None) -> None:
    """Puts the legend over the axes and accuracies on a scale on which halving the error is always the same step.

    Near the top, where the best trials are, a plain scale shows nothing.
    """
    figure.legend(loc="outside upper center", ncols=len(tables.state.quota), frameon=False)
    values = analysis.usable(tables)[METRIC] if shown is None else shown
    low, high = float(values.quantile(0.1)), float(values.max())
    top = 1 - (1 - min(high, CEILING)) * 0.7
    for axes in axes_row:
        axes.set_yscale("function", functions=(halvings, _from_halvings))
        axes.set_ylim(max(0.0, low - 0.02), top)
        ticks = [tick for tick in TICKS if low <= tick <= top]
        ticks = ticks if len(ticks) > 1 else sorted({low, high})
        axes.set_yticks(ticks, [f"{100 * tick:.4g}%" for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())


def halvings(accuracy: np.ndarray) -> np.ndarray:
    """How often the error was halved, starting from all wrong."""
    return np.asarray(-np.log2(np.clip(1 - np.asarray(accuracy), 1 - CEILING, None)))


def _from_halvings(halvings: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.exp2(-np.asarray(halvings)))
