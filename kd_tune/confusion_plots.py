"""Pictures of confusions: functions from the tables of `confusions` to matplotlib figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from kd_tune.svg import OWN_COLOURS

MOST_NUMBERS = 20  # classes; more leave no room for numbers in cells, nor for names
MOST_COLUMNS = 3
NARROWEST = 4.4  # inches; the note over the matrices needs so much
DARK_SHARE = 0.35  # from here on white numbers read better
SIGNIFICANT = 0.05


def confusion_matrices(confusions: pd.DataFrame) -> Figure:
    """How often each class was taken for each: a panel a model, classes of a group side by side.

    Colours are shares of the true class, on a scale that opens the small ones: nearly all images lie on the diagonal.
    """
    norm = PowerNorm(0.5, 0, 1)
    figure, panels = _panels(confusions)
    for axes, (name, table) in zip(panels, confusions.groupby("model", sort=False), strict=True):
        image = _matrix(axes, table, "share", "Blues", norm)
        _numbers(axes, table["count"], dark=table["share"] > DARK_SHARE, style="{:.0f}")
        axes.set_title(str(name), fontsize=10)
    figure.colorbar(
        image, ax=panels, shrink=0.6, format=lambda share, _: f"{share:.0%}", label="share of the true class"
    )
    return figure


def confusion_differences(differences: pd.DataFrame) -> Figure:
    """How much more often than a reference models take classes for others, from `confusions.confusion_differences`."""
    most = float(differences["difference"].abs().max()) or 1.0
    norm = Normalize(-most, most)
    figure, panels = _panels(differences)
    for axes, (name, table) in zip(panels, differences.groupby("model", sort=False), strict=True):
        image = _matrix(axes, table, "difference", "RdBu_r", norm)
        dark = table["difference"].abs() > 0.6 * most
        _numbers(axes, table["difference"], dark, style="{:+.0f}")
        _outline(axes, table["p_holm"] < SIGNIFICANT)
        axes.set_title(f"{name} - {table['reference'].iloc[0]}", fontsize=10)
    figure.colorbar(image, ax=panels, shrink=0.6, label="images more (red) or fewer (blue)")
    any_real = bool((differences["p_holm"] < SIGNIFICANT).any())
    real = "real at 5 % for all cells of a matrix together (Holm)"
    figure.suptitle(f"framed: {real}" if any_real else f"no cell is {real}", fontsize=9, color="0.4")
    return figure


def _panels(table: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    """As many square panels as models, in rows of at most `MOST_COLUMNS`; four as a square."""
    models, classes = table["model"].nunique(), table["true"].nunique()
    columns = 2 if models == 4 else min(models, MOST_COLUMNS)
    rows = math.ceil(models / columns)
    side = 1.6 + 0.34 * classes if classes <= MOST_NUMBERS else 5.0
    figure = Figure(figsize=(max(side * columns + 1, NARROWEST), side * rows + 0.4), layout="constrained", dpi=120)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[models:]:
        axes.remove()
    return figure, panels[:models]


def _matrix(axes: Axes, table: pd.DataFrame, column: str, colours: str, norm: Normalize) -> AxesImage:
    """Draws a square of cells, in the table's order of classes, with a line between groups."""
    names = list(dict.fromkeys(table["true"]))
    size = len(names)
    image = axes.imshow(table[column].to_numpy().reshape(size, size), cmap=colours, norm=norm)
    groups = list(table["group"])[::size]
    for place in range(1, size):
        if groups[place] != groups[place - 1]:
            axes.axhline(place - 0.5, color="0.2", linewidth=1, gid=OWN_COLOURS)
            axes.axvline(place - 0.5, color="0.2", linewidth=1, gid=OWN_COLOURS)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    shown = names if size <= MOST_NUMBERS else []
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=8)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    return image


def _numbers(axes: Axes, values: pd.Series, dark: pd.Series, style: str) -> None:
    """A number in each cell that has one, if there is room."""
    size = math.isqrt(len(values))
    if size > MOST_NUMBERS:
        return
    for place, (value, on_dark) in enumerate(zip(values, dark, strict=True)):
        if abs(value) >= 0.5:
            row, column = divmod(place, size)
            colour = "white" if on_dark else "black"
            axes.text(
                column, row, style.format(value), ha="center", va="center", fontsize=7, color=colour, gid=OWN_COLOURS
            )


def _outline(axes: Axes, chosen: pd.Series) -> None:
    size = math.isqrt(len(chosen))
    for place in np.flatnonzero(chosen):
        row, column = divmod(int(place), size)
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.6, gid=OWN_COLOURS)
        )
