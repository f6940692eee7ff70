"""How tables and sentences are written for a person, on the terminal and in Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from kd_tune.progress import short
from kd_tune.records import METRIC

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
NO_WIDTH = "&#8203;"


class Markdown(str):
    """Text that is Markdown already; everything else that gets into a page is written as `plain` has it."""

    __slots__ = ()


def render(template: str, **values: Any) -> Markdown:
    """A page from one of our templates."""
    # S701 asks for HTML's escapes; `finalize` sees every value, and makes it plain text of Markdown.
    environment = jinja2.Environment(  # noqa: S701
        finalize=lambda value: value if isinstance(value, Markdown) else plain(value),
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = Markdown  # for what a macro made
    return Markdown(environment.get_template(template).render(**values))


def plain(value: object) -> str:
    """A value that a file may have given, on one line, as text: it makes no HTML, link, picture, code or column.

    GitHub and others also link bare `https://...`, `www....` and `a@b.c`, some of them after escapes and entities were
    read, so neither helps. A space of no width does, where it breaks what such links begin with.
    """
    text = re.sub(r"([\\`\[\]<>|&])", r"\\\1", " ".join(str(value).split()))
    return re.sub(r"(/(?=/)|www(?=\.)|@)", rf"\1{NO_WIDTH}", text, flags=re.IGNORECASE)


def escaped(text: str) -> Markdown:
    """A sentence in which Markdown would find nothing to format, though it holds a file's own names."""
    return Markdown(re.sub(r"([*_])", r"\\\1", plain(text)))


def code(text: str, language: str) -> Markdown:
    """A file as a block of code, which nothing in it can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def table(frame: pd.DataFrame) -> Markdown:
    """A table in Markdown; empty if it has no rows."""
    if frame.empty:
        return Markdown("")
    columns = [str(column) for column in frame.columns]
    lines = ["| " + " | ".join(map(plain, columns)) + " |", "|" + " --- |" * len(columns)]
    for row in frame.itertuples(index=False):
        cells = (plain(cell(column, value)) for column, value in zip(columns, row, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return Markdown("\n".join(lines))


def cell(column: Any, value: Any) -> str:
    """A value as its column is read: a share as a percentage, a count in full."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, float) and column in PERCENT:
        return f"{value:.2%}"
    if column in COUNTS:
        return f"{int(value):,}"
    return short(value)
