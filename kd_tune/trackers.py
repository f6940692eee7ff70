"""MLflow and Weights & Biases: told of a search's trials by Ray's own callbacks, each launch as runs of its own."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from ray.tune import Callback

from kd_tune.errors import EnvironmentProblem


@dataclass(frozen=True)
class Trackers:
    """Who is told of trials beside the ledger and TensorBoard.

    Attributes:
        mlflow: a tracking URI, such as `sqlite:///mlflow.db` or `http://127.0.0.1:5000`; the experiment is named as the
            run.
        wandb: a project of Weights & Biases; the group is named as the run.
    """

    mlflow: str | None = None
    wandb: str | None = None

    def callbacks(self, run: str, launch: int) -> list[Callback]:
        """What tells them.

        Args:
            run: the name of the run.
            launch: how often it was launched, with this one.
        """
        found: list[Callback] = []
        if self.mlflow is not None:
            found.append(_mlflow_callback(self.mlflow, run, launch))
        if self.wandb is not None:
            from ray.air.integrations.wandb import WandbLoggerCallback

            found.append(WandbLoggerCallback(project=self.wandb, group=run, job_type=f"launch {launch}"))
        return found

    def check(self) -> None:
        """Raises EnvironmentProblem if a package is missing or a store cannot be opened, before any work is done."""
        for package, option, value in (("mlflow", "--mlflow", self.mlflow), ("wandb", "--wandb", self.wandb)):
            if value is not None:
                _require(package, f"{option} {value}")
        if self.mlflow is not None:
            from mlflow import MlflowClient

            try:
                MlflowClient(self.mlflow).search_experiments(max_results=1)
            except Exception as error:  # whatever the driver of a database raises, beside MLflow's own
                raise EnvironmentProblem(f"--mlflow {self.mlflow}: {str(error).strip()}") from None


NO_TRACKERS = Trackers()


def problem_behind(error: BaseException | None) -> EnvironmentProblem | None:
    """What a tracker complained of while trials were trained; None if it was something else."""
    while error is not None:
        package = type(error).__module__.partition(".")[0]
        if package in ("mlflow", "wandb"):
            return EnvironmentProblem(f"{package}: {error}; go on without --{package}, or when it is mended")
        error = error.__cause__ or error.__context__
    return None


def _mlflow_callback(uri: str, run: str, launch: int) -> Callback:
    """Ray's callback, with names of parameters that MLflow takes; they are no metrics as well."""
    from ray.air._internal.mlflow import _MLflowLoggerUtil
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Named(_MLflowLoggerUtil):
        def log_params(self, params_to_log: dict[str, Any], run_id: str | None = None) -> None:
            super().log_params({name_for_mlflow(name): value for name, value in params_to_log.items()}, run_id)

        def log_metrics(self, step: int, metrics_to_log: dict[str, Any], run_id: str | None = None) -> None:
            metrics = {name: value for name, value in metrics_to_log.items() if name != "config"}
            super().log_metrics(step, metrics, run_id)

    callback = MLflowLoggerCallback(uri, experiment_name=run, tags={"launch": launch})
    callback.mlflow_util = Named()  # type: ignore[no-untyped-call]
    return callback


def name_for_mlflow(path: str) -> str:
    """`objective[hinton].alpha` as `objective/hinton.alpha`: MLflow takes letters, digits and `_-. :/`."""
    return re.sub(r"[^\w\-. :/]", "_", path.replace("[", "/").replace("]", ""))


def _require(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise EnvironmentProblem(f"{option}: {package} is missing (pip install 'kd-tune[{package}]')")
