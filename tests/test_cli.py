"""Bad input through the commands: one clear message, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from kd_tune import cli, prepare, soft_targets, teacher
from kd_tune.catalog import build_network
from kd_tune.data import Dataset, npz
from kd_tune.errors import ExitCode
from kd_tune.paths import cache_folder
from tests.searches import ROOT, toy_search, write_search

Complaint = Callable[..., str]


def snapshot(*folders: Path) -> set[str]:
    return {str(path) for folder in folders if folder.exists() for path in folder.rglob("*")}


@pytest.fixture
def complaint(
    tmp_path: Path, toy_npz: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Complaint:
    """Runs a search that must be refused; returns what it said."""
    monkeypatch.chdir(tmp_path)

    def run(file: Path | str, *arguments: str, data: Path | None = toy_npz) -> str:
        before = snapshot(tmp_path, cache_folder())
        given = [] if data is None else ["--data", str(data)]
        with pytest.raises(SystemExit) as stop:
            cli.main(["search", str(file), *given, *arguments])
        output = capsys.readouterr()
        assert stop.value.code == ExitCode.USAGE
        assert "Traceback" not in output.err + output.out
        assert snapshot(tmp_path, cache_folder()) == before
        return output.err

    return run


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search.trials", 3, "search.trials: unknown key"),
        ("search.num_trails", 3, "did you mean 'num_trials'?"),
        ("trial.optimizr", {"name": "sgd"}, "did you mean 'optimizer'?"),
        ("search.num_trials", "many", "search.num_trials: 'many' must be a valid integer"),
        ("trial.training.num_epochs", 2.5, "trial.training.num_epochs: 2.5"),
        ("trial.objective.alpha", {"float": [1.0, 0.1]}, "the range is upside down or empty"),
        ("trial.objective.alpha", 1.2, "trial.objective.alpha: 1.2 must be less than or equal to 1"),
        ("trial.objective.alpha", {"float": [0.5, 1.2]}, "trial.objective.alpha: 1.2 must be less than or equal to 1"),
        ("trial.objective.temperature", 0, "trial.objective.temperature: 0 must be greater than 0"),
        ("trial.student.width", 0, "trial.student.width: 0 must be greater than 0"),
        ("trial.student.name", "studnet", "unknown student 'studnet'; known:"),
        ("trial.objective.name", "hintn", "did you mean 'hinton'?"),
        (
            "trial.dataset.name",
            "mnits",
            "unknown data set 'mnits'; known: cifar10, cifar100, fashion_mnist, image_folder, mnist",
        ),
        ("trial.training.views", 500, "trial.training.views: 500"),
        ("trial.training.batch_size", 100_000, "batch_size: 100000 is more than the"),
        ("search.points", [{"objective.alhpa": 0.5}], "objective.alhpa: no such parameter"),
        ("search.points", [{"objective.alpha": 2.0}], "objective.alpha: 2.0 is not in"),
        ("search.sampler", {"name": "grid"}, "a grid needs choices or steps"),
    ],
)
def test_a_bad_search_file_is_refused(
    complaint: Complaint, tmp_path: Path, path: str, value: Any, message: str
) -> None:
    assert message in complaint(write_search(tmp_path, toy_search(**{path: value})))


def test_a_duplicate_key_is_refused_with_its_line(complaint: Complaint, tmp_path: Path) -> None:
    file = write_search(tmp_path, toy_search())
    file.write_text(file.read_text() + "resources: {cpus_per_trial: 2}\n")
    last = len(file.read_text().splitlines())
    assert f"toy.yaml:{last} resources: this key is given twice" in complaint(file)


def test_several_problems_are_told_at_once(complaint: Complaint, tmp_path: Path) -> None:
    search = toy_search(**{"trial.objective.alpha": 7, "trial.student.width": -1, "trial.optimizer.lr": "fast"})
    assert complaint(write_search(tmp_path, search)).count("error: ") == 3


def test_a_missing_file_and_a_file_that_is_no_yaml_are_refused(complaint: Complaint, tmp_path: Path) -> None:
    assert "nowhere.yaml: cannot be read: No such file" in complaint("nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("search: [1, 2\ntrial: }")
    assert "broken.yaml:2: not YAML" in complaint(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": None}, "the keys train_labels are missing"),
        ({"train_labels": np.array([-1] * 120)}, "train_labels run from -1 to -1"),
        ({"train_labels": np.array([0.5] * 120)}, "must be whole numbers"),
        ({"train_images": np.zeros((120, 16, 16), np.float32)}, "must be uint8"),
        ({"train_images": np.zeros((120, 16, 20), np.uint8)}, "must be square"),
    ],
)
def test_bad_data_are_refused(complaint: Complaint, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {"train_images": np.zeros((120, 16, 16), np.uint8), "train_labels": np.arange(120) % 3} | change
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    assert message in complaint(write_search(tmp_path, toy_search()), data=path)


def test_missing_data_say_how_to_get_them(complaint: Complaint, tmp_path: Path) -> None:
    assert "no such file" in complaint(write_search(tmp_path, toy_search()), data=tmp_path / "no.npz")
    assert "needs --data FILE.npz" in complaint(write_search(tmp_path, toy_search()), data=None)
    search = toy_search(**{"trial.dataset.name": "cifar10", "trial.teacher.name": "compact"})
    assert "kd-tune data download cifar10" in complaint(write_search(tmp_path, search), data=tmp_path)


def make_teacher(folder: Path, dataset: Dataset, num_classes: int) -> None:
    """A teacher that was never trained."""
    architecture = {"name": "digits"}
    shape = {"num_classes": num_classes, "in_channels": dataset.in_channels, "image_size": dataset.image_size}
    record = {"architecture": architecture, "input": shape, "normalisation": dataset.normalisation}
    teacher.save(folder, build_network(architecture, **shape), record)


def test_a_teacher_with_other_classes_is_refused(complaint: Complaint, tmp_path: Path, toy_npz: Path) -> None:
    make_teacher(tmp_path / "teacher", npz(toy_npz), num_classes=7)
    search = toy_search(**{"trial.teacher.weights": str(tmp_path / "teacher")})
    assert "the teacher knows 7 classes, but npz has 3" in complaint(write_search(tmp_path, search))


def test_a_bank_of_another_teacher_is_refused(complaint: Complaint, tmp_path: Path, toy_npz: Path) -> None:
    dataset = npz(toy_npz)
    make_teacher(tmp_path / "teacher", dataset, num_classes=3)
    loaded = teacher.load(tmp_path / "teacher", dataset)
    bank = prepare.fill_bank(loaded, dataset, 2, Console(quiet=True))
    record = json.loads((bank / soft_targets.RECORD).read_text())
    del record["crc32"]  # of what was written
    (bank / soft_targets.RECORD).write_text(json.dumps(record | {"fingerprint": "another"}))
    search = toy_search(**{"trial.teacher.weights": str(tmp_path / "teacher")})
    assert f"{bank}: " in (said := complaint(write_search(tmp_path, search)))
    assert "another teacher" in said


def test_a_run_of_the_same_name_is_never_overwritten(complaint: Complaint, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    said = complaint(write_search(tmp_path, toy_search()), "--name", "mine")
    assert "runs/mine: there is a run of this name; take another --name, or go on with --resume runs/mine" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resume", "somewhere"),
        ("--extend", "3"),
        ("--max-hours", "-1"),
        ("--max-device-hours", "nan"),
        ("--set", "trial.training.num_epochs"),
        ("--set", "trial.nothing.num_epochs=3"),
        ("--name", "../outside"),
        ("--or-resume",),
        ("--resume", "runs/mine", "--or-resume"),
    ],
)
def test_bad_options_are_refused(complaint: Complaint, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "error: " in complaint(write_search(tmp_path, toy_search()), *arguments)


def test_what_is_no_run_cannot_be_resumed_or_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["search", "--resume", str(tmp_path)], ["analyze", str(tmp_path)]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == ExitCode.USAGE
        assert "no run here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist5k", "cifar10"])
def test_shipped_search_files_are_plain_yaml(name: str) -> None:
    assert set(yaml.safe_load((ROOT / "search_spaces" / f"{name}.yaml").read_text())) == {
        "search",
        "resources",
        "trial",
    }


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("kd_tune.trainable", "torch"),
        ("kd_tune.report", "torch ray"),
        ("kd_tune.results", "torch ray optuna matplotlib"),
        ("kd_tune.cli", "torch ray optuna matplotlib pandas"),
        ("kd_tune.host", "ray optuna matplotlib torchvision"),
        ("kd_tune.teacher_import", "ray optuna matplotlib torchvision"),
        ("kd_tune.export", "ray"),
        ("kd_tune.optuna_export", "torch ray"),
        ("kd_tune.proposals", "torch ray"),
    ],
)
def test_modules_load_only_what_they_need(modules: str, forbidden: str) -> None:
    check = f"import sys, {modules}; sys.exit(' '.join(set({forbidden.split()}) & set(sys.modules)) or 0)"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str, place: int) -> list[str]:
        asked = {"_KD_TUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        command = [sys.executable, "-c", "from kd_tune.cli import main; main(name='kd-tune')"]
        ended = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
        return ended.stdout.split()

    assert completed("kd-tune pl", 1) == ["plan"]
    assert completed("kd-tune search --max", 2) == ["--max-hours", "--max-device-hours"]
