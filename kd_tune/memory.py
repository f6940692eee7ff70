"""A trial whose memory grows is ended before Ray's memory monitor ends whoever came last."""

from __future__ import annotations

import os
from pathlib import Path

# Ray ends workers where 95 % of a machine's memory are in use.
NEARLY_ALL = 0.9  # of a machine's memory
MUCH = 0.05  # of it, that one trial has taken since its first epoch; those that do not grow take less than a hundredth
GB = 1e9


class Growth:
    """What one trial's process has taken since the trial's first epoch."""

    def __init__(self) -> None:
        self._first: int | None = None

    def check(self, held: int | None, available: int | None, total: int) -> None:
        """Looks at memory after an epoch; where this system does not say what is held or free, nothing is checked.

        Args:
            held: bytes that the process holds.
            available: bytes that are free on its machine.
            total: bytes of its machine.

        Raises:
            MemoryError: the machine's memory runs out, and this process has grown by much of it.
        """
        if held is None or available is None:
            return
        if self._first is None:
            self._first = held
        grown = held - self._first
        if available < (1 - NEARLY_ALL) * total and grown > MUCH * total:
            raise MemoryError(
                f"its process has grown by {grown / GB:.1f} GB since the trial's first epoch, to {held / GB:.1f} GB, "
                f"and {available / GB:.1f} of {total / GB:.0f} GB are left"
            )


def held_by_this_process(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Bytes of this process that lie in memory; None where the system does not say."""
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
