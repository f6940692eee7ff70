"""`kd-tune teacher import`: where the teacher goes, and what is refused with nothing written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from kd_tune import cli, teacher
from kd_tune.errors import ExitCode
from kd_tune.paths import read_json
from tests.imports import Weights, reordered


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of a command."""
    code = 0
    try:
        cli.main(["teacher", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return code, said.out, said.err


@pytest.fixture
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test."""
    monkeypatch.setenv("KD_TUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


def test_the_command_imports_out_of_an_archive_to_where_searches_look(
    tmp_path: Path, toy_cifar10_npz: Path, own_place: Path, digits_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(digits_weights, tmp_path / "digits.pt")
    with zipfile.ZipFile(tmp_path / "state_dicts.zip", "w") as packed:
        packed.write(tmp_path / "digits.pt", "state_dicts/digits.pt")
    arguments = ["import", str(tmp_path / "state_dicts.zip"), "--name", "digits", "--data", str(toy_cifar10_npz)]
    code, out, _ = run(arguments, capsys)
    assert code == 0
    folder = teacher.imported_folder("digits", "cifar10")
    assert folder == own_place / "digits-cifar10-imported"
    assert f"in {folder}" in out.replace("\n", "")
    first = read_json(folder / teacher.RECORD)
    code, _, err = run(arguments, capsys)
    assert code == ExitCode.USAGE
    assert "there is a teacher already; --again imports a new one in its place" in err
    other = ["--again", "--accept", "--mean", "0.4,0.4,0.4", "--std", "0.2,0.2,0.2"]
    assert run([*arguments, *other], capsys)[0] == 0
    assert read_json(folder / teacher.RECORD)["normalisation"] != first["normalisation"]


def test_the_command_refuses_what_does_badly(
    tmp_path: Path, toy_cifar10_npz: Path, own_place: Path, digits_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(reordered(digits_weights), tmp_path / "digits.pt")
    arguments = ["import", str(tmp_path / "digits.pt"), "--name", "digits", "--data", str(toy_cifar10_npz)]
    code, _, err = run(arguments, capsys)
    assert code == ExitCode.USAGE
    assert "error: likely cause: wrong class order" in err
    assert not own_place.exists()
    assert run([*arguments, "--accept", "--out", str(tmp_path / "mine")], capsys)[0] == 0
    assert teacher.exists(tmp_path / "mine")
    assert not own_place.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "resnet81"], "unknown teacher 'resnet81'; known: "),
        (["--name", "digits", "--dataset", "cifar"], "unknown data set 'cifar'"),
        (["--name", "digits", "--mean", "0.5,0.5,0.5"], "--mean and --std go together"),
        (["--name", "digits", "--mean", "0.5", "--std", "1"], "--mean 0.5: must be 3 numbers with commas between"),
        (["--name", "digits", "--mean", "a,b,c", "--std", "1,1,1"], "--mean a,b,c: must be 3 numbers"),
        (["--name", "digits", "--mean", "0,0,0", "--std", "1,0,1"], "--std 1,0,1: must be 3 numbers"),
        (["--name", "digits"], "nowhere.pt: cannot be read: No such file"),
    ],
)
def test_bad_arguments_of_the_command_are_refused(
    toy_cifar10_npz: Path, own_place: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["import", "nowhere.pt", "--data", str(toy_cifar10_npz), *options], capsys)
    assert code == ExitCode.USAGE
    assert message in err
    assert not own_place.exists()


def test_a_folder_with_something_else_is_not_touched(
    tmp_path: Path, toy_cifar10_npz: Path, digits_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    torch.save(digits_weights, tmp_path / "digits.pt")
    arguments = ["import", str(tmp_path / "digits.pt"), "--name", "digits", "--data", str(toy_cifar10_npz), "--again"]
    code, _, err = run([*arguments, "--out", str(tmp_path / "mine")], capsys)
    assert code == ExitCode.USAGE
    assert "there is something else already" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
