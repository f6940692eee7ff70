"""What Tune is asked to call back: why trials broke, and whether a launch is to end."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from kd_tune import records
from kd_tune.errors import EnvironmentProblem, refused_by_system
from kd_tune.failures import LOST, NODE_GONE, PROCESS_DIED, UNREACHABLE, environment_said, explain
from kd_tune.ledger import Run, checkpoints_of
from kd_tune.limits import Allowance
from kd_tune.mirror import storage_of
from kd_tune.storage import Storage
from kd_tune.watchdog import take_mark

RECENT_SECONDS = 60.0  # after a node was lost, in which Ray tells of all that was on it


class Losses:
    """Nodes that a cluster loses.

    Where a process has gone with its node, Ray knows at first only that its connection broke.

    Args:
        nodes: says what `ray.nodes` does.
        patience: seconds that a cluster may take to notice (14 of a raylet that was killed); a machine by itself, which
            is this one, cannot go.
    """

    def __init__(self, nodes: Callable[[], list[dict[str, Any]]], patience: float = 30.0) -> None:
        self._nodes = nodes
        self._patience = patience
        self._gone = self._look()[0]
        self._noticed = -math.inf

    def just_now(self) -> bool:
        """Whether a node was lost within a minute, or is within the patience."""
        deadline = time.monotonic() + self._patience
        while True:
            gone, left = self._look()
            if gone - self._gone:
                self._gone, self._noticed = gone, time.monotonic()
            if time.monotonic() - self._noticed < RECENT_SECONDS:
                return True
            if left == 1 or time.monotonic() > deadline:
                return False
            time.sleep(0.25)

    def _look(self) -> tuple[set[str], int]:
        """Nodes that have gone, and how many are there."""
        nodes = self._nodes()
        return {node["NodeID"] for node in nodes if not node["Alive"]}, sum(node["Alive"] for node in nodes)


class FailureRecorder(Callback):
    """Records why trials broke: those that start again, and those that have done so too often.

    To Ray a trial that broke has ended; the searcher gives it again, unless its end is recorded. What Ray starts again
    by itself is what a cluster said that it would take away. A trial whose machine or storage is at fault has not
    failed: the others would follow it one by one, so the search stops.

    Args:
        run: records it.
        max_failures: times that a trial starts again; one that was lost always does.
        losses: of the cluster.

    Attributes:
        problem: what is wrong with a machine or a storage, once it is known.
    """

    def __init__(self, run: Run, max_failures: int, losses: Losses) -> None:
        self._run = run
        self._max_failures = max_failures
        self._failures: Counter[int] = Counter()
        self._losses = losses
        self.problem: str | None = None

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._record(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._record(trial)

    def _record(self, trial: Trial) -> None:
        state, said = self._run.state.trials[trial.config["number"]], _said(trial)
        in_hand = take_mark(self._place_of_mark(state.number))
        if (problem := environment_said(said)) is not None:
            self.problem = self.problem or problem
            return
        if state.end is not None:  # it broke when it was told to stop
            return
        failure = explain(said, in_hand)
        if failure == UNREACHABLE:
            failure = NODE_GONE if self._losses.just_now() else PROCESS_DIED
        self._failures[state.number] += failure.what != LOST
        told = {"trial": state.number, "epoch": state.epoch, **failure._asdict()}
        if self._failures[state.number] > self._max_failures:
            self._run.record(records.STOPPED, reason="failed", **told)
        else:
            self._run.record(records.RETRIED, **told)

    def _place_of_mark(self, number: int) -> Path | Storage:
        storage = storage_of(self._run.folder)
        if storage is None:
            return checkpoints_of(self._run.folder, number)
        return storage.child(*checkpoints_of(Path(), number).parts)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks into its snapshots, which kd_tune never reads


class LaunchStopper(Stopper):
    """Ends Tune's loop at a limit, or where nothing can be trained any more; trials that run then have no end in the
    ledger, and go on with the next launch."""

    def __init__(self, allowance: Allowance, failures: FailureRecorder, room: Callable[[], int]) -> None:
        self._allowance = allowance
        self._failures = failures
        self._room = room

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._room()  # also when there is nothing left to propose, for the record
        return self._failures.problem is not None or self._allowance.reached() is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles stoppers into its snapshots, which kd_tune never reads


def environment_behind(error: BaseException | None) -> EnvironmentProblem | None:
    """What the operating system refused the ledger or Ray's own files, which Tune wraps; None if it was something else.

    Tune raises a text in its place, while the error is still being handled.
    """
    while error is not None:
        if isinstance(error, EnvironmentProblem):
            return error
        if isinstance(error, OSError) and (problem := refused_by_system(error)) is not None:
            return problem
        error = error.__cause__ or error.__context__
    return None


def _said(trial: Trial) -> str:
    """What Ray wrote of a trial's last failure."""
    path = trial.error_file
    said = "" if path is None else Path(path).read_text(encoding="utf-8", errors="replace")
    return re.split(r"^Failure # \d+ \(occurred at .*\)$", said, flags=re.MULTILINE)[-1]
