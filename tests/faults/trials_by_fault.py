"""What the scripts of this folder share: rounds that are judged, limits that they run under, and the result file."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the helpers of the tests

SECONDS = 20.0  # that one round may take
MEMORY = 2**31  # bytes that a round may add to its process


class Hang(BaseException):
    """A round took too long; no handler of the code under test may catch it."""


@dataclass
class Tally:
    """What came of the rounds of one kind.

    Attributes:
        seconds: that one round may take.
        outcomes: how often each.
        wrong: what must not happen, with the round that repeats it.
        slowest: seconds of a round.
    """

    seconds: float = SECONDS
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def count(self, number: int, judge: Callable[[], str]) -> None:
        """Plays one round; `judge` returns its outcome, or raises what is wrong."""
        began = time.monotonic()
        outcome = self.check(number, judge)
        self.outcomes["wrong" if outcome is None else outcome] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    def check(self, number: int, judge: Callable[[], T]) -> T | None:
        """A further part of a round, which is no round of its own; None if something is wrong."""
        try:
            with limited(self.seconds):
                return judge()
        except (Exception, Hang) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.wrong.append(f"round {number}: {error!r:.400} ({Path(last.filename).name}:{last.lineno})")
            return None

    def summary(self) -> dict[str, Any]:
        return {
            "rounds": self.outcomes.total(),
            "outcomes": dict(sorted(self.outcomes.items())),
            "slowest_seconds": round(self.slowest, 2),
            "wrong": self.wrong[:20],
        }


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Hang in the body when its time is up."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limit_memory(added: int = MEMORY) -> None:
    """Lets this process, from now on, take so many bytes more than it has: what needs more raises a MemoryError."""
    pages, (_, most) = int(Path("/proc/self/statm").read_text().split()[0]), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + added, most))


@dataclass(frozen=True)
class Ended:
    """How a command did: its exit code, and what it printed."""

    code: int
    output: str


def command(arguments: list[str], log: Path, seconds: float = 120.0) -> Ended:
    """Runs a command of `kd-tune` in a process of its own, forked from this one, which has loaded what it needs.

    Raises:
        Hang: it did not end in time.
    """
    from kd_tune import cli

    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_REAL, 0)
        code = 1
        try:
            with log.open("w") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            limit_memory(2 * MEMORY)
            cli.main(arguments)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Hang(f"{arguments}: not done after {seconds} s: {log.read_text()[-500:]}")
        time.sleep(0.01)
    return Ended(os.waitstatus_to_exitcode(ended[1]), log.read_text(errors="replace"))


def judge_command(ended: Ended, accepted: str) -> str:
    """The outcome of a command that was given something bad: refused with a message, or else done.

    Raises:
        AssertionError: a traceback, a message that names nothing, or another exit code.
    """
    assert "Traceback" not in ended.output, ended.output[-600:]
    assert ended.code in (0, 2, 3), f"exit code {ended.code}: {ended.output[-600:]}"
    if ended.code:
        assert "error: " in ended.output, ended.output[-600:]
        return "refused"
    return accepted


def parser_of(text: str | None, count: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"rounds of each kind [default: {count}]")
    parser.add_argument("--seed", type=int, default=0, help="of all rounds [default: 0]")
    parser.add_argument("--only", action="append", help="one kind alone; may be given again")
    return parser


def keep(script: str, tallies: dict[str, Tally], seed: int) -> None:
    """Prints counts, and writes them beside the script; of kinds that were not played now, that file keeps its own."""
    path = Path(script).with_suffix(".json")
    kinds = json.loads(path.read_text()) if path.exists() else {}
    for name, tally in tallies.items():
        kinds[name] = tally.summary() | {"seed": seed}
        print(f"{name}: {kinds[name]}", flush=True)
    path.write_text(json.dumps(kinds, indent=2) + "\n")


def finish(tallies: dict[str, Tally]) -> NoReturn:
    """Ends the process: with 1 if anything was wrong."""
    sys.exit(any(tally.wrong for tally in tallies.values()))
