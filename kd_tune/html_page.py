"""A report as one HTML page that needs nothing but itself, and that nothing from a file can make do anything.

Every value is escaped. The policy at its head allows the one style and the one script that it was written with, by
their hashes, and pictures that are in the page. Without its script the page is whole; with it, tables sort.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from kd_tune.blocks import Block, Code, Facts, Lines, Part, Picture, Prose, TableBlock, cell

TEMPLATES = Path(__file__).parent / "templates"
KINDS: dict[type[Block], str] = {
    Prose: "prose",
    Facts: "facts",
    Lines: "lines",
    TableBlock: "table",
    Picture: "picture",
    Code: "code",
}
NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?( \(.*\))?")  # the bracket: epochs, or an interval
LONGEST_LINE = 40  # of a cell, in letters
# What HTML has no place for; tabs and line ends it has.
NO_HTML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        kind: `number`, `words` (a cell may take several lines), or nothing; its cells' class.
    """

    title: str
    kind: str


@dataclass(frozen=True)
class Rendered:
    """A table as text."""

    columns: list[Column]
    rows: list[list[str]]


def page(title: str, subtitle: str, parts: Sequence[Part], pictures: Mapping[str, str]) -> str:
    """A report's parts as one page.

    Args:
        title: of the page.
        subtitle: below it.
        parts: of the report.
        pictures: its pictures as SVG elements, by name.
    """
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_clean,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        title=title,
        subtitle=subtitle,
        parts=parts,
        pictures={name: Markup(picture) for name, picture in pictures.items()},  # noqa: S704 - our own SVG
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704
        prose=prose,
        rendered=rendered,
        kind_of=lambda block: KINDS[type(block)],
    )


def policy(style: str, script: str) -> str:
    """What the page may load and run: itself."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def prose(text: str) -> Markup:
    """Our own words, with their `code` and **strong** marked."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked))  # noqa: S704 - escaped above


def rendered(block: TableBlock) -> Rendered:
    """A table's rows as a page shows them."""
    frame = block.on_page
    names = [str(column) for column in frame.columns]
    rows = [
        [cell(name, value) for name, value in zip(names, row, strict=True)] for row in frame.itertuples(index=False)
    ]
    columns = []
    for place, name in enumerate(names):
        values = [row[place] for row in rows if row[place]]
        is_number = bool(values) and all(map(NUMBER.fullmatch, values))
        kind = "number" if is_number else "words" if max(map(len, values), default=0) > LONGEST_LINE else ""
        columns.append(Column(name.replace("_", " "), kind))
    return Rendered(columns, rows)


def _clean(value: Any) -> Any:
    """A value without characters that HTML has no place for."""
    return NO_HTML.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value
