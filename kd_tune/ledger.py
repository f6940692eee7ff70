"""The append-only record of a run, and the state of the run that it adds up to.

The ledger is the source of truth: JSON lines in numbered segments, each written and flushed before anything follows
from it. A launcher writes to a segment of its own, so a line that a killed one left half written is always a
segment's last, and readers pass over it. Every other line ends with a checksum of it and all lines before it, so that
one that was changed, lost or doubled is found when it is read. Folding the events gives the run's state, live and after
a crash by the same code.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from kd_tune import records
from kd_tune.errors import ConfigError, refused_by_system
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import exclusive, naming, write_json
from kd_tune.records import METRIC, STOP_REASONS, StopReason, finite_or_none

Event = dict[str, Any]
SEGMENT_LINES = 2000  # a megabyte: the last segment goes to a run's storage whole, every few seconds
SEGMENTS = "[0-9][0-9][0-9][0-9][0-9].jsonl"
SEAL = ', "crc32": "%08x"}'  # ends a line; of the line so far, and of all lines before it
SEAL_LENGTH = len(SEAL % 0)
SEARCH_FILE = "search.yaml"
KEPT_CHECKPOINTS = 5  # of each arm's (and stratum's) best trials; the others' are deleted when they end
PLAN = "plan.json"  # of a run that is the confirmation of another


# What the fold relies on; a ledger comes from a file.
_FIELD_TYPES: dict[str, dict[str, type]] = {
    records.STARTED: {"quota": dict},
    records.EXTENDED: {"num_trials": int},
    records.EXHAUSTED: {"arm": str},
    records.REOPENED: {"trials": list, "quota": dict},
    records.KNOWN: {"arm": str, "trial": int, "draw": dict, "values": list, "reason": str},
    records.PROPOSED: {"trial": int, "arm": str, "draw": dict},
    records.EPOCH: {"trial": int, "attempt": int, "epoch": int},
    records.SPARED: {"trial": int, "epoch": int},
    records.RETRIED: {"trial": int},
    records.STOPPED: {"trial": int, "reason": str},
}
_OPTIONAL_TYPES: dict[str, dict[str, type]] = {
    records.STARTED: {"strata": list},
    records.KNOWN: {"stratum": int, "spared_at": int},
    records.PROPOSED: {"repeat": int, "stratum": int, "never_pruned": bool},
    records.STOPPED: {"error": str},
}
_LARGE = 2.0**63  # beyond all whole numbers of a table


@dataclass
class TrialState:
    """A trial as the ledger has it.

    Attributes:
        number: in the order of proposals, over all arms.
        arm: the arm that it belongs to.
        draw: its parameters by name.
        repeat: trials of one repeat see the images in the same order and views; 0 for all of a search's own.
        stratum: the size of student that it competes with; 0 where a search has no strata.
        never_pruned: whether it is trained to the end whatever its rungs say, so that they can be judged by it.
        spared_at: the first epoch that would have pruned it, if it is never pruned.
        attempt: 0, and one more for every time that epochs had to be run again.
        rows: its epochs' metrics by epoch; of epochs that were run again, the last.
        latest: the epoch that was reported last; below an earlier one while epochs are run again.
        end: why it ended; None while it can go on.
        error: the last error, if it failed.
        failures: events of every time that it broke, over all launches.
        after_opening: whether it was proposed when the run had opened the test set.
    """

    number: int
    arm: str
    draw: dict[str, Any]
    repeat: int = 0
    stratum: int = 0
    never_pruned: bool = False
    spared_at: int | None = None
    attempt: int = 0
    rows: dict[int, Event] = field(default_factory=dict)
    latest: int = 0
    end: StopReason | None = None
    error: str | None = None
    failures: list[Event] = field(default_factory=list)
    after_opening: bool = False

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return max(self.rows, default=0)

    @property
    def value(self) -> float | None:
        """The metric of the last epoch (never the best one); None before the first and where it was not finite."""
        return self.rows[self.epoch].get(METRIC) if self.rows else None

    @property
    def seconds(self) -> float:
        """Training and validation of its epochs, as they say."""
        return sum(row.get("seconds") or 0.0 for row in self.rows.values())

    @property
    def usable(self) -> bool:
        """Whether the trial has a figure that may be compared: it neither failed nor diverged."""
        return self.value is not None and self.end not in ("failed", "diverged")


@dataclass
class RunState:
    """What a ledger adds up to.

    Attributes:
        trials: by number, in the order of proposals.
        quota: trials wanted, by arm.
        strata: the largest parameter count of every stratum of students; empty where all compete with each other.
        launches: how often a launcher opened the run.
        test_openings: events that opened the test set.
        known: trials of earlier runs by arm, which samplers are shown; they belong to no table and no quota.
    """

    trials: dict[int, TrialState] = field(default_factory=dict)
    quota: dict[str, int] = field(default_factory=dict)
    strata: tuple[int, ...] = ()
    launches: int = 0
    test_openings: list[Event] = field(default_factory=list)
    known: dict[str, list[TrialState]] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Folds one event in; kinds that change no state are passed over."""
        kind = event["event"]
        _check_fields(kind, event)
        if kind == records.STARTED:
            self.launches += 1
            self.quota = self.quota or dict(event["quota"])
            self.strata = self.strata or tuple(event.get("strata", ()))
        elif kind == records.EXTENDED:
            self.quota = {arm: count + event["num_trials"] for arm, count in self.quota.items()}
        elif kind == records.EXHAUSTED:
            self.quota[event["arm"]] = len(self.of_arm(event["arm"]))
        elif kind == records.REOPENED:
            self.quota = dict(event["quota"])
            for number in event["trials"]:
                self.trials[number].end = self.trials[number].error = None
        elif kind == records.KNOWN:
            self.known.setdefault(event["arm"], []).append(_known_trial(event))
        elif kind == records.PROPOSED:
            self.trials[event["trial"]] = TrialState(
                event["trial"],
                event["arm"],
                event["draw"],
                repeat=event.get("repeat", 0),
                stratum=event.get("stratum", 0),
                never_pruned=event.get("never_pruned", False),
                after_opening=bool(self.test_openings),
            )
        elif kind == records.EPOCH:
            trial = self.trials[event["trial"]]
            trial.attempt, trial.latest = event["attempt"], event["epoch"]
            trial.rows[event["epoch"]] = event
        elif kind == records.SPARED:
            self.trials[event["trial"]].spared_at = event["epoch"]
        elif kind == records.RETRIED:
            self.trials[event["trial"]].failures.append(event)
        elif kind == records.STOPPED:
            trial = self.trials[event["trial"]]
            trial.end, trial.error = event["reason"], event.get("error")
            if trial.end == "failed":
                trial.failures.append(event)
        elif kind == records.TEST_OPENED:
            self.test_openings.append(event)

    def of_arm(self, arm: str) -> list[TrialState]:
        """An arm's trials in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.arm == arm]

    def unfinished(self) -> list[TrialState]:
        """Trials that can go on, in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.end is None]

    def failed(self) -> list[TrialState]:
        """Trials that an error ended, in the order of proposals."""
        return [trial for trial in self.trials.values() if trial.end == "failed"]

    def num_missing(self) -> int:
        """Trials that were not proposed yet."""
        return max(0, sum(self.quota.values()) - len(self.trials))

    def num_left(self) -> int:
        """Trials that have not ended: those that can go on, and those that were not proposed yet."""
        return len(self.unfinished()) + self.num_missing()


