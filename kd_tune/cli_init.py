"""Commands to write a search file: `kd-tune init` and `kd-tune schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kd_tune.terminal import make_console


def init(
    file: Annotated[Path, typer.Argument(help="The search file to write.")] = Path("search.yaml"),
    dataset: Annotated[str, typer.Option(help="The data set; npz and image_folder are your own.")] = "mnist5k",
) -> None:
    """Write a search file with comments, to begin with, and the schema that editors complete it by."""
    from kd_tune import starter

    console = make_console()
    for line in starter.write(file, dataset):
        console.print(line, markup=False, soft_wrap=True)


def schema() -> None:
    """Print the JSON Schema of search files, by which editors complete and check them."""
    from kd_tune.schema import search_file_schema

    print(json.dumps(search_file_schema(), indent=1))
