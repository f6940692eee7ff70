"""How tables and sentences are written for a person, on the terminal and in Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from kd_tune.records import METRIC
from kd_tune.watch import short

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


def render(template: str, **values: Any) -> str:
    """A page from one of our templates."""
    # Markdown, not HTML: tables escape what would break them, in `table`.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def escaped(text: str) -> str:
    """A sentence in which Markdown would find nothing to format, though it holds a file's own names."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def table(frame: pd.DataFrame) -> str:
    """A table in Markdown; empty if it has no rows."""
    if frame.empty:
        return ""
    columns = [str(column) for column in frame.columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in frame.itertuples(index=False):
        cells = (cell(column, value).replace("|", "\\|") for column, value in zip(columns, row, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(column: Any, value: Any) -> str:
    """A value as its column is read: a share as a percentage, a count in full."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float) and column in PERCENT:
        return f"{value:.2%}"
    if column in COUNTS:
        return f"{int(value):,}"
    return short(value)