def ranked(trials: Iterable[TrialState]) -> list[TrialState]:
    """Usable trials, best first; of equals the first.

    By their last value, whatever their epochs: under a schedule that ends at a small rate an early value is nearly a
    lower bound of the end's, and a trial that is never pruned reaches the end without having been good.
    """
    return sorted((trial for trial in trials if trial.usable), key=lambda trial: (-(trial.value or 0.0), trial.number))


def _check_fields(kind: str, event: Event) -> None:
    """Raises KeyError, TypeError or ValueError if an event is not what its kind must be."""
    for name, expected in _FIELD_TYPES.get(kind, {}).items():
        if type(event[name]) is not expected:
            raise TypeError(f"{name} must be of type {expected.__name__}")
    if kind == records.EPOCH:
        values = list(event.values())
        values.remove(kind)  # a text, and the only one
        _check_numbers(values)
        if event["epoch"] < 0:
            raise ValueError("epoch must not be below 0")
        return
    for name, expected in _OPTIONAL_TYPES.get(kind, {}).items():
        if event.get(name) is not None and type(event[name]) is not expected:
            raise TypeError(f"{name} must be of type {expected.__name__}")
    if kind in (records.PROPOSED, records.KNOWN):
        _check_numbers([value for value in event["draw"].values() if not isinstance(value, str)])
        _check_numbers([number for pair in event.get("values", ()) for number in pair])
    elif kind == records.STOPPED and event["reason"] not in STOP_REASONS:
        raise ValueError(f"reason must be one of {', '.join(STOP_REASONS)}")
    elif kind in (records.STARTED, records.REOPENED):
        _check_numbers([*event["quota"].values(), *event.get("strata", ()), *event.get("trials", ())])


