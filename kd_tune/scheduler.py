"""When to stop a trial: asynchronous successive halving, and the ends that every trial comes to."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from kd_tune import records
from kd_tune.config import SchedulerConfig
from kd_tune.ledger import Event, Run
from kd_tune.records import METRIC, StopReason, select_metrics
from kd_tune.rungs import rung_epochs


class Rungs:
    """Asynchronous successive halving, the stopping form (Li et al. 2020, arXiv:1810.05934).

    At each rung a trial goes on if fewer than 1 / reduction_factor of the trials seen there so far, or none, are better
    than it. Equal values are treated equally, and a trial that is seen again counts once.

    Args:
        epochs: of the rungs.
        reduction_factor: a rung keeps the best 1 / reduction_factor.
    """

    def __init__(self, epochs: tuple[int, ...], reduction_factor: int) -> None:
        self._factor = reduction_factor
        self._values: dict[int, dict[int, float]] = {epoch: {} for epoch in epochs}

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Takes a trial's value (larger is better); returns whether the trial goes on."""
        rung = self._values.get(epoch)
        if rung is None or trial in rung:
            return True
        rung[trial] = value
        num_better = sum(other > value for other in rung.values())
        return num_better < max(1, len(rung) / self._factor)


class Referee:
    """Says of every epoch whether the trial ends with it; the same in a live search and when a ledger is replayed.

    Args:
        config: the scheduler's section.
        arms: each has rungs of its own.
        num_epochs: epochs of a whole trial.
    """

    def __init__(self, config: SchedulerConfig, arms: tuple[str, ...], num_epochs: int) -> None:
        self.epochs = (
            rung_epochs(config.grace_period, config.reduction_factor, num_epochs) if config.name == "asha" else ()
        )
        self._num_epochs = num_epochs
        self._rungs = {arm: Rungs(self.epochs, config.reduction_factor) for arm in arms}

    def judge(self, arm: str, row: Event) -> StopReason | None:
        """Why the trial ends with this row (a ledger's epoch event), or None if it goes on."""
        if row["diverged"] or row[METRIC] is None:
            return "diverged"
        if row["epoch"] >= self._num_epochs:
            return "completed"
        return None if self._rungs[arm].report(row["trial"], row["epoch"], row[METRIC]) else "pruned"


def replay_verdicts(run: Run, referee: Referee, events: list[Event]) -> None:
    """Shows the referee every epoch of a run so far, and records ends that a killed launcher had no time to record."""
    for event in events:
        if event["event"] == records.EPOCH:
            trial = run.state.trials[event["trial"]]
            reason = referee.judge(trial.arm, event)
            if reason is not None and trial.end is None:
                run.record(records.STOPPED, trial=trial.number, reason=reason, epoch=event["epoch"])


class RunScheduler(FIFOScheduler):
    """Records every epoch that a trial reports, and stops it when the referee says so.

    Args:
        run: records epochs and ends.
        referee: has seen all earlier epochs of the run.
    """

    def __init__(self, run: Run, referee: Referee) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._referee = referee

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        known = self._run.state.trials[trial.config["number"]]
        row = select_metrics(result)
        epoch = row["epoch"]
        if result["restored"] and epoch in known.rows:
            # Reported before the trial's process died; the rows after it will be run again.
            return str(TrialScheduler.CONTINUE)
        attempt = known.attempt + (epoch <= known.latest)
        self._run.record(records.EPOCH, trial=known.number, attempt=attempt, **row)
        reason = self._referee.judge(known.arm, known.rows[epoch])
        if reason is None:
            return str(TrialScheduler.CONTINUE)
        self._run.record(records.STOPPED, trial=known.number, reason=reason, epoch=epoch)
        return str(TrialScheduler.STOP)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles schedulers into its snapshots, which kd_tune never reads
