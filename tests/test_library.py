"""kd_tune from Python: the example on `docs/library.md`, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import kd_tune
from kd_tune import library
from kd_tune.library import train_trial
from tests.searches import ROOT, toy_search

PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
QUIET = Console(quiet=True)
TRIAL: dict[str, Any] = toy_search()["trial"] | {
    "student": {"name": "studentnet", "width": 0.25},
    "objective": {"name": "hinton"},
    "optimizer": {"name": "sgd"},
}


def test_the_example_on_the_page_runs(
    toy_npz: Path,
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "images.npz").symlink_to(toy_npz)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)  # noqa: S102 our own page
    run, history = names["run"], names["history"]
    assert sorted(run.trials["arm"].value_counts().items()) == [("cross_entropy", 6), ("distil", 6)]
    assert list(history["epoch"]) == list(range(1, 7))
    assert names["logits"].shape == (4, 3)
    assert kd_tune.read_run("runs/first").trials.equals(run.trials)
    assert f"{run.trials['val_accuracy'].max():.6f}" in capsys.readouterr().out

    longer = kd_tune.resume_search("runs/first", extend=1, console=QUIET)
    assert len(longer.trials) == 14


def test_the_page_names_all_that_is_public() -> None:
    named = {name.partition("(")[0] for name in re.findall(r"^\| `kd_tune\.(\S+?)`? ?(?:\(|`|,)", PAGE, re.MULTILINE)}
    assert named == set(kd_tune.__all__) - {"__version__"}
    assert all(getattr(kd_tune, name).__doc__ for name in named)
    with pytest.raises(AttributeError, match="module 'kd_tune' has no attribute 'serach'"):
        _ = kd_tune.serach


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, kd_tune; kd_tune.__version__; print({'torch', 'ray', 'pandas'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.strip() == b"set()"


def test_the_same_seed_gives_the_same_student(toy_npz: Path) -> None:
    (first, one), (second, other) = (train_trial(TRIAL, data=toy_npz, seed=seed, console=QUIET) for seed in (1, 1))
    timing = ["seconds", "images_per_second"]
    assert first.drop(columns=timing).equals(second.drop(columns=timing))
    images = torch.rand(4, 1, 16, 16)
    assert torch.equal(one(images), other(images))
    third, _ = train_trial(TRIAL, data=toy_npz, seed=2, console=QUIET)
    assert not third["train_loss"].equals(first["train_loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"name": "sgd", "lr": {"float": [0.1, 0.2]}}}, "optimizer.lr: one trial has one value, not a"),
        ({"optimizer": {"name": "sdg"}}, "trial trial.optimizer.name: unknown optimizer 'sdg'"),
        ({"optimizer": None}, "trial"),
    ],
)
def test_a_trial_that_is_none_is_refused(change: dict[str, Any], message: str, toy_npz: Path) -> None:
    with pytest.raises(kd_tune.ConfigError, match=re.escape(message)):
        train_trial(TRIAL | change, data=toy_npz, console=QUIET)


def test_names_are_printed_as_they_are(
    toy_npz: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the commands do: brackets format nothing, and control characters do not reach the terminal."""

    def speak(_: object, __: object, ___: object, console: Console) -> dict[str, Any]:
        console.print("[/a] \x1b[31m")
        return {}

    monkeypatch.setattr(library, "prepare", speak)
    train_trial({**TRIAL, "objective": {"name": "cross_entropy"}}, data=toy_npz)
    said = capsys.readouterr().out
    assert "[/a] " in said
    assert "\x1b" not in said


def test_overrides_are_for_files() -> None:
    with pytest.raises(kd_tune.ConfigError, match="overrides are for a file; change the mapping itself"):
        kd_tune.run_search(toy_search(), "run", overrides=["search.seed=1"])
