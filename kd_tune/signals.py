"""Ctrl-C and SIGTERM: the first lets a command stop so that it can go on later, a second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from kd_tune.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_WISH_SECONDS = 1.0  # a shell and a terminal may both hand on one Ctrl-C
SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides


def interrupt() -> None:
    """Raises KeyboardInterrupt, as Python's own handler of SIGINT does."""
    raise KeyboardInterrupt


def end_at_once() -> None:
    """Ends this process with 130 as if it were killed: what Ray started here follows it, and a run can be resumed."""
    cursor = SHOW_CURSOR if sys.stdout.isatty() else ""
    _say(f"{cursor}ended at once; what was recorded stays\n")
    os._exit(ExitCode.ENDED_AT_ONCE)


def _say(text: str) -> None:
    """Writes to standard error, unless nobody is there: `tee` ends of the same Ctrl-C."""
    with suppress(OSError):
        os.write(2, text.encode())


class Stop:
    """A handler of both signals.

    Args:
        again: called at a second signal, unless it follows the first within a second.

    Attributes:
        gently: called at the first one.
        asked: whether there was one.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self.gently: Callable[[], None] = interrupt
        self._again = again
        self._since: float | None = None

    @property
    def asked(self) -> bool:
        return self._since is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            _say("\nstopping; once more ends it at once\n")
            self.gently()
        elif now - self._since >= SAME_WISH_SECONDS:
            self._again()


@contextmanager
def handled(again: Callable[[], None]) -> Iterator[Stop]:
    """Handles both signals for a while; one that this process was started to ignore stays ignored.

    Within another `handled`, and in threads that get no signals, nothing is changed.

    Args:
        again: what a second signal does.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    outer = before[signal.SIGTERM]
    if isinstance(outer, Stop) or threading.current_thread() is not threading.main_thread():
        yield outer if isinstance(outer, Stop) else Stop(again)
        return
    stop = Stop(again)
    with kept():
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield stop


@contextmanager
def kept() -> Iterator[None]:
    """Puts both signals' handlers back, whatever others make of them meanwhile.

    `ray.init` takes SIGTERM, and `ray.shutdown` leaves it to the system, which ends the process.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
