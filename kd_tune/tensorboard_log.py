"""What TensorBoard shows of a run while it goes on: curves and hyperparameters of every trial, and the search itself.

Ray's own logger waits for the disk after every epoch of every trial (9 ms of the driver, of 14 that a result took), and
tells a trial's hyperparameters when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event as LoggedEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from kd_tune import records
from kd_tune.records import select_metrics
from kd_tune.run_state import Event, RunState, TrialState

FOLDER = "tensorboard"
SEARCH = "search"  # the run of TensorBoard that is about all trials together
FLUSH_SECONDS = 5
QUEUED = 1000  # events of a trial that wait for its writer's thread

_NOT_CURVES = frozenset(("epoch", "num_parameters", "multiply_adds", "diverged"))


class TensorBoardLog:
    """Writes what a run records for TensorBoard; a listener of the run.

    Args:
        folder: the run's.
        state: of the run, as it is now.
        rungs: epochs at which trials may be pruned.
    """

    def __init__(self, folder: Path, state: RunState, rungs: Sequence[int] = ()) -> None:
        self._folder = folder / FOLDER
        self._writers: dict[int, EventFileWriter] = {}
        self._attempts: dict[int, int] = {}
        self._search = _SearchCurves(self._folder / SEARCH, state, rungs)

    def __call__(self, event: Event, state: RunState) -> None:
        kind = event["event"]
        self._search(event, state)
        if kind == records.PROPOSED:
            self._writer_of(state.trials[event["trial"]])
        elif kind == records.EPOCH:
            self._write_epoch(event, state.trials[event["trial"]])
        elif kind == records.STOPPED and event["trial"] in self._writers:
            self._writers.pop(event["trial"]).close()

    def close(self) -> None:
        """Writes what is still queued."""
        self._search.close()
        while self._writers:
            self._writers.popitem()[1].close()

    def _write_epoch(self, event: Event, trial: TrialState) -> None:
        writer = self._writer_of(trial)
        if self._attempts.get(trial.number) != trial.attempt:
            self._attempts[trial.number] = trial.attempt
            _forget_from(event["epoch"], event["time"], writer)
        curves = {_tag(name): value for name, value in _curves(event).items()}
        _add(curves, event["epoch"], event["time"], writer)

    def _writer_of(self, trial: TrialState) -> EventFileWriter:
        """The open file of a trial; a new one begins with its hyperparameters."""
        if trial.number not in self._writers:
            folder = folder_of(self._folder, trial.number, trial.arm)
            writer = _writer(folder)
            writer.add_event(LoggedEvent(summary=hparams_pb(_hyperparameters(trial), trial_id=folder.name)))
            self._writers[trial.number] = writer
        return self._writers[trial.number]


def folder_of(logs: Path, number: int, arm: str) -> Path:
    """Where a trial's curves are in a run's folder of logs."""
    return logs / f"{number:04d}_{arm}"


@contextmanager
def writer_of(run: Path, number: int, arm: str) -> Iterator[EventFileWriter]:
    """Adds to what TensorBoard shows of a trial of a run."""
    writer = _writer(folder_of(run / FOLDER, number, arm))
    try:
        yield writer
    finally:
        writer.close()


class _SearchCurves:
    """Curves of the search itself, over the epochs that all trials have trained together.

    `best/ARM` is the highest last accuracy of its trials that have ended, `survivors/after_epoch_E` how many trials
    went on after the rung at epoch E, `trials/ended` how many have ended.
    """

    def __init__(self, folder: Path, state: RunState, rungs: Sequence[int]) -> None:
        trials = state.trials.values()
        self._epochs = sum(len(trial.rows) for trial in trials)
        self._best: dict[str, float] = {}
        for trial in trials:
            self._take_end(trial)
        self._ended = sum(trial.end is not None for trial in trials)
        self._beyond = {rung: {trial.number for trial in trials if trial.epoch > rung} for rung in rungs}
        self._writer, self._has_begun = _writer(folder), False

    def __call__(self, event: Event, state: RunState) -> None:
        if event["event"] == records.EPOCH:
            self._epochs += 1
            rung, number = event["epoch"] - 1, event["trial"]
            if number not in self._beyond.get(rung, {number}):
                self._beyond[rung].add(number)
                self._add({f"survivors/after_epoch_{rung:03d}": len(self._beyond[rung])}, event["time"])
        elif event["event"] == records.STOPPED:
            trial = state.trials[event["trial"]]
            self._take_end(trial)
            self._ended += 1
            best = {f"best/{trial.arm}": self._best[trial.arm]} if trial.arm in self._best else {}
            self._add({"trials/ended": self._ended, **best}, event["time"])

    def close(self) -> None:
        self._writer.close()

    def _take_end(self, trial: TrialState) -> None:
        if trial.end is not None and trial.usable and trial.value is not None:
            self._best[trial.arm] = max(trial.value, self._best.get(trial.arm, 0.0))

    def _add(self, curves: dict[str, float], time: float) -> None:
        if not self._has_begun:
            self._has_begun = True
            _forget_from(self._epochs, time, self._writer)
        _add(curves, self._epochs, time, self._writer)


def _writer(folder: Path) -> EventFileWriter:
    return EventFileWriter(str(folder), max_queue_size=QUEUED, flush_secs=FLUSH_SECONDS)


def _add(curves: dict[str, float], step: int, time: float, writer: EventFileWriter) -> None:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
    writer.add_event(LoggedEvent(wall_time=time, step=step, summary=Summary(value=values)))


def _forget_from(step: int, time: float, writer: EventFileWriter) -> None:
    """Lets TensorBoard forget what an earlier file of the same folder says of this step and later ones."""
    log = SessionLog(status=SessionLog.START)
    writer.add_event(LoggedEvent(wall_time=time, step=step, session_log=log))


def _hyperparameters(trial: TrialState) -> dict[str, Any]:
    about: dict[str, Any] = {"arm": trial.arm, "number": trial.number}
    if trial.repeat:
        about["repeat"] = trial.repeat
    plain = (bool, int, float, str)
    return about | {name: value if isinstance(value, plain) else str(value) for name, value in trial.draw.items()}


def _curves(event: Event) -> dict[str, float]:
    metrics = select_metrics(event)
    return {name: value for name, value in metrics.items() if name not in _NOT_CURVES and value is not None}


def _tag(name: str) -> str:
    """What is before the slash makes groups of charts."""
    if name.startswith("val_"):
        return f"validation/{name.removeprefix('val_')}"
    if name in ("seconds", "images_per_second"):
        return f"time/{name}"
    return f"train/{name.removeprefix('train_')}"
