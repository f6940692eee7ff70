"""When a trial ends: the verdicts on its epochs, and what Ray is told of them."""

from __future__ import annotations

from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from kd_tune import records
from kd_tune.config import SchedulerConfig
from kd_tune.errors import ConfigError
from kd_tune.judges import SCHEDULERS, Judge
from kd_tune.ledger import Recorder
from kd_tune.records import METRIC, StopReason, select_metrics
from kd_tune.run_state import Event, TrialState

Verdict = StopReason | Literal["spared"]


class Referee:
    """Says of every epoch whether the trial ends with it; the same in a live search and when a ledger is replayed.

    Every arm and stratum has a judge of its own. A trial that is never pruned is compared like any other until it would
    have been pruned. From then on it is out of the comparison, so that the others' verdicts are what they would be
    without it.

    Args:
        config: the scheduler's section.
        num_epochs: epochs of a whole trial.
    """

    def __init__(self, config: SchedulerConfig, num_epochs: int) -> None:
        self._config = config
        self._num_epochs = num_epochs
        self._judges: dict[tuple[str, int], Judge] = {}
        self._judged: dict[int, int] = {}
        self._spared: set[int] = set()
        some_judge = self._new_judge()
        self.epochs = some_judge.epochs
        self.rule = some_judge.rule

    def judge(self, trial: TrialState, row: Event) -> Verdict | None:
        """The verdict on one of a trial's epochs.

        Args:
            trial: whose arm, stratum and `never_pruned` count.
            row: the epoch, as the ledger has it.

        Returns:
            Why the trial ends with it, `spared` if it was to be pruned for the first time, or None if it goes on.
        """
        epoch, value = row["epoch"], row[METRIC]
        if row["diverged"] or value is None:
            return "diverged"
        if epoch >= self._num_epochs:
            return "completed"
        if trial.number in self._spared or epoch <= self._judged.get(trial.number, 0):
            return None  # an epoch that was run again was judged the first time
        self._judged[trial.number] = epoch
        if self._judge_of(trial).report(trial.number, epoch, value):
            return None
        if not trial.never_pruned:
            return "pruned"
        self._spared.add(trial.number)
        return "spared"

    def _judge_of(self, trial: TrialState) -> Judge:
        group = trial.arm, trial.stratum
        if group not in self._judges:
            self._judges[group] = self._new_judge()
        return self._judges[group]

    def _new_judge(self) -> Judge:
        return SCHEDULERS[self._config.name](self._config, self._num_epochs)


def replay_verdicts(run: Recorder, referee: Referee, events: list[Event]) -> None:
    """Shows the referee every epoch of a run so far; records verdicts that a killed launcher had no time to record.

    Raises:
        ConfigError: an epoch lacks what a verdict needs.
    """
    for event in events:
        if event["event"] == records.EPOCH:
            trial = run.state.trials[event["trial"]]
            try:
                verdict = referee.judge(trial, event)
            except KeyError as error:
                raise ConfigError(f"the ledger's event {event} cannot be followed: {error!r}") from None
            known = trial.end if verdict != "spared" else trial.spared_at
            if verdict is not None and known is None:
                _record(run, verdict, trial, event["epoch"])


def _record(run: Recorder, verdict: Verdict, trial: TrialState, epoch: int) -> None:
    if verdict == "spared":
        run.record(records.SPARED, trial=trial.number, epoch=epoch)
    else:
        run.record(records.STOPPED, trial=trial.number, reason=verdict, epoch=epoch)


class RunScheduler(FIFOScheduler):
    """Records every epoch that a trial reports, and stops it when the referee says so.

    Args:
        run: records epochs and ends.
        referee: has seen all earlier epochs of the run.
    """

    def __init__(self, run: Recorder, referee: Referee) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._referee = referee

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        known = self._run.state.trials[trial.config["number"]]
        if note := result.get("note"):
            self._run.record(records.NOTED, trial=known.number, note=note)
        row = select_metrics(result)
        epoch = row["epoch"]
        if result["restored"] and epoch in known.rows:
            # Reported before the trial's process died; the rows after it will be run again.
            return str(TrialScheduler.CONTINUE)
        attempt = known.attempt + (epoch <= known.latest)
        self._run.record(records.EPOCH, trial=known.number, attempt=attempt, **row)
        verdict = self._referee.judge(known, known.rows[epoch])
        if verdict is not None:
            _record(self._run, verdict, known, epoch)
        return str(TrialScheduler.CONTINUE if verdict in (None, "spared") else TrialScheduler.STOP)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles schedulers into its snapshots, which kd_tune never reads
