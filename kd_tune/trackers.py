"""MLflow and Weights & Biases: told of a search's trials by Ray's own callbacks, each launch as runs of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

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
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            found.append(MLflowLoggerCallback(self.mlflow, experiment_name=run, tags={"launch": launch}))
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


def _require(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise EnvironmentProblem(f"{option}: {package} is missing (pip install 'kd-tune[{package}]')")
