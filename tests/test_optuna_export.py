"""A run as Optuna studies: states, curves and attributes are those of the ledger, and Optuna's tools read them."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import optuna
import pytest
import yaml
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState as OptunaState

from kd_tune import cli, results
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.ledger import Run
from kd_tune.optuna_export import export_studies
from tests.searches import toy_manifest, toy_search

ENDS = ["completed", "pruned", "diverged", "failed", None]
ARMS = ["distil", "cross_entropy", "label_smoothing"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms, each with two trials of every end; the pruned ones had one epoch, the others two."""
    folder = tmp_path_factory.mktemp("optuna") / "a run?"
    run = Run.create(folder, yaml.safe_dump(toy_search(**{"search.arms": ARMS})), toy_manifest())
    run.record("started", quota=dict.fromkeys(ARMS, 10))
    for number in range(30):
        end, arm = ENDS[number % 5], ARMS[number // 10]
        draw: dict[str, Any] = {"student.width": [0.25, 0.5][number % 2], "optimizer.lr": 0.01 * (1 + number % 10)}
        draw |= {
            "distil": {"objective.alpha": 0.1 + number / 100},
            "label_smoothing": {"objective.smoothing": 0.2},
        }.get(arm, {})
        run.record("proposed", trial=number, arm=arm, draw=draw)
        for epoch in range(1, 2 if end == "pruned" else 3):
            value = None if end == "diverged" and epoch == 2 else 0.5 + 0.01 * number
            metrics = {"val_accuracy": value, "seconds": 2.0, "num_parameters": 100}
            run.record("epoch", trial=number, attempt=0, epoch=epoch, **metrics)
        if end is not None:
            run.record("stopped", trial=number, reason=end, error="out of memory" if end == "failed" else None)
    run.close()
    return folder


@pytest.fixture(scope="module")
def studies(run_folder: Path) -> dict[str, optuna.Study]:
    database = run_folder.parent / "studies.db"
    names = export_studies(results.read(run_folder), database)
    assert names == [f"a run?/{arm}" for arm in ARMS]
    return dict(
        zip(ARMS, (optuna.load_study(study_name=n, storage=f"sqlite:///{database}") for n in names), strict=True)
    )


@pytest.mark.parametrize("arm", ARMS)
def test_trials_have_the_state_the_curve_and_the_parameters_of_the_ledger(
    arm: str, studies: dict[str, optuna.Study], run_folder: Path
) -> None:
    told, trials = studies[arm].trials, results.read(run_folder).state.of_arm(arm)
    states = [OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.PRUNED, OptunaState.FAIL, OptunaState.RUNNING]
    assert [trial.state for trial in told] == states * 2
    assert [trial.params for trial in told] == [trial.draw for trial in trials]
    completed, pruned, diverged, failed, running = told[:5]
    assert (completed.value, completed.intermediate_values) == (
        trials[0].value,
        {1: trials[0].value, 2: trials[0].value},
    )
    assert list(pruned.intermediate_values) == [1]
    assert [math.isnan(diverged.intermediate_values[epoch]) for epoch in (1, 2)] == [False, True]
    assert failed.user_attrs["error"] == "out of memory"
    assert running.datetime_complete is None
    for trial, one in zip(trials, told, strict=True):
        assert one.user_attrs.items() >= {"number": trial.number, "epochs": trial.epoch, "num_parameters": 100}.items()
        assert one.user_attrs["train_seconds"] == 2.0 * trial.epoch
        assert one.datetime_start is not None
    assert completed.duration is not None
    assert 1.9 <= completed.duration.total_seconds() < 60


@pytest.mark.parametrize(
    "plot",
    ["plot_optimization_history", "plot_intermediate_values", "plot_parallel_coordinate", "plot_param_importances"],
)
def test_optunas_pictures_can_be_drawn(plot: str, studies: dict[str, optuna.Study]) -> None:
    mpl.use("agg")
    with warnings.catch_warnings(), mpl.rc_context():  # Optuna sets a style for all that is drawn after it
        warnings.simplefilter("ignore", ExperimentalWarning)  # all of optuna.visualization.matplotlib is
        axes = getattr(optuna.visualization.matplotlib, plot)(studies["distil"])
    assert axes.get_title() or axes.get_title("left")
    plt.close("all")


def test_a_file_that_is_there_is_left_alone(run_folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.db"
    mine.write_text("my studies")
    with pytest.raises(ConfigError, match=r"mine\.db: there is something already; name a new file"):
        export_studies(results.read(run_folder), mine)
    assert mine.read_text() == "my studies"
    assert list(tmp_path.iterdir()) == [mine]


def test_the_command_says_how_to_look_at_the_studies(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "studies.db"
    with pytest.raises(SystemExit) as ended:
        cli.main(["analyze", str(run_folder), "--optuna", str(target)])
    assert ended.value.code == ExitCode.DONE
    assert f"optuna-dashboard sqlite:///{target}" in capsys.readouterr().out
    assert len(optuna.get_all_study_names(f"sqlite:///{target}")) == 3


def test_a_clock_set_back_ends_no_trial_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1e9 - 5 * number for number in range(8)])
    monkeypatch.setattr("kd_tune.ledger.time.time", lambda: next(times))
    run = Run.create(tmp_path / "run", yaml.safe_dump(toy_search()), toy_manifest())
    run.record("started", quota={"distil": 1})
    run.record("proposed", trial=0, arm="distil", draw={"optimizer.lr": 0.01})
    for epoch in (1, 2):
        run.record("epoch", trial=0, attempt=0, epoch=epoch, val_accuracy=0.5, seconds=1.0)
    run.record("stopped", trial=0, reason="completed")
    run.close()
    (name,) = export_studies(results.read(tmp_path / "run"), tmp_path / "studies.db")
    (trial,) = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/studies.db").trials
    assert trial.duration is not None
    assert trial.duration.total_seconds() >= 0
