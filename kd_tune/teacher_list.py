"""What teachers there are: every network of TEACHERS, and every teacher that lies in the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from rich.table import Table

from kd_tune import teacher
from kd_tune.catalog import build_network
from kd_tune.errors import ConfigError
from kd_tune.models import TEACHERS
from kd_tune.models.cost import multiply_adds
from kd_tune.models.published import PUBLISHED
from kd_tune.paths import cache_folder, read_record
from kd_tune.teacher import InputShape, TeacherRecord
from kd_tune.user_code import is_reference

CIFAR10 = InputShape(num_classes=10, in_channels=3, image_size=32)


@dataclass(frozen=True)
class Row:
    """A network, or a teacher on disk.

    Attributes:
        name: of the network.
        shape: what it is built for.
        num_parameters: of the network; None where it cannot be built.
        multiply_adds: of one image.
        published: accuracy on CIFAR-10's test images that its authors report, 0 to 1.
        dataset: what it was measured on.
        val_accuracy: on validation images, 0 to 1.
        test_accuracy: of the last opening of the test set that gave a figure.
        folder: where it lies.
        problem: why there are no figures.
    """

    name: str
    shape: InputShape | None = None
    num_parameters: int | None = None
    multiply_adds: int | None = None
    published: float | None = None
    dataset: str | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    folder: Path | None = None
    problem: str | None = None


def rows(shape: InputShape, dataset_name: str | None = None) -> list[Row]:
    """A row a network, or a row a teacher where some of that network lie in the cache and can be read.

    Args:
        shape: what networks without a teacher on disk are counted for.
        dataset_name: only teachers of this data set; None: all.
    """
    found = [row for row in map(_on_disk, _folders()) if dataset_name in (None, row.dataset) or row.problem]
    table = []
    for name in TEACHERS:
        own = [row for row in found if row.name == name]
        table += own
        if all(row.problem for row in own):
            table.append(_network(name, {"name": name}, shape))
    return table + [row for row in found if row.name not in TEACHERS]


def render(table: list[Row]) -> Table:
    """The table for a terminal."""
    shown = Table(box=None, pad_edge=False, caption_justify="left")
    shown.add_column("teacher", no_wrap=True)
    for title in ("parameters", "M multiply-adds", "CIFAR-10, published", "validation", "test"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("on", no_wrap=True)
    shown.add_column("in", overflow="fold")
    for row in table:
        shown.add_row(
            row.name,
            "" if row.num_parameters is None else f"{row.num_parameters:,}",
            "" if row.multiply_adds is None else f"{row.multiply_adds / 1e6:.1f}",
            *(_percent(value) for value in (row.published, row.val_accuracy, row.test_accuracy)),
            row.dataset or "",
            row.problem or ("" if row.folder is None else row.folder.name),
        )
    return shown


def _folders() -> list[Path]:
    """Every whole teacher's folder, shipped or in the cache; a shipped one's copy stands for it."""
    places = (teacher.SHIPPED, cache_folder() / "teachers")
    folders = [path.parent for place in places for path in sorted(place.glob(f"*/{teacher.RECORD}"))]
    whole = [folder for folder in folders if folder.suffix != ".training" and not folder.name.startswith(".")]
    return [folder for folder in whole if folder.parent != teacher.SHIPPED or not _has_copy(folder)]


def _has_copy(shipped: Path) -> bool:
    return teacher.exists(teacher.copy_of_shipped(shipped))


def _on_disk(folder: Path) -> Row:
    try:
        record = read_record(folder / teacher.RECORD, TeacherRecord)
    except ConfigError as error:
        return Row(name="?", folder=folder, problem=f"damaged: {error}")
    name = str(record.architecture.get("name"))
    if name not in TEACHERS and not is_reference(name):
        return Row(name=name, folder=folder, problem=f"{folder.name}: of no network that is known here")
    row = _network(name, record.architecture, record.input)
    dataset_name = (record.dataset or {}).get("name")
    figures = [opening.get("test_accuracy") for opening in record.test_openings]
    opened = [figure for figure in figures if isinstance(figure, float)]
    return replace(
        row,
        dataset=None if dataset_name is None else str(dataset_name),
        val_accuracy=record.val_accuracy,
        test_accuracy=opened[-1] if opened else None,
        folder=folder,
        problem=None if row.problem is None else f"{folder.name}: {row.problem}",
    )


def _network(name: str, section: dict[str, object], shape: InputShape) -> Row:
    """What a network of TEACHERS, or the user's own, costs for images of a shape."""
    published = PUBLISHED[name].accuracy if name in PUBLISHED else None
    try:
        num_parameters, cost = _cost(json.dumps(section, sort_keys=True), *shape.model_dump().values())
    except ConfigError as error:
        return Row(name, shape, published=published, problem=str(error))
    except Exception as error:  # a record can ask for anything, and the user's own network can raise anything
        said = str(error).splitlines() or [""]
        problem = f"its cost cannot be counted: {type(error).__name__}: {said[0]}"
        return Row(name, shape, published=published, problem=problem)
    return Row(name, shape, num_parameters, cost, published)


@cache
def _cost(section: str, num_classes: int, in_channels: int, image_size: int) -> tuple[int, int]:
    """Parameters and multiply-adds of a network; the deep ones take a third of a second each."""
    with torch.device("meta"):
        network = build_network(json.loads(section), num_classes, in_channels, image_size)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return num_parameters, multiply_adds(network, in_channels, image_size)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
