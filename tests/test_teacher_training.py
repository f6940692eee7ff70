"""Training a teacher by command: its course is recorded, and it may begin with another teacher's weights."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from kd_tune import cli, teacher, teacher_training
from kd_tune.data import Dataset, npz
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.paths import CACHE_VARIABLE
from kd_tune.teacher import Teacher

DATA = {"name": "npz"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def trained(
    folder: Path, dataset: Dataset, source: Path, num_epochs: int = 2, start: Teacher | None = None, width: float = 1.0
) -> Teacher:
    changes = [f"training.num_epochs={num_epochs}", "training.batch_size=20", f"student.width={width}"]
    recipe = teacher_training.checked_recipe({"name": "digits"}, DATA, dataset, changes)
    return teacher_training.train_teacher(folder, recipe, dataset, source, Console(file=io.StringIO()), start)


def test_the_record_holds_the_course_of_the_training(tmp_path: Path, toy_dataset: Dataset, toy_npz: Path) -> None:
    record = trained(tmp_path / "a", toy_dataset, toy_npz, 3).record
    assert [epoch["epoch"] for epoch in record.epochs] == [1, 2, 3]
    assert record.epochs[-1]["val_accuracy"] == record.val_accuracy
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_a_training_may_begin_with_another_teachers_weights(
    tmp_path: Path, toy_dataset: Dataset, toy_npz: Path
) -> None:
    first = trained(tmp_path / "a", toy_dataset, toy_npz, 8)
    again = trained(tmp_path / "b", toy_dataset, toy_npz, 1, start=first)
    fresh = trained(tmp_path / "c", toy_dataset, toy_npz, 1)
    assert again.record.epochs[0]["train_loss"] < fresh.record.epochs[0]["train_loss"] - 0.1
    assert again.record.started_from is not None
    assert again.record.started_from["epochs"] == first.record.epochs
    assert again.record.recipe is not None
    assert again.record.recipe["started_from"] == first.fingerprint


def test_what_a_teacher_knew_before_stays_known(tmp_path: Path, toy_dataset: Dataset, toy_npz: Path) -> None:
    """Published weights have seen the validation images; training on without them does not undo that."""
    first = trained(tmp_path / "a", toy_dataset, toy_npz, 1)
    assert teacher.knows_validation_images(first.record, toy_dataset) is False
    teacher.update_record(tmp_path / "a", imported={"seen_validation": True})
    again = trained(tmp_path / "b", toy_dataset, toy_npz, 1, start=teacher.load(tmp_path / "a", toy_dataset))
    assert teacher.knows_validation_images(again.record, toy_dataset) is True


def test_another_network_is_no_start(tmp_path: Path, toy_dataset: Dataset, toy_npz: Path) -> None:
    first = trained(tmp_path / "a", toy_dataset, toy_npz, 1)
    with pytest.raises(ConfigError, match=r"holds \{'name': 'digits', 'width': 1.0\}, not"):
        trained(tmp_path / "b", toy_dataset, toy_npz, 1, start=first, width=2.0)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--set", "dataset.split_sed=1"], "dataset.split_sed: npz has no such argument"),
        (["train", "digits", "--set", "dataset.name=nowhere"], "dataset.name: unknown data set 'nowhere'"),
        (["measure", "digits", "--set", "training.num_epochs=3"], "only the data set has arguments here"),
        (["measure", "digits", "--set", "dataset.split_seed=5"], "there is no teacher digits for these data"),
    ],
)
def test_a_data_set_has_arguments_on_the_command_line_too(
    arguments: list[str], message: str, toy_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["teacher", *arguments, "--dataset", "npz", "--data", str(toy_npz)])
    assert stop.value.code == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_training_that_was_stopped_does_not_go_on_with_other_images(
    tmp_path: Path, toy_dataset: Dataset, toy_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_training, "_keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", toy_dataset, toy_npz, 1)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="an unfinished training on other images lies here"):
        trained(tmp_path / "a", npz(toy_npz, num_train=60), toy_npz, 1)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_student_is_not_trained_as_a_teacher(toy_dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="unknown teacher 'studentnet'; known: compact"):
        teacher_training.checked_recipe({"name": "studentnet"}, DATA, toy_dataset, [])
