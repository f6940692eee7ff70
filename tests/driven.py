"""Searches driven by hand, without Ray: the real searcher, scheduler and ledger under results that are made up.

What happens next follows from the run's state alone, so a search that was killed anywhere has to go on as if nothing
had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from kd_tune import records
from kd_tune.config import SearchConfig
from kd_tune.ledger import Recorder, Run, read_events
from kd_tune.ranges import Choice, FloatRange
from kd_tune.records import METRIC, derive_seed
from kd_tune.replay import MemoryRun
from kd_tune.run_state import Event, TrialState
from kd_tune.scheduler import Referee, RunScheduler, replay_verdicts
from kd_tune.searcher import RunSearcher, SearchProposer
from kd_tune.space import Draw, Space
from kd_tune.strata import Students
from tests.searches import toy_manifest

NUM_EPOCHS = 9
WIDTHS = [0.25, 0.5, 1.0]
SPACE = Space(
    {
        "student": {"name": "studentnet", "width": Choice(options=WIDTHS)},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": FloatRange(bounds=[1e-3, 1.0], log=True)},
    }
)
Value = Callable[[TrialState, int], float]


def students() -> Students:
    """Three sizes: as many thousands of parameters as four times the width."""
    return Students(lambda draw: int(4000 * draw["student.width"]), tuple({"student.width": width} for width in WIDTHS))


def wide_is_better(trial: TrialState, epoch: int) -> float:
    """Accuracy that rises with width, epoch and, up to 0.3, where training diverges, with the learning rate."""
    lr, width = trial.draw["optimizer.lr"], trial.draw["student.width"]
    return float("nan") if lr > 0.3 else 0.3 + 0.3 * width + 0.2 * lr + 0.1 * (1 - 1 / epoch)


def memory_run(quota: Mapping[str, int], strata: tuple[int, ...] = ()) -> MemoryRun:
    """A run without a folder, started."""
    run = MemoryRun()
    run.record(records.STARTED, quota=dict(quota), strata=strata)
    return run


class Driven:
    """One launch of a search.

    Args:
        run: new, or with a past.
        config: the `search` section.
        spaces: by arm.
        value: the made-up accuracy of a trial after an epoch.
        slots: trials at a time.
    """

    def __init__(
        self,
        run: Recorder,
        config: SearchConfig,
        spaces: Mapping[str, Space],
        value: Value = wide_is_better,
        slots: int = 3,
        past: list[Event] | None = None,
    ) -> None:
        self._run, self._seed, self._value, self._slots = run, config.seed, value, slots
        referee = Referee(config.scheduler, NUM_EPOCHS)
        replay_verdicts(run, referee, past or [])
        self._searcher = RunSearcher(run, SearchProposer(run, spaces, config, students()))
        self._scheduler = RunScheduler(run, referee)
        self._running: list[int] = []

    def step(self) -> bool:
        """Fills the slots, and lets one trial report an epoch; False when the search is done."""
        while len(self._running) < self._slots:
            proposal = self._searcher.suggest("")
            if not isinstance(proposal, dict):
                break
            self._running.append(proposal["number"])
        if not self._running:
            return False
        self._running.sort()
        done = sum(len(trial.rows) for trial in self._run.state.trials.values())
        self._report(self._running[derive_seed(self._seed, "next", done) % len(self._running)])
        return True

    def finish(self) -> None:
        """Steps until the search is done."""
        while self.step():
            pass

    def _report(self, number: int) -> None:
        trial = self._run.state.trials[number]
        epoch = trial.epoch + 1
        value = self._value(trial, epoch)
        result = {"epoch": epoch, METRIC: value, "diverged": value != value, "restored": False}
        stand_in = cast(Trial, SimpleNamespace(config={"number": number}))
        if self._scheduler.on_trial_result(None, stand_in, result) != TrialScheduler.CONTINUE:
            self._running.remove(number)


def launch(folder: Path, config: SearchConfig) -> tuple[Run, Driven]:
    """Starts a search over all of its arms in a folder, or goes on with the one that lies there."""
    run = Run(folder) if folder.exists() else Run.create(folder, "trial: {}\n", toy_manifest())
    driven = Driven(run, config, spaces_of(config), past=list(read_events(folder)))
    strata = students().edges() if config.goal == "front" else ()
    run.record(records.STARTED, quota=config.trials_by_arm(), strata=strata)
    return run, driven


def spaces_of(config: SearchConfig) -> dict[str, Space]:
    return {arm.name: SPACE for arm in config.arms}


def proposals_in(events: list[Event], arm: str) -> list[Draw]:
    return [event["draw"] for event in events if event["event"] == records.PROPOSED and event["arm"] == arm]
