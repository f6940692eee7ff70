"""What a person sees while work goes on: a live table or bar on a terminal, a line an event in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kd_tune import records
from kd_tune.records import STOP_REASONS
from kd_tune.run_state import Event, RunState, TrialState

LOG_SECONDS = 10.0
EPOCH_SECONDS = 30.0


class Advance:
    """Told how far a piece of work has come; shows it now and then.

    Args:
        console: where to.
        title: of the work.
        bar: a rich progress bar, on a terminal.
    """

    def __init__(self, console: Console, title: str, bar: Progress | None) -> None:
        self._console = console
        self._title = title
        self._bar = bar
        self._task = None if bar is None else bar.add_task(title, total=None)
        self._began = time.monotonic()
        self._first: int | None = None
        self._shown = self._began

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Work done so far and in all; what was done before the first call is not counted as this process's speed."""
        if self._first is None:
            self._first = done
            self._began = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=f"{self._title} {note}")
            return
        now = time.monotonic()
        if done < total and now - self._shown < LOG_SECONDS:
            return
        self._shown = now
        here = done - self._first
        eta = f", {duration((now - self._began) / here * (total - done))} left" if here and done < total else ""
        self._console.print(f"{self._title} {done}/{total}" + (f", {note}" if note else "") + eta)


@contextmanager
def progress(console: Console, title: str) -> Iterator[Advance]:
    """Progress with an ETA: a bar on a terminal, a line every few seconds otherwise."""
    if not console.is_terminal:
        yield Advance(console, title, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Advance(console, title, bar)


@contextmanager
def watching(console: Console, state: RunState, num_epochs: int, prunes: bool) -> Iterator[Watch]:
    """A watch over a search; on a terminal it holds a live table."""
    watch = Watch(console, state, num_epochs, prunes)
    if not console.is_terminal:
        yield watch
        return
    with Live(get_renderable=watch.render, console=console, refresh_per_second=2):
        yield watch


class Watch:
    """Follows a run's events.

    Args:
        console: where to show them.
        state: the run's, live.
        num_epochs: of a whole trial.
        prunes: whether trials may end before.
    """

    def __init__(self, console: Console, state: RunState, num_epochs: int, prunes: bool) -> None:
        self._console = console
        self._state = state
        self._num_epochs = num_epochs
        self._prunes = prunes
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
        if rare or not self._console.is_terminal:  # on a terminal the table says the rest
            line = self._line(event)
            if line:
                self._console.print(line)

    def eta_seconds(self) -> float | None:
        """Seconds to the end, from this launch's speed and the length of the trials that ended so far.

        None before there were as many epochs as trials that run: the first of all has no speed yet.
        """
        running = sum(trial.end is None for trial in self._state.trials.values())
        if self._epochs_here <= running:
            return None
        left = epochs_left(self._state, self._num_epochs, self._prunes)
        return left * (time.monotonic() - self._began) / self._epochs_here

    def render(self) -> RenderableType:
        """The live table: trials by state and the best so far, for every arm."""
        table = Table(box=None, pad_edge=False)
        for title in ("arm", "trials", "running", *STOP_REASONS, "best", "trial"):
            table.add_column(title, justify="left" if title == "arm" else "right", no_wrap=True)
        for name, trials, quota in self._groups():
            counts = [str(sum(trial.end == reason for trial in trials)) for reason in STOP_REASONS]
            running = sum(trial.end is None for trial in trials)
            best = best_trial(trials)
            shown = ("", "") if best is None else (f"{best.value:.2%}", f"{best.number}")
            table.add_row(name, f"{len(trials)}/{quota}", str(running), *counts, *shown)
        eta = self.eta_seconds()
        work = f"{self._epochs_here} epochs" if self._epochs_here else "starting workers"
        status = Text(f"{duration(time.monotonic() - self._began)} so far, {work}")
        status.append("" if eta is None else f", about {duration(eta)} left")
        return Group(table, status)

    def _groups(self) -> Iterator[tuple[str, list[TrialState], int]]:
        """Name, trials and number of trials wanted of every arm, or of its strata where it has some."""
        edges = self._state.strata
        for arm, quota in self._state.quota.items():
            trials = self._state.of_arm(arm)
            if not edges:
                yield arm, trials, quota
            for stratum, edge in enumerate(edges):
                mine = [trial for trial in trials if trial.stratum == stratum]
                share, rest = divmod(quota, len(edges))
                yield f"{arm} up to {edge:,}", mine, share + (stratum < rest)

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
        eta = self.eta_seconds()
        left = "" if eta is None else f", about {duration(eta)} left"
        error = f": {trial.error}" if trial.error else ""
        return (
            f"trial {trial.number:4d} {trial.end or 'goes on':9s} after {counted(trial.epoch, 'epoch')} at "
            f"{value}{news}{error} [{ended}/{sum(self._state.quota.values())} trials{left}]"
        )


def epochs_left(state: RunState, num_epochs: int, prunes: bool) -> float:
    """Epochs that a search still has to train, if trials to come are as long as those that ended.

    Args:
        state: the search's.
        num_epochs: of a whole trial.
        prunes: whether trials may end before; while none has ended, half of a trial is taken for typical then.
    """
    left = 0.0
    for arm, quota in state.quota.items():
        trials = state.of_arm(arm)
        ended = [trial.epoch for trial in trials if trial.end is not None]
        typical = sum(ended) / len(ended) if ended else num_epochs / (2 if prunes else 1)
        running = [trial.epoch for trial in trials if trial.end is None]
        # One that came further than most is trained to the end.
        left += sum((typical if epoch < typical else num_epochs) - epoch for epoch in running)
        left += typical * max(0, quota - len(trials))
    return left


def best_trial(trials: list[TrialState]) -> TrialState | None:
    """The trial with the best last value among those that did not fail or diverge; of equals the first."""
    return max(
        (trial for trial in trials if trial.usable), key=lambda trial: (trial.value, -trial.number), default=None
    )


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(count: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def short(value: object) -> str:
    """A parameter's value with as many digits as a person reads."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
