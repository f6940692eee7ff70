"""How a search is getting on that runs elsewhere, or did: read from its ledger alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_tune import records
from kd_tune.advice import search_again
from kd_tune.errors import ConfigError
from kd_tune.glance import Course, Glance, Pace
from kd_tune.ledger import LOCK, fold, no_run, read_events, refuse_confirmation
from kd_tune.paths import is_held
from kd_tune.progress import duration
from kd_tune.run_setup import file_of
from kd_tune.run_state import Event, RunState
from kd_tune.scheduler import Referee


@dataclass(frozen=True)
class Status:
    """A run as its ledger has it now.

    Attributes:
        words: whether it runs, and if not, how it ended.
        runs: whether a process holds it.
        glance: at its trials.
    """

    words: str
    runs: bool
    glance: Glance


def read(folder: Path) -> Status:
    """Reads how a run is getting on.

    Raises:
        ConfigError: no search here, or a damaged one.
    """
    refuse_confirmation(folder, "name its search,")
    if not (folder / "ledger").is_dir():
        raise ConfigError(no_run(folder))
    file, runs = file_of(folder), is_held(folder / LOCK)
    events, state = list(read_events(folder)), RunState()
    fold(folder, state, events)
    begun = [place for place, event in enumerate(events) if event["event"] == records.STARTED]
    launch = events[begun[-1] :] if begun else []
    until = time.time() if runs else launch[-1]["time"] if launch else 0.0
    pace = Pace(
        sum(event["event"] == records.EPOCH for event in launch), max(0.0, until - launch[0]["time"]) if launch else 0.0
    )
    num_epochs = file.trial["training"]["num_epochs"]
    course = Course(num_epochs, tuple(Referee(file.search.scheduler, num_epochs).epochs))
    return Status(f"{folder}: {_words(folder, launch, runs)}", runs, Glance(state, course, pace))


def _words(folder: Path, launch: Sequence[Event], runs: bool) -> str:
    """Whether a run is running, by its last launch's events."""
    if not launch:
        return "being prepared" if runs else f"nothing was trained yet; {search_again(folder)}"
    last = launch[-1]
    if last["event"] == records.FINISHED:
        return "finished"
    if last["event"] == records.PAUSED:
        limit = f" by {last['limit']}" if last.get("limit") else ""
        return f"stopped{limit}; go on with: {search_again(folder)}"
    heard = f"heard of {duration(max(0.0, time.time() - last['time']))} ago"
    if runs:
        return f"running, last {heard}"
    return f"ended without a word, last {heard}; if it does not run elsewhere, go on with: {search_again(folder)}"
