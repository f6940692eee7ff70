"""How far a piece of work has come, with an ETA; times, counts and numbers as people read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LOG_SECONDS = 10.0


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
