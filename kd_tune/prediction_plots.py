"""Pictures of what models answer on test images: functions from the tables of `predictions` and its neighbours.

A model has one colour and one marker in every picture; the teacher is grey. `confusion_plots` draws the matrices.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kd_tune.plots import COLOURS, MARKERS, new_figure

TEACHER = "0.35"
MOST_CLASSES = 20  # more have no room side by side
LONGEST_LEVEL = 9  # letters of a class's name that is not tilted
INTERVAL = "95 % interval over seeds and images"
SIGNIFICANT = 0.05
FEWEST_ANSWERS = 0.01  # of a bin; the interval of fewer covers the others' curves


def accuracy_by_model(accuracy: pd.DataFrame) -> Figure:
    """Test accuracy of every model from `predictions.accuracy`, the teacher's as a line."""
    students, teacher = accuracy[~accuracy["teacher"]], accuracy[accuracy["teacher"]]
    figure, (axes,) = new_figure(1, width=6.4, height=1.5 + 0.4 * len(students))
    _dots(axes, students, "accuracy", labels="{:.2%}")
    for row in teacher.to_dict("records"):
        axes.axvline(row["accuracy"], color=TEACHER, linestyle="--", linewidth=1.2)
        axes.axvspan(row["low"], row["high"], color=TEACHER, alpha=0.15, linewidth=0)
        _note(axes, f"dashed: {row['model']}, {row['accuracy']:.2%}")
    _percent(axes, f"test accuracy, {INTERVAL}")
    return figure


