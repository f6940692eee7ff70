"""Work on the cache that one process does and others want too: they wait for it, and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kd_tune.paths import Busy, exclusive, taking_turns


@contextmanager
def turn(lock: Path, work: str, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock file for the length of the body, which looks first whether the work has been done meanwhile.

    Args:
        lock: of the work.
        work: what another process is doing, if one holds the lock: `training ...`.
        say: is told of it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock, f"another process is {work}; waiting for it"))
        except Busy as busy:
            say(str(busy))
            stack.enter_context(taking_turns(lock))
        yield


def lock_of(folder: Path) -> Path:
    """The lock file of a folder that is written whole, beside it."""
    return folder.with_name(f"{folder.name}.lock")
