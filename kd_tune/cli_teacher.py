"""The commands `kd-tune teacher ...`. Heavy imports happen inside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from kd_tune.errors import ConfigError
from kd_tune.terminal import AllowOption, DataOption, make_console, stoppable

teacher_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train, import or list teachers, or measure one on the test set."
)

DatasetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="An argument of the data set: dataset.image_size=64.", show_default=False),
]
OutOption = Annotated[Path | None, typer.Option(help="Where to put it [default: where searches look].")]


@teacher_app.command()
def train(
    name: Annotated[str, typer.Argument(help="Which teacher; `kd-tune teacher list` names them.")],
    dataset: Annotated[str, typer.Option(help="What it learns: a data set's name.")],
    data: DataOption = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a leaf of the recipe, for example training.num_epochs=6 or dataset.image_size=64.",
            show_default=False,
        ),
    ] = None,
    out: OutOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train it even if it is there; the new one replaces it.")
    ] = False,
    start_from: Annotated[
        Path | None, typer.Option(help="Start from the weights of the teacher in this folder.", show_default=False)
    ] = None,
    allow_code: AllowOption = None,
) -> None:
    """Train a teacher, resumable: the same command goes on after a stop."""
    from kd_tune import teacher, teacher_training, user_code
    from kd_tune.catalog import load_dataset
    from kd_tune.turns import lock_of, turn

    user_code.allow(allow_code or [])
    console = make_console()
    with stoppable("the same command goes on from the last checkpoint"):
        dataset_section, others = teacher_training.dataset_section(dataset, overrides or [])
        source = teacher_training.known_source(dataset, data)
        loaded = load_dataset(dataset_section, source)
        recipe = teacher_training.checked_recipe({"name": name}, dataset_section, loaded, others)
        folder = out or teacher.folder_of(recipe["student"], loaded)
        with turn(lock_of(folder), f"training {folder}", console.print):
            _check_place(folder, again, "trains a new one")
            start = None if start_from is None else teacher.load(start_from, loaded)
            teacher_training.train_teacher(folder, recipe, loaded, source, console, start)


@teacher_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A state dict (.safetensors, .pt), or a .zip that holds NAME.pt.")],
    name: Annotated[str, typer.Option(help="Which network it belongs to; `kd-tune teacher list` names them.")],
    dataset: Annotated[str, typer.Option(help="What it is measured on: a data set's name.")] = "cifar10",
    data: DataOption = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Of its input by channel, of pixels from 0 to 1: 0.5,0.5,0.5 [default: as published, or the data's].",
            show_default=False,
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of its input, likewise.", show_default=False)
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Keep it even if its accuracy speaks against it.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Replace the one that was imported before.")] = False,
    out: OutOption = None,
    overrides: DatasetOption = None,
    allow_code: AllowOption = None,
) -> None:
    """Make a teacher of weights that were trained elsewhere, once validation images show that they work."""
    from kd_tune import teacher, teacher_training, user_code
    from kd_tune.catalog import load_dataset
    from kd_tune.teacher_import import import_teacher

    user_code.allow(allow_code or [])
    console = make_console()
    with stoppable("nothing was written; the same command starts again"):
        section, others = teacher_training.dataset_section(dataset, overrides or [])
        _check_none_left(others)
        loaded = load_dataset(section, teacher_training.known_source(dataset, data))
        normalisation = parse_normalisation(mean, std, loaded.in_channels)
        folder = out or teacher.imported_folder(name, dataset)
        _check_place(folder, again, "imports a new one")
        import_teacher(file, {"name": name}, loaded, folder, console, accept, normalisation)


@teacher_app.command("list")
def list_(
    dataset: Annotated[
        str | None, typer.Option(help="Only teachers of this data set, counted for its images.", show_default=False)
    ] = None,
    data: DataOption = None,
    allow_code: AllowOption = None,
) -> None:
    """What each network costs, what its authors published, and what the teachers in the cache reach."""
    from kd_tune import teacher, teacher_list, teacher_training, user_code
    from kd_tune.catalog import load_dataset
    from kd_tune.paths import cache_folder

    user_code.allow(allow_code or [])
    shape = teacher_list.CIFAR10
    if dataset is not None:
        source = teacher_training.known_source(dataset, data)
        if dataset != "cifar10":  # its shape is known: no need to have it
            shape = teacher.InputShape(**load_dataset({"name": dataset}, source).input_shape)
    console = make_console()
    console.print(teacher_list.render(teacher_list.rows(shape, dataset)))
    console.print(f"validation, test: of the teachers in {cache_folder() / 'teachers'}")


@teacher_app.command()
def measure(
    name: Annotated[str, typer.Argument(help="A teacher's name, or its folder.")],
    dataset: Annotated[str, typer.Option(help="A data set's name.")],
    data: DataOption = None,
    overrides: DatasetOption = None,
    allow_code: AllowOption = None,
) -> None:
    """Open the test set for a teacher, record the opening, and print its accuracy."""
    from kd_tune import teacher, teacher_training, user_code

    user_code.allow(allow_code or [])
    console = make_console()
    section, others = teacher_training.dataset_section(dataset, overrides or [])
    _check_none_left(others)
    folder, loaded = teacher_training.locate_teacher(name, section, data)
    opening = teacher_training.measure_teacher(folder, loaded)
    count = len(teacher.load(folder, loaded).record.test_openings)
    console.print(
        f"test accuracy {opening['test_accuracy']:.2%} on {opening['num_images']} images; "
        f"opening number {count} of the test set, recorded in {folder / teacher.RECORD}",
    )


def _check_none_left(overrides: list[str]) -> None:
    if overrides:
        raise ConfigError(f"--set {overrides[0]}: only the data set has arguments here, as dataset.image_size=64")


def _check_place(folder: Path, again: bool, does: str) -> None:
    """Raises ConfigError if a teacher must not be written here."""
    from kd_tune import teacher

    if teacher.exists(folder) and not again:
        raise ConfigError(f"{folder}: there is a teacher already; --again {does} in its place")
    if folder.exists() and not teacher.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: there is something else already; name a new or an empty folder")


def parse_normalisation(mean: str | None, std: str | None, in_channels: int) -> dict[str, list[float]] | None:
    """The options --mean and --std, one number a channel each; None if neither was given.

    Raises:
        ConfigError: one without the other, not so many numbers, or a deviation that is not above 0.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigError("--mean and --std go together")
    parsed: dict[str, list[float]] = {}
    for option, text in (("mean", mean), ("std", std)):
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        allowed = all(math.isfinite(value) and (option == "mean" or value > 0) for value in values)
        if len(values) != in_channels or not allowed:
            above = ", each above 0" if option == "std" else ""
            raise ConfigError(f"--{option} {text}: must be {in_channels} numbers with commas between{above}")
        parsed[option] = values
    return parsed
