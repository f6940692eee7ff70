"""What a person sees while a search runs: a live view of it on a terminal, a line an event in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from kd_tune import records
from kd_tune.glance import Course, Glance, Pace
from kd_tune.progress import counted, duration, short
from kd_tune.run_state import Event, RunState, TrialState

EPOCH_SECONDS = 30.0


@contextmanager
def watching(console: Console, state: RunState, course: Course) -> Iterator[Watch]:
    """A watch over a search; on a terminal it holds a live view."""
    watch = Watch(console, state, course)
    if not console.is_terminal:
        yield watch
        return
    console.print()
    with Live(get_renderable=watch.glance, console=console, refresh_per_second=2):
        yield watch


class Watch:
    """Follows a run's events.

    Args:
        console: where to show them.
        state: the run's, live.
        course: of its trials.
    """

    def __init__(self, console: Console, state: RunState, course: Course) -> None:
        self._console = console
        self._state = state
        self._course = course
        self._began = time.monotonic()
        self._epochs_here = 0
        self._shown = self._began
        self._best: dict[tuple[str, int], float] = {}  # by arm and stratum
        for trial in state.trials.values():
            if trial.end and trial.usable:
                self._is_best_so_far(trial)

    def __call__(self, event: Event, state: RunState) -> None:
        """Listens to a run: counts epochs, and in a log prints what a person would want to know."""
        self._epochs_here += event["event"] == records.EPOCH
        rare = event["event"] in (records.RETRIED, records.EXHAUSTED, records.NOTED, records.PLACES)
        rare |= event.get("reason") == "failed"
        if rare or not self._console.is_terminal:  # on a terminal the view says the rest
            line = self._line(event)
            if line:
                self._console.print(line)

    def glance(self) -> Glance:
        """What a terminal shows."""
        return Glance(self._state, self._course, Pace(self._epochs_here, time.monotonic() - self._began))

    def _is_best_so_far(self, trial: TrialState) -> bool:
        """Whether a trial that was completed is the best so far of its arm and stratum; it is then the one to beat."""
        group = trial.arm, trial.stratum
        if trial.end != "completed" or trial.value is None or trial.value <= self._best.get(group, 0.0):
            return False
        self._best[group] = trial.value
        return True

    def _line(self, event: Event) -> str | None:
        if event["event"] == records.PROPOSED:
            drawn = " ".join(f"{name}={short(value)}" for name, value in event["draw"].items())
            return f"trial {event['trial']:4d} starts   {event['arm']}: {drawn}"
        if event["event"] == records.RETRIED:
            return f"trial {event['trial']:4d} broke and starts again from its last checkpoint: {event['error']}"
        if event["event"] == records.NOTED:
            return f"note: {event['note']}"
        if event["event"] == records.EXHAUSTED:
            return f"{event['arm']} ends with {event['trials']} trials: {event['why']}"
        if event["event"] == records.PLACES:
            return f"nodes came or went: {event['slots']} places now"
        if event["event"] == records.SPARED:
            epochs = counted(event["epoch"], "epoch")
            return f"trial {event['trial']:4d} would be pruned after {epochs}, but is trained to the end"
        if event["event"] not in (records.STOPPED, records.EPOCH):
            return None
        now = time.monotonic()
        if event["event"] == records.EPOCH and now - self._shown < EPOCH_SECONDS:
            return None  # a sign of life now and then, not a line an epoch
        self._shown = now
        trial = self._state.trials[event["trial"]]
        value = "no figure" if trial.value is None else f"{trial.value:.2%}"
        size = " at its size" if self._state.strata else ""
        news = f", the best of {trial.arm}{size} so far" if self._is_best_so_far(trial) else ""
        ended = sum(other.end is not None for other in self._state.trials.values())
        eta = self.glance().pace.seconds_left(self._state, self._course)
        left = "" if eta is None else f", about {duration(eta)} left"
        error = f": {trial.error}" if trial.error else ""
        return (
            f"trial {trial.number:4d} {trial.end or 'goes on':9s} after {counted(trial.epoch, 'epoch')} at "
            f"{value}{news}{error} [{ended}/{sum(self._state.quota.values())} trials{left}]"
        )
