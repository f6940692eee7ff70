"""What a process is training by itself, marked on disk, and the end of the process if that takes too long.

A process that is killed or crashes in native code says nothing: the mark that it leaves tells which trial it had in
hand. Where it ended itself because an epoch took too long, the mark holds what its threads were doing. Nodes that share
no folder leave it in the run's storage, where it says no more than that.
"""

from __future__ import annotations

import faulthandler
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_tune.records import Assignment
from kd_tune.storage import TRIAL_PATIENCE, Storage

MARK = "in_hand.txt"
HANG = "hang.txt"  # the last mark of a trial that hung


def seconds_of(assignment: Assignment) -> float:
    """What an epoch of a trial may take; a storage that is down, and is waited for, is no hang."""
    return assignment.epoch_seconds + (0.0 if assignment.storage is None else TRIAL_PATIENCE)


def place_of(assignment: Assignment) -> Path | Storage:
    """Where the mark of a trial lies, beside its checkpoints."""
    return Path(assignment.checkpoints) if assignment.storage is None else Storage(assignment.storage)


@contextmanager
def in_hand(seconds: float, checkpoints: Path | Storage | None) -> Iterator[None]:
    """Ends this process if the body takes too long, even where it never gives Python's lock back.

    Args:
        seconds: that it may take.
        checkpoints: of the trial that is in hand, where the mark lies meanwhile; None: there is none.
    """
    if isinstance(checkpoints, Storage):
        checkpoints.write(MARK, b"")
    with _new_mark(checkpoints).open("w") if isinstance(checkpoints, Path) else tempfile.TemporaryFile("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            if isinstance(checkpoints, Path):
                (checkpoints / MARK).unlink(missing_ok=True)
            elif checkpoints is not None:
                checkpoints.remove(MARK)


def take_mark(checkpoints: Path | Storage) -> str | None:
    """Takes the mark of a trial away: None if it left none, empty if its process died, else a line on how it hung."""
    if isinstance(checkpoints, Storage):
        content = checkpoints.read(MARK)
        if content is not None:
            checkpoints.remove(MARK)
        return None if content is None else ""
    mark = checkpoints / MARK
    try:
        text = mark.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if not text:
        mark.unlink()
        return ""
    mark.replace(checkpoints / HANG)
    # A thread's stack follows a line of its own, the innermost call first.
    stacks = re.split(r"^(?=Thread |Current thread )", text, flags=re.MULTILINE)
    training = next(
        (stack for stack in stacks if re.search(r" in (open_trial|_train_for_ever)$", stack, re.MULTILINE)), text
    )
    calls = re.findall(r'File "(.*)", line (\d+)', training)
    where = f", last seen in {calls[0][0]}:{calls[0][1]}" if calls else ""
    after = re.search(r"Timeout \((.*?)\)", text)
    return f"no epoch in {after[1] if after else 'the time allowed'} (resources.epoch_seconds may allow more){where}"


def _new_mark(checkpoints: Path) -> Path:
    checkpoints.mkdir(parents=True, exist_ok=True)
    return checkpoints / MARK
