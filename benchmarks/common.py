"""What the benchmarks share: conditions, result files, temporary caches, teachers with random weights. Needs no Ray."""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import textwrap
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_tune import soft_targets, teacher
from kd_tune.catalog import build_network
from kd_tune.data import Dataset
from kd_tune.manifest import hardware, versions
from kd_tune.paths import CACHE_VARIABLE, read_json, write_json
from kd_tune.teacher import Answers, Teacher

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FULL_EPOCH = 50_000  # images; rates are given for epochs of this size, whatever was trained on


def arguments_parser(docstring: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring and knows --out."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the result [default: beside the script]")
    return parser


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on; call it before the measurement, so that the load is that of others.

    Of paths only the last part is kept: where somebody's files lie says nothing about the result.
    """
    given = {name: value.name if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    given.pop("out", None)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "arguments": given,
        "load_average_before": round(os.getloadavg()[0], 2),
        "hardware": hardware(),  # torch is loaded, so GPUs are named
        "versions": versions(),
    }


def conditions_markdown(made: dict[str, Any]) -> str:
    """The conditions as a list."""
    machine = made["hardware"]
    gpus = ", ".join(machine["gpus"]) or "none"
    lines = [
        f"date: {made['date']}, commit {made['versions']['commit']} (`+`: with changes)",
        f"machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, GPU: {gpus}; "
        f"load before the start {made['load_average_before']}",
        "versions: " + ", ".join(f"{name} {value}" for name, value in made["versions"].items() if name != "commit"),
        "arguments: " + ", ".join(f"{name} {value}" for name, value in made["arguments"].items()),
    ]
    return "## Conditions\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def reflow(markdown: str) -> str:
    """Paragraphs and list items wrapped anew, so that a template need not know how long its values are."""
    blocks = []
    for block in (part.strip() for part in markdown.split("\n\n")):
        if block.startswith(("#", "|")):
            blocks.append(block)
            continue
        items = [" ".join(item.split()) for item in re.split(r"\n(?=- )", block)]
        indent = "  " if block.startswith("- ") else ""
        wrapped = [textwrap.fill(item, 120, subsequent_indent=indent, break_on_hyphens=False) for item in items]
        blocks.append("\n".join(wrapped))
    return "\n\n".join(block for block in blocks if block) + "\n"


def write_result(name: str, result: dict[str, Any], markdown: str, folder: Path = HERE) -> None:
    """Writes `name.json` and `name.md`, and shows the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown = reflow(markdown)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown, encoding="utf-8")
    print(markdown)


def summary(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, extremes and number of values."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """A temporary folder that is kd_tune's cache as long as the body runs."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="kd_tune_benchmark_") as folder:
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


def random_teacher(name: str, folder: Path, dataset: Dataset) -> Teacher:
    """A teacher with random weights, saved and loaded: as fast as a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network({"name": name}, **dataset.input_shape)
    record = {
        "architecture": {"name": name},
        "input": dataset.input_shape,
        "class_names": list(dataset.class_names),
        "normalisation": dataset.normalisation,
        "dataset": dataset.identity,
    }
    teacher.save(folder, network, record)
    return teacher.load(folder, dataset)


class _StandIn(nn.Module):
    """Some logits from the mean colour."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        colour = F.adaptive_avg_pool2d(images, 1).flatten(1)
        return colour.repeat(1, self.num_classes)[:, : self.num_classes]


def fill_with_stand_in(found: Teacher, dataset: Dataset, views: int) -> Path:
    """The teacher's bank, filled in seconds by a trivial network in its name.

    How long a student trains does not depend on the numbers in the bank.
    """
    folder = soft_targets.folder_of(found, dataset)
    stand_in = replace(found, network=_StandIn(dataset.num_classes))
    soft_targets.fill(folder, stand_in, dataset, views, torch.device("cpu"))
    _let_pass(folder, found, dataset)
    return folder


def _let_pass(folder: Path, found: Teacher, dataset: Dataset) -> None:
    """Gives a bank the teacher's own answers to the few images about which a search asks it again."""
    images = dataset.train.images[: soft_targets.SAMPLE]
    shape = len(dataset.train), dataset.num_classes
    logits = np.memmap(folder / soft_targets.LOGITS, np.float16, "r+", shape=shape)
    logits[: len(images)] = Answers(found, torch.device("cpu"))(torch.from_numpy(images)).half().numpy()
    logits.flush()
    record = read_json(folder / soft_targets.RECORD)
    record["checksums"][0] = zlib.crc32(logits.tobytes())
    write_json(folder / soft_targets.RECORD, record)
