"""A report in Markdown: what a file says is text in it, whatever it says."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from kd_tune.blocks import Block, Code, Facts, Lines, Part, Picture, Prose, TableBlock, cell

NO_WIDTH = "&#8203;"


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def page(title: str, parts: Iterable[Part]) -> Markdown:
    """A report's parts as one page; its pictures are PNG files that lie beside it."""
    pieces = [f"# {escaped(title)}"]
    for part in parts:
        pieces.append(f"{'#' * part.level} {escaped(part.title)}")
        pieces += [_block(block) for block in part.blocks]
    return Markdown("\n\n".join(piece for piece in pieces if piece) + "\n")


def _block(block: Block) -> str:
    match block:
        case Prose():
            return block.text
        case Facts():
            return "\n".join(f"- {escaped(f'{fact.label}: {fact.value} ({fact.note})')}" for fact in block.items)
        case Lines():
            return "\n".join(f"- {_as_code(item) if block.code else escaped(item)}" for item in block.items)
        case Picture():
            return f"{escaped(block.title)}:\n\n![{plain(block.title)}]({block.name}.png)"
        case Code():
            return code(block.text, block.language)
        case TableBlock() if block.folded:
            return "" if block.frame.empty else f"{escaped(block.folded)}: `{block.name}.csv`."
        case TableBlock():
            left_out = f"{block.num_left_out} more are in `{block.name}.csv`." if block.num_left_out else ""
            return "\n\n".join(filter(None, (table(block.on_page), left_out)))


def _as_code(text: str) -> str:
    """One line as code, which nothing in it can end."""
    text = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if len(ticks) > 1 else f"`{text}`"


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
