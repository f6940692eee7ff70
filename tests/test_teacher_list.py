"""The list of teachers: a row a network, a row a teacher in the cache, and nothing that is damaged stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_tune import cli, teacher, teacher_list
from kd_tune.data import Dataset
from kd_tune.errors import ExitCode
from kd_tune.models import TEACHERS
from kd_tune.teacher import InputShape
from kd_tune.teacher_list import CIFAR10, Row

SaveTeacher = Callable[..., Path]
TOY_DATASET = {"name": "npz", "fingerprint": "0"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The teachers of a cache for one test, and a package without any."""
    monkeypatch.setenv("KD_TUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(teacher, "SHIPPED", tmp_path.resolve() / "shipped")
    return tmp_path / "cache" / "teachers"


def by_name(table: list[Row]) -> dict[str, list[Row]]:
    return {row.name: [other for other in table if other.name == row.name] for row in table}


def shown(table: list[Row]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(teacher_list.render(table))
    return captured.get()


def test_every_network_has_a_row_with_its_cost() -> None:
    table = teacher_list.rows(CIFAR10)
    assert [row.name for row in table] == list(TEACHERS)
    vgg = by_name(table)["vgg13_bn"][0]
    assert (vgg.num_parameters, round((vgg.multiply_adds or 0) / 1e6, 1), vgg.published) == (28_334_410, 247.2, 0.9422)
    compact = by_name(table)["compact"][0]
    assert (compact.num_parameters, compact.published, compact.val_accuracy) == (1_972_802, None, None)
    line = next(line for line in shown(table).splitlines() if line.startswith("vgg13_bn"))
    assert line.split() == ["vgg13_bn", "28,334,410", "247.2", "94.22%"]


def test_costs_are_those_for_the_shape_that_is_asked_for() -> None:
    grey = by_name(teacher_list.rows(InputShape(num_classes=3, in_channels=1, image_size=16)))
    assert grey["digits"][0].num_parameters == sum(p.numel() for p in TEACHERS["digits"](3, 1, 16).parameters())
    assert grey["vgg13_bn"][0].num_parameters is None
    assert "needs images of at least 32 x 32 pixels, not 16" in (grey["vgg13_bn"][0].problem or "")


def test_every_teacher_in_the_cache_has_a_row(place: Path, toy_dataset: Dataset, save_teacher: SaveTeacher) -> None:
    first, second = (save_teacher(place / name, toy_dataset) for name in ("digits-npz-a", "digits-npz-imported"))
    teacher.update_record(first, dataset=TOY_DATASET, val_accuracy=0.5)
    teacher.update_record(
        second,
        dataset=TOY_DATASET,
        val_accuracy=0.75,
        test_openings=[{"time": 1.0, "test_accuracy": 0.6}, {"time": 2.0, "test_accuracy": 0.7}, {"time": 3.0}],
    )
    own = by_name(teacher_list.rows(CIFAR10))["digits"]
    assert [(row.folder, row.val_accuracy, row.test_accuracy) for row in own] == [
        (first, 0.5, None),
        (second, 0.75, 0.7),
    ]
    assert own[0].shape == InputShape(num_classes=3, in_channels=1, image_size=16), "its own, not that of CIFAR-10"
    assert own[0].dataset == "npz"
    last = shown(own).splitlines()[-1]
    assert last.split()[-4:] == ["75.00%", "70.00%", "npz", "digits-npz-imported"]


def test_one_data_sets_teachers_can_be_asked_for(place: Path, toy_dataset: Dataset, save_teacher: SaveTeacher) -> None:
    teacher.update_record(save_teacher(place / "digits-npz-a", toy_dataset), dataset=TOY_DATASET)
    assert by_name(teacher_list.rows(CIFAR10, "npz"))["digits"][0].folder is not None
    assert by_name(teacher_list.rows(CIFAR10, "cifar10"))["digits"][0].folder is None


def test_trainings_and_folders_that_are_being_written_are_passed_over(
    place: Path, toy_dataset: Dataset, save_teacher: SaveTeacher
) -> None:
    save_teacher(place / "digits-npz-a.training", toy_dataset)
    save_teacher(place / ".digits-npz-a.0123.tmp", toy_dataset)
    (place / "digits-npz-a.lock").touch()
    (place / "empty").mkdir()
    assert all(row.folder is None for row in teacher_list.rows(CIFAR10))


def test_a_shipped_teacher_has_one_row_before_and_after_its_first_use(
    tmp_path: Path, toy_dataset: Dataset, save_teacher: SaveTeacher
) -> None:
    shipped = save_teacher(tmp_path / "shipped" / "digits-npz", toy_dataset)
    assert [row.folder for row in by_name(teacher_list.rows(CIFAR10))["digits"]] == [shipped]
    copy = teacher.writable(shipped)
    assert copy != shipped
    assert [row.folder for row in by_name(teacher_list.rows(CIFAR10))["digits"]] == [copy]


def test_damaged_teachers_are_listed_as_such(place: Path, toy_dataset: Dataset, save_teacher: SaveTeacher) -> None:
    broken, unknown, wrong = (save_teacher(place / name, toy_dataset) for name in ("broken", "unknown", "wrong"))
    (broken / teacher.RECORD).write_text("{")
    teacher.update_record(unknown, architecture={"name": "resnet1001"})
    teacher.update_record(wrong, architecture={"name": "digits", "depth": 3})
    rows = by_name(teacher_list.rows(CIFAR10))
    assert "damaged: " in (rows["?"][0].problem or "")
    assert "broken/teacher.json: cannot be read" in (rows["?"][0].problem or "")
    assert "of no network that is known here" in (rows["resnet1001"][0].problem or "")
    assert "digits cannot be built" in (rows["digits"][0].problem or "")
    for name in ("broken", "resnet1001", "depth"):
        assert name in shown(teacher_list.rows(CIFAR10))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"input": {"num_classes": 3, "in_channels": 1, "image_size": 10**9}},
            "its cost cannot be counted: Runtime",
        ),
        ({"architecture": {"name": "digits", "depth": 3}}, "digits cannot be built"),
        ({"dataset": {"name": 5}}, "5"),
    ],
    ids=["enormous", "not buildable", "number for a name"],
)
def test_a_bad_record_is_a_row_among_others(
    changes: dict[str, Any], said: str, place: Path, toy_dataset: Dataset, save_teacher: SaveTeacher
) -> None:
    teacher.update_record(save_teacher(place / "bad", toy_dataset), **changes)
    table = teacher_list.rows(CIFAR10)
    own = by_name(table)["digits"]
    line = next(line for line in shown(table).splitlines() if "bad" in line)
    assert said in line or said in (own[0].problem or "")
    assert any(row.num_parameters is not None for row in own), "the network has a row with figures in any case"
    assert [row.folder is None for row in own] == ([False] if own[0].problem is None else [False, True])


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str], toy_npz: Path) -> None:
    cli_exit(["list"])
    listed = capsys.readouterr().out
    assert "mobilenet_v2" in listed
    assert "94.22%" in listed
    cli_exit(["list", "--dataset", "cifar10"])
    assert capsys.readouterr().out == listed, "known without having the data"
    cli_exit(["list", "--dataset", "npz", "--data", str(toy_npz)])
    assert "needs images of at least 32 x 32" in capsys.readouterr().out
    assert cli_exit(["list", "--dataset", "cifar"]) == ExitCode.USAGE
    assert "unknown data set 'cifar'" in capsys.readouterr().err


def cli_exit(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["teacher", *arguments])
    return int(stop.value.code or 0)
