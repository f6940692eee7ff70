"""What TensorBoard shows of a run while it goes on: a curve and the hyperparameters of every trial.

Ray's own logger waits for the disk after every epoch of every trial (9 ms of the driver, of 14 that a result took), and
tells a trial's hyperparameters when it has ended.
"""

from __future__ import annotations

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
FLUSH_SECONDS = 5
QUEUED = 1000  # events of a trial that wait for its writer's thread

_NOT_CURVES = frozenset(("epoch", "num_parameters", "multiply_adds", "diverged"))


class TensorBoardLog:
    """Writes what a run records for TensorBoard; a listener of the run.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._writers: dict[int, EventFileWriter] = {}
        self._attempts: dict[int, int] = {}

    def __call__(self, event: Event, state: RunState) -> None:
        kind = event["event"]
        if kind == records.PROPOSED:
            self._writer_of(state.trials[event["trial"]])
        elif kind == records.EPOCH:
            self._write_epoch(event, state.trials[event["trial"]])
        elif kind == records.STOPPED and event["trial"] in self._writers:
            self._writers.pop(event["trial"]).close()

    def close(self) -> None:
        """Writes what is still queued."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _write_epoch(self, event: Event, trial: TrialState) -> None:
        writer, about = self._writer_of(trial), {"wall_time": event["time"], "step": event["epoch"]}
        if self._attempts.get(trial.number) != trial.attempt:  # what an earlier one wrote from here on is forgotten
            self._attempts[trial.number] = trial.attempt
            writer.add_event(LoggedEvent(**about, session_log=SessionLog(status=SessionLog.START)))
        values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in _curves(event).items()]
        writer.add_event(LoggedEvent(**about, summary=Summary(value=values)))

    def _writer_of(self, trial: TrialState) -> EventFileWriter:
        """The open file of a trial; a new one begins with its hyperparameters."""
        if trial.number not in self._writers:
            folder = self._folder / f"{trial.number:04d}_{trial.arm}"
            writer = EventFileWriter(str(folder), max_queue_size=QUEUED, flush_secs=FLUSH_SECONDS)
            writer.add_event(LoggedEvent(summary=hparams_pb(_hyperparameters(trial), trial_id=folder.name)))
            self._writers[trial.number] = writer
        return self._writers[trial.number]


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
