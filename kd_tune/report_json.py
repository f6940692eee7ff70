"""A report as `report.json`, for programs: the parts of its pages, with tables as values.

`format` is 1. `sections` is a list, in the order of the pages; each has `key`, `title`, `level` (of its heading) and
`blocks`. A block has a `kind`:

- `prose`: `text`, with `code` and **strong** marked as in Markdown
- `facts`: `items`, each with `label`, `value` and `note`, as they are read
- `lines`: `items`, strings; `code` says whether they are commands or paths
- `table`: `name` (its CSV file beside the report has the same), `columns`, `rows` (an object each, by column, numbers
  as numbers, null for what is not known or not finite), `left_out` (rows that are in the CSV file alone)
- `picture`: `name` (of the PNG file beside the report), `title`
- `code`: `title`, `language`, `text`
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from kd_tune.blocks import Block, Code, Facts, Lines, Part, Picture, Prose, TableBlock

FORMAT = 1
MOST_ROWS = 1000  # of a table


def page(title: str, subtitle: str, parts: Iterable[Part]) -> str:
    """The text of `report.json`."""
    sections = [
        {"key": part.key, "title": part.title, "level": part.level, "blocks": [_block(block) for block in part.blocks]}
        for part in parts
    ]
    content = {"format": FORMAT, "title": title, "subtitle": subtitle, "sections": sections}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Prose():
            return {"kind": "prose", "text": block.text}
        case Facts():
            items = [{"label": fact.label, "value": fact.value, "note": fact.note} for fact in block.items]
            return {"kind": "facts", "items": items}
        case Lines():
            return {"kind": "lines", "code": block.code, "items": block.items}
        case TableBlock():
            columns = [str(column) for column in block.frame.columns]
            shown = block.frame.head(MOST_ROWS)
            rows = [dict(zip(columns, map(_value, row), strict=True)) for row in shown.itertuples(index=False)]
            left_out = len(block.frame) - len(shown)
            return {"kind": "table", "name": block.name, "columns": columns, "rows": rows, "left_out": left_out}
        case Picture():
            return {"kind": "picture", "name": block.name, "title": block.title}
        case Code():
            return {"kind": "code", "title": block.title, "language": block.language, "text": block.text}


def _value(value: Any) -> Any:
    """A table's value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
