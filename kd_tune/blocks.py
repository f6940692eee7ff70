"""What a report is made of: parts with words, lists, tables, pictures and code, however they are written.

`markdown`, `html_page` and `report_json` each write the same parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from kd_tune.progress import short
from kd_tune.records import METRIC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENT = {METRIC, "of_full", "importance", "teacher_accuracy", "saved", "share"}
COUNTS = {
    "num_parameters",
    "up_to_parameters",
    "multiply_adds",
    "teacher_parameters",
    "teacher_multiply_adds",
    "multiply_adds_saved",
}
COUNTS |= {"used", "computed"}


@dataclass(frozen=True)
class Prose:
    """A paragraph of our own words: `code` and **strong** may stand in it, what a file says may not."""

    text: str


@dataclass(frozen=True)
class Fact:
    """A figure that a reader looks for first.

    Attributes:
        label: what it is of.
        value: as it is read.
        note: how far it can be trusted, or what it is compared with.
    """

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Facts:
    """The few figures that a reader looks for first; they may hold names from files."""

    items: list[Fact]


@dataclass(frozen=True)
class Lines:
    """A list.

    Attributes:
        items: each a line; they may hold names from files.
        code: whether they are commands or paths, to be copied.
    """

    items: list[str]
    code: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table.

    Attributes:
        name: of its CSV file, without the ending.
        frame: its values.
        shown: as a person reads it, where that is another table.
        most: rows that a page shows, at most; None: all.
        folded: the words behind which an HTML page hides it; Markdown leaves such a table to its CSV file.
    """

    name: str
    frame: pd.DataFrame
    shown: pd.DataFrame | None = None
    most: int | None = None
    folded: str = ""

    @property
    def on_page(self) -> pd.DataFrame:
        """The rows that a page shows."""
        shown = self.frame if self.shown is None else self.shown
        return shown if self.most is None else shown.head(self.most)

    @property
    def num_left_out(self) -> int:
        """Rows that are in the CSV file alone."""
        return 0 if self.most is None else max(0, len(self.frame) - self.most)


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: of its file, without the ending.
        title: what it shows; its caption, and what is read to who cannot see it.
        figure: to be drawn.
    """

    name: str
    title: str
    figure: Figure


@dataclass(frozen=True)
class Code:
    """A file, as it is."""

    text: str
    language: str
    title: str


Block = Prose | Facts | Lines | TableBlock | Picture | Code


@dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        key: names it, in links and in JSON.
        title: its heading.
        blocks: what it holds; a table without rows is left out by whoever writes it.
        level: of the heading; the report's own title has level 1.
        short: the title for a list of contents, where it is long.
    """

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2
    short: str = ""


def cell(column: Any, value: Any) -> str:
    """A value as its column is read: a share as a percentage, a count in full."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float) and column in PERCENT:
        return f"{value:.2%}"
    if column in COUNTS:
        return f"{int(value):,}"
    return short(value)