def _check_numbers(numbers: list[Any]) -> None:
    """Raises TypeError or ValueError if one of some values is neither None nor a number that a table can hold.

    By the smallest and the largest of them, which is faster than asking each: there are millions.
    """
    try:
        if min(numbers, default=0) > -_LARGE and max(numbers, default=0) < _LARGE:
            return
    except TypeError:  # a value is None, or no number
        numbers = [number for number in numbers if number is not None]
    for number in numbers:  # a loss that diverges may be as large
        if not -_LARGE < number < _LARGE and (isinstance(number, int) or not math.isfinite(number)):
            raise ValueError("a number is not finite, or too large")


def _known_trial(event: Event) -> TrialState:
    return TrialState(
        event["trial"],
        event["arm"],
        event["draw"],
        stratum=event.get("stratum", 0),
        spared_at=event.get("spared_at"),
        rows={epoch: {"epoch": epoch, METRIC: value} for epoch, value in event["values"]},
        end=event["reason"],
    )


def read_events(folder: Path) -> Iterator[Event]:
    """Every whole event of a run's ledger, in order.

    Raises:
        ConfigError: a line that is not a segment's last is not an event, or not as it was written.
    """
    for events, _ in _read_segments(folder):
        yield from events


def _read_segments(folder: Path) -> Iterator[tuple[list[Event], int]]:
    """Every segment's events, and the checksum that the next line follows from."""
    checksum, before = 0, folder / "ledger"
    for segment in sorted((folder / "ledger").glob(SEGMENTS)):
        try:
            lines = segment.read_bytes().split(b"\n")
        except OSError as error:
            raise refused_by_system(error, segment) or ConfigError(f"{segment}: cannot be read: {error}") from None
        lines.pop()  # what follows the last line's end: nothing, or a line cut off by a kill
        lines, checksum = _without_seals(segment, lines, checksum, before)
        before = segment
        # Parsed as one, lines share the strings of their keys, which take more memory than their numbers.
        events = _parsed(b"[" + b",".join(lines) + b"]")
        if not isinstance(events, list) or len(events) != len(lines) or not all(map(_is_event, events)):
            number = next(number for number, line in enumerate(lines, start=1) if not _is_event(_parsed(line)))
            raise ConfigError(f"{segment}:{number}: not a ledger event; the file was changed or damaged")
        yield events, checksum


def _without_seals(segment: Path, lines: list[bytes], checksum: int, before: Path) -> tuple[list[bytes], int]:
    """Lines as JSON without their checksums, and the last one; a segment of before there were any is left as it is.

    Args:
        segment: for messages.
        lines: its own.
        checksum: that they follow from.
        before: the segment whose checksum that is, for messages.
    """
    mark, seal = SEAL.partition("%")[0].encode(), SEAL.encode()
    if not any(line[-SEAL_LENGTH:].startswith(mark) for line in lines):
        return lines, checksum
    contents = []
    for number, line in enumerate(lines, start=1):
        content = line[:-SEAL_LENGTH]
        checksum = zlib.crc32(content, checksum)
        if line[-SEAL_LENGTH:] != seal % checksum:
            lost = "lines before this one" if number > 1 else f"the last lines of {before}"
            raise ConfigError(
                f"{segment}:{number}: not a ledger event as it was written here; "
                f"the file was changed or damaged, or {lost} are missing"
            )
        contents.append(content + b"}")
    return contents, checksum


def _parsed(text: bytes) -> Any:
    """What JSON says; None if it is none."""
    try:
        return orjson.loads(text)  # two fifths of the seconds of the standard library's
    except orjson.JSONDecodeError:
        return None


def _is_event(parsed: Any) -> bool:
    return isinstance(parsed, dict) and isinstance(parsed.get("event"), str)


def replay(folder: Path) -> RunState:
    """The state of a run, from its ledger alone.

    Raises:
        ConfigError: no run here, or a damaged ledger.
    """
    return _replay(folder)[0]