def accuracy_by_class(by_class: pd.DataFrame) -> Figure:
    """Accuracy on every class from `predictions.accuracy_by_class`: models side by side in each class.

    Of more than `MOST_CLASSES` classes, those on which the students differ most.
    """
    shown = _most_different(by_class)
    table = by_class[by_class["class"].isin(shown)]
    students = _students(table)
    figure, (axes,) = new_figure(1, width=max(6.4, 1.5 + len(shown) * (0.3 + 0.12 * len(students))), height=4.4)
    places = {name: place for place, name in enumerate(shown)}
    for index, name in enumerate(students):
        rows = table[table["model"] == name]
        shift = 0.7 * ((index + 0.5) / len(students) - 0.5)
        errors = np.array([rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]])
        at = rows["class"].map(places) + shift
        colour, marker = _look(index)
        axes.errorbar(at, rows["accuracy"], yerr=errors, fmt=marker, color=colour, markersize=5, label=name)
    for teacher, rows in table[table["teacher"]].groupby("model"):
        at = rows["class"].map(places)
        axes.hlines(rows["accuracy"], at - 0.4, at + 0.4, color=TEACHER, linewidth=1.6, label=str(teacher))
    for edge in _group_edges(table.drop_duplicates("class")["group"]):
        axes.axvline(edge - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    tilted = len(shown) > 10 or max(map(len, shown)) > LONGEST_LEVEL
    axes.set_xticks(range(len(shown)), shown)
    if tilted:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(_as_percent)
    axes.set_ylabel("test accuracy")
    total = by_class["class"].nunique()
    _note(
        axes,
        INTERVAL
        if len(shown) == total
        else f"the {len(shown)} of {total} classes that differ most, chance included; {INTERVAL}",
    )
    figure.legend(loc="outside upper center", ncols=min(len(students) + 1, 4), frameon=False)
    return figure


def class_profiles(by_class: pd.DataFrame, closeness: pd.DataFrame) -> Figure:
    """Each student's profile over the teacher's, a panel a student: on which classes either is better than elsewhere.

    A correlation knows neither level nor scale, so both profiles are drawn without: in standard deviations over
    classes, from the model's own mean.

    Args:
        by_class: `predictions.accuracy_by_class`, with a teacher.
        closeness: `class_profiles.closeness`; its correlations stand over the panels.
    """
    wide = by_class.pivot(index="class", columns="model", values="accuracy")
    teacher, students = by_class["model"][by_class["teacher"]].iloc[0], _students(by_class)
    profiles = ((wide - wide.mean()) / wide.std()).sort_values(teacher)
    named = len(profiles) <= MOST_CLASSES
    columns, rows = min(len(students), 3), -(-len(students) // 3)
    figure = Figure(figsize=(3.8 * columns, 3.4 * rows + 0.3), layout="constrained", dpi=120)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for index, (axes, name) in enumerate(zip(panels, students, strict=False)):
        colour, marker = _look(index)
        places = np.arange(len(profiles))
        axes.plot(places, profiles[teacher], color=TEACHER, linewidth=1.4, label=str(teacher) if index == 0 else None)
        axes.plot(places, profiles[name], color=colour, marker=marker, markersize=4, linewidth=int(named))
        axes.set_xticks(places if named else [], list(profiles.index) if named else [], rotation=90, fontsize=8)
        axes.set_title(f"{name}\n{_correlation(closeness[closeness['model'] == name])}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="0.92")
    for axes in panels[len(students) :]:
        axes.remove()
    figure.supxlabel("classes, from the teacher's worst to its best", fontsize=9)
    figure.supylabel("accuracy, in standard deviations from the model's mean", fontsize=9)
    figure.legend(loc="outside upper center", frameon=False)
    return figure


def _correlation(row: pd.DataFrame) -> str:
    found = row.iloc[0]
    if np.isnan(found["correlation"]):
        return "correlation unknown: noise hides the profile"
    return f"corrected correlation {found['correlation']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def closeness(table: pd.DataFrame) -> Figure:
    """Correlation of each student's class profile with the teacher's, from `class_profiles.closeness`."""
    figure, (axes,) = new_figure(1, width=6.4, height=1.5 + 0.4 * len(table))
    _dots(axes, table, "correlation", labels="{:.2f}")
    axes.scatter(table["observed"], _heights(table), marker="|", color="0.4", s=60, zorder=3)
    axes.set_xlabel(f"correlation with the teacher's accuracy by class,\n{INTERVAL}")
    _note(axes, "dot: corrected for noise; bar: as measured; 1: the same profile")
    return figure


def inside_groups(table: pd.DataFrame) -> Figure:
    """Share of the wrong answers that stay in the group of the true class, from `confusions.inside_groups`."""
    groups = list(dict.fromkeys(table["group"]))
    figure, panels = new_figure(len(groups), width=3.4 * len(groups) + 1.2, height=1.7 + 0.4 * table["model"].nunique())
    for axes, group in zip(panels, groups, strict=True):
        rows = table[table["group"] == group]
        _dots(axes, rows, "share", labels="{:.0%}")
        axes.scatter(rows["evenly"], _heights(rows), marker="|", color="0.2", s=90, zorder=3)
        axes.set_title(group, fontsize=10)
        _percent(axes, "")
        axes.set_xlim(-0.04, 1.04)  # with room between one panel's 100 % and the next one's 0 %
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    figure.supxlabel(f"share of wrong answers that name a class of the same group, {INTERVAL}", fontsize=9)
    figure.suptitle("bar: if the same wrong answers were spread evenly over the other classes", fontsize=9, color="0.4")
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """How often students answer as their teacher does, from `predictions.agreement`."""
    kinds = list(dict.fromkeys(table["of"]))
    figure, panels = new_figure(len(kinds), width=4.4 * len(kinds) + 1.0, height=1.6 + 0.4 * table["model"].nunique())
    for axes, kind in zip(panels, kinds, strict=True):
        rows = table[table["of"] == kind]
        _dots(axes, rows, "agreement", labels="{:.1%}")
        axes.set_title(f"{kind} (n = {rows['images'].iloc[0]:,})", fontsize=10)
        _percent(axes, "")
    figure.supxlabel(f"share of images with the teacher's answer, {INTERVAL}", fontsize=9)
    return figure


def reliability(bins: pd.DataFrame, calibration: pd.DataFrame) -> Figure:
    """Accuracy against confidence, and how often which confidence is given.

    Args:
        bins: `calibration.reliability`.
        calibration: `calibration.calibration`; its errors stand in the legend.
    """
    figure, (left, right) = new_figure(2, width=10.4, height=4.6)
    errors = calibration.set_index("model")["ece"]
    students = _students(bins)
    for name, rows in bins.groupby("model", sort=False):
        is_teacher = bool(rows["teacher"].iloc[0])
        colour, marker = (TEACHER, "x") if is_teacher else _look(students.index(str(name)))
        label = f"{name}: ECE {errors[name]:.1%}"
        known = rows[rows["answers"] >= FEWEST_ANSWERS]
        left.plot(known["confidence"], known["accuracy"], color=colour, marker=marker, markersize=4, label=label)
        left.fill_between(known["confidence"], known["low"], known["high"], color=colour, alpha=0.12, linewidth=0)
        right.plot((rows["bin_low"] + rows["bin_high"]) / 2, rows["answers"], color=colour, marker=marker, markersize=4)
    left.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    left.set_ylabel("accuracy of these answers")
    _note(left, f"below the dotted line: too confident; points of at least {FEWEST_ANSWERS:.0%} of the answers")
    right.set_ylabel("share of all answers")
    right.tick_params(labelleft=True)
    for axes in (left, right):
        axes.set_xlabel("confidence, at temperature 1")
        axes.xaxis.set_major_formatter(_as_percent)
        axes.yaxis.set_major_formatter(_as_percent)
        axes.set_xlim(float(bins["bin_low"].min()), 1.0)
    figure.legend(loc="outside upper center", ncols=min(len(students) + 1, 3), frameon=False)
    return figure


def differences(table: pd.DataFrame, of: str, percent: bool) -> Figure:
    """Every pair's difference and its interval.

    Args:
        table: `predictions.paired_tests`, or of one kind of images `predictions.agreement_differences`, or
            `class_profiles.closeness_differences`.
        of: what differs, for the axis.
        percent: whether that is a share.
    """
    figure, (axes,) = new_figure(1, width=6.8, height=1.6 + 0.35 * len(table))
    for place, row in enumerate(table.to_dict("records")):
        real = row["p_holm"] < SIGNIFICANT
        colour = COLOURS[0] if real else "0.6"
        axes.plot([row["low"], row["high"]], [-place, -place], color=colour, linewidth=1.4)
        axes.plot(row["difference"], -place, marker="o", color=colour, markerfacecolor=colour if real else "white")
    axes.axvline(0, color="0.3", linewidth=1)
    names = [f"{row['first']} - {row['second']}  (p {_p(row['p_holm'])})" for row in table.to_dict("records")]
    axes.set_yticks(_heights(table), names)
    axes.set_ylim(-len(table) + 0.4, 0.6)
    axes.set_xlabel(f"difference in {of},\n{INTERVAL}")
    if percent:
        axes.xaxis.set_major_formatter(_as_percent)
    _note(axes, "filled: real at 5 % for all pairs together (p by Holm)")
    return figure


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of a model; after as many as there are colours they pair up anew."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _students(table: pd.DataFrame) -> list[str]:
    """Names in the table's order."""
    return list(dict.fromkeys(table["model"][~table["teacher"]]))


def _heights(table: pd.DataFrame) -> np.ndarray:
    return -np.arange(len(table))


def _dots(axes: Axes, table: pd.DataFrame, column: str, labels: str) -> None:
    """A row a model: its figure as a dot, the interval as a line, the number beside it."""
    is_teacher = table["teacher"] if "teacher" in table else pd.Series(False, table.index)
    for index, (row, grey) in enumerate(zip(table.to_dict("records"), is_teacher, strict=True)):
        colour, marker = (TEACHER, "x") if grey else _look(index)
        axes.plot([row["low"], row["high"]], [-index, -index], color=colour, linewidth=1.4)
        axes.plot(row[column], -index, color=colour, marker=marker)
        unknown = np.isnan(row[column])
        place, label = (
            ((row["low"] + row["high"]) / 2, "unknown") if unknown else (row[column], labels.format(row[column]))
        )
        axes.annotate(label, (place, -index), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(_heights(table), list(table["model"]))
    axes.set_ylim(-len(table) + 0.4, 0.75)


def _most_different(by_class: pd.DataFrame) -> list[str]:
    """The classes that are shown, in the table's order."""
    students = by_class[~by_class["teacher"]]
    gaps = students.groupby("class", sort=False)["accuracy"].agg(lambda values: values.max() - values.min())
    chosen = set(gaps.nlargest(MOST_CLASSES).index)
    return [name for name in gaps.index if name in chosen]


def _group_edges(groups: pd.Series) -> list[int]:
    """Places at which another group begins."""
    names = list(groups)
    return [place for place in range(1, len(names)) if names[place] != names[place - 1]]


def _percent(axes: Axes, label: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(_as_percent)
    axes.set_xlabel(label)


def _as_percent(share: float, _: float = 0.0) -> str:
    return f"{100 * share:.4g}%"


def _note(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, color="0.4")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
