"""The append-only record of a run: written, and read again.

The ledger is the source of truth: JSON lines in numbered segments, each written and flushed before anything follows
from it. A launcher writes to a segment of its own, so a line that a killed one left half written is always a
segment's last, and readers pass over it. Every other line ends with a checksum of it and all lines before it, so that
one that was changed, lost or doubled is found when it is read. What is proposed, and how it ends, is on the disk before
it is acted upon; epochs that a machine takes along when it loses its power are in the checkpoints too.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from kd_tune import records
from kd_tune.errors import ConfigError, refused_by_system
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import exclusive, naming, write_json
from kd_tune.records import finite_or_none
from kd_tune.run_state import Event, RunState

SEGMENT_LINES = 2000  # a megabyte: the last segment goes to a run's storage whole, every few seconds
SEGMENTS = "[0-9][0-9][0-9][0-9][0-9].jsonl"
SEAL = ', "crc32": "%08x"}'  # ends a line; of the line so far, and of all lines before it
SEAL_LENGTH = len(SEAL % 0)
SEARCH_FILE = "search.yaml"
KEPT_CHECKPOINTS = 5  # of each arm's (and stratum's) best trials; the others' are deleted when they end
LOCK = "lock"  # held by whoever runs it
PLAN = "plan.json"  # of a run that is the confirmation of another


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
        fold(folder, state, events)
    return state, checksum


def fold(folder: Path, state: RunState, events: Iterable[Event]) -> None:
    """Folds events of a run's ledger into its state; ConfigError if one does not follow from those before."""
    for event in events:
        try:
            state.apply(event)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ConfigError(f"{folder}: the ledger's event {event} cannot be followed: {error!r}") from None


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
            stack.enter_context(exclusive(folder / LOCK, busy))
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
        self._write(json.dumps(content, allow_nan=False)[:-1].encode(), lasting=event != records.EPOCH)
        self.state.apply(content)
        for listener in self.listeners:
            listener(content, self.state)

    def _write(self, content: bytes, lasting: bool) -> None:
        """Appends a line, or nothing: where only a part of it found room, the next one begins a new segment.

        Args:
            content: the line, without its checksum.
            lasting: whether it must be on the disk, and not only with the operating system, when this returns.
        """
        checksum = zlib.crc32(content, self._checksum)
        rest = content + (SEAL % checksum).encode() + b"\n"
        with naming(self.folder / "ledger"):
            try:
                if self._segment is None or self._lines >= SEGMENT_LINES:
                    self._next_segment()
                assert self._segment is not None
                while rest:  # a full disk takes a part first
                    rest = rest[self._segment.write(rest) :]
                if lasting:
                    os.fsync(self._segment.fileno())
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