def _replay(folder: Path) -> tuple[RunState, int]:
    """The state, and the checksum that the next line follows from."""
    if not (folder / "ledger").is_dir():
        raise ConfigError(no_run(folder))
    state, checksum = RunState(), 0
    for events, checksum in _read_segments(folder):  # noqa: B007 - the last one is returned
        for event in events:
            try:
                state.apply(event)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise ConfigError(f"{folder}: the ledger's event {event} cannot be followed: {error!r}") from None
    return state, checksum


class Recorder(Protocol):
    """What proposes and judges trials needs of a run."""

    @property
    def state(self) -> RunState:
        """What was recorded so far adds up to."""

    def record(self, event: str, **fields: Any) -> None:
        """Records an event and folds it into the state."""


class Run:
    """A run that this process writes: its folder, locked, and its state.

    Args:
        folder: the run's.

    Raises:
        ConfigError: no run here, or another launcher holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listeners: list[Callable[[Event, RunState], None]] = []
        if not (folder / "ledger").is_dir():
            raise ConfigError(no_run(folder))
        with ExitStack() as stack:
            busy = f"{folder}: another process is running this search; wait for it, or stop it"
            stack.enter_context(exclusive(folder / "lock", busy))
            self.state, self._checksum = _replay(folder)
            self._lock = stack.pop_all()
        self._segment: BinaryIO | None = None
        self._lines = 0

    @classmethod
    def create(cls, folder: Path, search_yaml: str, manifest: Manifest) -> Run:
        """Makes a new run.

        Raises:
            ConfigError: the name is taken; nothing is ever overwritten.
        """
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(already_there(folder)) from None
        except OSError as error:
            problem = refused_by_system(error, folder)
            raise problem or ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
        (folder / "ledger").mkdir()
        (folder / SEARCH_FILE).write_text(search_yaml, encoding="utf-8")
        write_json(folder / MANIFEST, manifest.model_dump())
        return cls(folder)

    def record(self, event: str, **fields: Any) -> None:
        """Writes an event, then folds it into the state and tells the listeners.

        Raises:
            EnvironmentProblem: the disk is full, or the ledger cannot be written any more; nothing was folded in.
        """
        content = finite_or_none({"event": event, "time": round(time.time(), 3), **fields})
        self._write(json.dumps(content, allow_nan=False)[:-1].encode())
        self.state.apply(content)
        for listener in self.listeners:
            listener(content, self.state)

    def _write(self, content: bytes) -> None:
        """Appends a line, or nothing: where only a part of it found room, the next one begins a new segment."""
        checksum = zlib.crc32(content, self._checksum)
        rest = content + (SEAL % checksum).encode() + b"\n"
        with naming(self.folder / "ledger"):
            try:
                if self._segment is None or self._lines >= SEGMENT_LINES:
                    self._next_segment()
                assert self._segment is not None
                while rest:  # a full disk takes a part first
                    rest = rest[self._segment.write(rest) :]
            except OSError:
                self._close_segment()
                raise
        self._lines += 1
        self._checksum = checksum

    def close(self) -> None:
        """Closes the ledger and lets other launchers in."""
        self._close_segment()
        self._lock.close()

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _next_segment(self) -> None:
        self._close_segment()
        numbers = [int(path.stem) for path in (self.folder / "ledger").glob(SEGMENTS)]
        path = self.folder / "ledger" / f"{max(numbers, default=-1) + 1:05d}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._segment = os.fdopen(descriptor, "wb", buffering=0)
        self._lines = 0


def checkpoints_of(run: Path, number: int) -> Path:
    """The folder of one trial's checkpoints, in the run's folder."""
    return run / "checkpoints" / f"{number:04d}"


def no_run(folder: Path) -> str:
    """What to say of a folder that is no run."""
    return f"{folder}: no run here (it has no ledger)"


def refuse_confirmation(folder: Path, instead: str) -> None:
    """Raises ConfigError if a run is the confirmation of a search: read as one, it would have no opening and no figure.

    Args:
        folder: the run's.
        instead: what to do with the search, whose folder is put behind it.
    """
    if (folder / PLAN).exists():
        raise ConfigError(f"{folder}: this is a confirmation; {instead} {folder.resolve().parent}")


def already_there(folder: Path) -> str:
    """What to say of a run's name that is taken."""
    return f"{folder}: there is a run of this name; take another --name, or go on with --resume {folder}"
