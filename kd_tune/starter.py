"""A first search file, with comments, and beside it the schema that editors complete it by."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import NamedTuple

from kd_tune.advice import command
from kd_tune.data import DATASETS, DOWNLOADABLE
from kd_tune.errors import ConfigError
from kd_tune.paths import written_whole
from kd_tune.schema import search_file_schema

TEMPLATE = Path(__file__).parent / "templates" / "search.yaml"
SCHEMA = "kd_tune.schema.json"


class Suggestion(NamedTuple):
    """What a first search of a data set needs beside what all have in common.

    Attributes:
        dataset: the line of the section `dataset`.
        teacher: the network that teaches.
        where_from: of that teacher.
        data: what to give as `--data`; None: there is a usual place.
    """

    dataset: str
    teacher: str = "compact"
    where_from: str = "trained on first use, then found again"
    data: Path | None = None


_OWN = "  # flips: false where a mirror image is another class"
SUGGESTIONS = {
    "mnist5k": Suggestion("{name: mnist5k}", "digits"),
    "cifar10": Suggestion("{name: cifar10}", where_from="comes with kd_tune"),
    "npz": Suggestion("{name: npz, flips: true}" + _OWN, data=Path("FILE.npz")),
    "image_folder": Suggestion("{name: image_folder, image_size: 64, flips: true}" + _OWN, data=Path("FOLDER")),
}


def write(target: Path, dataset: str) -> list[str]:
    """Writes a search file for a data set, and the schema into the same folder.

    Args:
        target: the file.
        dataset: a name in DATASETS.

    Returns:
        Lines about what was written, and what comes next.

    Raises:
        ConfigError: unknown data set, or the file is there already.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"--dataset {dataset}: no such data set; there are {', '.join(DATASETS)}")
    if target.exists():
        raise ConfigError(f"{target}: is there already, and is left as it is; name another file")
    found = SUGGESTIONS.get(dataset, Suggestion(f"{{name: {dataset}}}"))
    schema = target.parent / SCHEMA
    with written_whole(schema) as temporary:
        temporary.write_text(json.dumps(search_file_schema(), indent=1) + "\n", encoding="utf-8")
    with written_whole(target) as temporary:
        temporary.write_text(_text(target, dataset, found), encoding="utf-8")
    lines = [f"{target}: a search on {dataset}, to be edited; {schema}: what editors complete it by"]
    if dataset in DOWNLOADABLE:
        lines.append(f"the data, unless you have them: {command('kd-tune', 'data', 'download', dataset)}")
    return [*lines, f"next: {command('kd-tune', 'plan', target, data=found.data)}"]


def _text(target: Path, dataset: str, suggestion: Suggestion) -> str:
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        schema=SCHEMA,
        dataset=dataset,
        section=suggestion.dataset,
        teacher=suggestion.teacher,
        where_from=suggestion.where_from,
        doctor=command("kd-tune", "doctor", target, data=suggestion.data),
        plan=command("kd-tune", "plan", target, data=suggestion.data),
        search=command("kd-tune", "search", target, data=suggestion.data),
    )
