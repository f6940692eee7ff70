"""MLflow and Weights & Biases: told of trials by Ray's own callbacks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import ray.air.integrations.wandb
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console

from kd_tune.errors import EnvironmentProblem, ExitCode
from kd_tune.search import Launch, resume, start
from kd_tune.search_file import load_search_file
from kd_tune.trackers import Trackers, name_for_mlflow, problem_behind
from tests.searches import toy_search, write_search

QUIET = Console(quiet=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_mlflow_has_every_trial_with_its_parameters_and_curve(tmp_path: Path, toy_npz: Path, ray_cluster: None) -> None:
    objective = {"choice": [{"name": "hinton", "alpha": {"float": [0.1, 1.0]}, "temperature": 4.0}]}
    raw = toy_search(**{"search.num_trials": 3, "trial.objective": objective})
    file = load_search_file(write_search(tmp_path, raw))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    state = start(file, tmp_path / "toy", Launch(source=toy_npz, trackers=Trackers(mlflow=uri)), QUIET)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    told = {int(run.data.params["number"]): run for run in client.search_runs([experiment.experiment_id])}
    assert told.keys() == state.trials.keys()
    for number, trial in state.trials.items():
        assert float(told[number].data.params["optimizer.lr"]) == pytest.approx(trial.draw["optimizer.lr"])
        alpha = told[number].data.params["objective/hinton.alpha"]
        assert float(alpha) == pytest.approx(trial.draw["objective[hinton].alpha"])
        curve = client.get_metric_history(told[number].info.run_id, "val_accuracy")
        assert {point.step: point.value for point in curve} == {
            epoch: pytest.approx(row["val_accuracy"]) for epoch, row in trial.rows.items()
        }
        assert not [name for name in told[number].data.metrics if name.startswith("config")]
        assert told[number].info.status == "FINISHED"
        assert told[number].data.tags["launch"] == "1"


def test_weights_and_biases_gets_project_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ray.air.integrations.wandb, "WandbLoggerCallback", lambda **options: given.append(options))
    assert Trackers(wandb="students").callbacks("toy", 2) == [None]
    assert given == [{"project": "students", "group": "toy", "job_type": "launch 2"}]


@pytest.mark.parametrize(("package", "trackers"), [("mlflow", Trackers("x")), ("wandb", Trackers(wandb="x"))])
def test_a_missing_package_is_said_before_any_work(
    package: str, trackers: Trackers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    file = load_search_file(write_search(tmp_path, toy_search()))
    message = rf"--{package} x: {package} is missing \(pip install 'kd-tune\[{package}\]'\)"
    for call in (
        lambda: start(file, tmp_path / "run", Launch(trackers=trackers), QUIET),
        lambda: resume(tmp_path, Launch(trackers=trackers), QUIET),
    ):
        with pytest.raises(EnvironmentProblem, match=message) as caught:
            call()
        assert caught.value.code == ExitCode.ENVIRONMENT
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////dev/null/x.db"])
def test_a_store_that_cannot_be_opened_is_said(uri: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"--mlflow {uri}: "):
        Trackers(mlflow=uri).check()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("objective.alpha", "objective.alpha"),
        ("objective[mixed_target].alpha", "objective/mixed_target.alpha"),
        ("student[acme.nets:small].width", "student/acme.nets:small.width"),
        ("teacher[(a)].x", "teacher/_a_.x"),
    ],
)
def test_parameters_have_names_that_mlflow_takes(path: str, name: str) -> None:
    assert name_for_mlflow(path) == name


def test_what_a_tracker_complains_of_later_is_told_from_other_errors() -> None:
    try:
        try:
            raise MlflowException("the server is gone")
        except MlflowException:
            raise RuntimeError("as Tune does")  # noqa: B904
    except RuntimeError as error:
        problem = problem_behind(error)
    assert str(problem) == "mlflow: the server is gone; go on without --mlflow, or when it is mended"
    assert problem_behind(RuntimeError("another")) is None
    assert problem_behind(None) is None
