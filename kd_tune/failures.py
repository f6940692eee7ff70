"""What broke a trial, in one line, from what Ray and torch say of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from kd_tune.errors import EnvironmentProblem

# What a failure is called, in the ledger and in the report.
LOST = "lost"  # its node, or the host of its stack while others were trained: not the trial's fault
MEMORY = "out of memory"
HANG = "hang"
CRASH = "crash"

_MEND = {
    "GPU": "a smaller training.batch_size, fewer trials a GPU (resources.gpus_per_trial) or in a stack "
    "(resources.stack) need less",
    "machine": "a smaller training.batch_size, fewer trials at a time (resources.cpus_per_trial) or in a stack "
    "(resources.stack) need less",
}
# Ray's words for an actor whose node has gone, by itself or because a cluster took it away.
_LOST_NODE = re.compile(r"its node has died|node was preempted|node was forcibly preempted", re.IGNORECASE)
_MEMORY = {
    "GPU": re.compile(r"torch\.OutOfMemoryError|CUDA (error: )?out of memory|CU\w+_STATUS_ALLOC_FAILED", re.IGNORECASE),
    "machine": re.compile(
        r"node running low on memory|NODE_OUT_OF_MEMORY|can't allocate memory|\bMemoryError\b", re.IGNORECASE
    ),
}
_DIED = "worker process has died"
_UNAVAILABLE = re.compile(r"The actor \w+ is unavailable")
LOST_HOST = "the host of its stack has died"
MOST_CHARACTERS = 500


class Failure(NamedTuple):
    """Why a trial broke.

    Attributes:
        what: LOST, MEMORY, HANG or CRASH.
        error: one line that says it and, where something helps, what.
    """

    what: str
    error: str


NODE_GONE = Failure(LOST, "its node has gone")
UNREACHABLE = Failure(CRASH, "its process cannot be reached: it died, or its node")  # nobody knows yet which
PROCESS_DIED = Failure(CRASH, "its process died: killed, out of memory, or an error in native code")


def explain(text: str, in_hand: str | None = None) -> Failure:
    """What is known of a failure.

    Args:
        text: what Ray has recorded: a traceback, or its words for a process that has gone; the last line counts most.
        in_hand: what the trial's mark says (`watchdog.take_mark`); None if it was not being trained by itself.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    last = lines[-1] if lines else "Ray gave no reason"
    if _LOST_NODE.search(text):
        return NODE_GONE
    if in_hand:
        return Failure(HANG, _cut(in_hand))
    if LOST_HOST in last and in_hand is None:
        return Failure(LOST, "the host of its stack has died, with other trials in hand")
    for where, words in _MEMORY.items():
        if words.search(text):
            return Failure(MEMORY, _cut(f"out of memory on its {where}: {_MEND[where]}; {last}"))
    if _UNAVAILABLE.search(text):
        return UNREACHABLE
    if _DIED in text or LOST_HOST in last:
        return PROCESS_DIED
    return Failure(CRASH, _cut(last))


def environment_said(text: str) -> str | None:
    """The words of an EnvironmentProblem that a traceback ends with; None if it ends otherwise."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    kind, _, said = (lines[-1] if lines else "").partition(": ")
    return said if kind == f"{EnvironmentProblem.__module__}.{EnvironmentProblem.__qualname__}" else None


def _cut(line: str) -> str:
    return line[:MOST_CHARACTERS]
