"""Errors that a person can mend, and the codes that commands end with."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """How a command ended. Python itself ends with 1 where kd_tune is at fault, after a traceback."""

    DONE = 0
    USAGE = 2  # the command line, a file or a run is wrong: change it
    NOTHING_USABLE = 3  # all was done, and no trial gave a figure, or no student passed the test of its export
    PARTIAL = 4  # all was done, and errors ended some of the trials
    ENVIRONMENT = 5  # the machine or the cluster: no disk space, no permission, no Ray
    RESUMABLE = 75  # stopped; the command that it names goes on (sysexits.h: EX_TEMPFAIL)
    ENDED_AT_ONCE = 130  # a second Ctrl-C or SIGTERM while it was stopping; what was recorded stays


class ConfigError(Exception):
    """Bad input, all problems at once. Commands print it and end with its code, without a traceback."""

    code = ExitCode.USAGE

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class EnvironmentProblem(ConfigError):  # noqa: N818 - it says what is the case
    """Nothing that was given is wrong; the machine or the cluster cannot do it."""

    code = ExitCode.ENVIRONMENT


class NothingUsable(ConfigError):  # noqa: N818 - likewise
    """No trial, or no retraining, gave a figure; or no student passed the test of its export."""

    code = ExitCode.NOTHING_USABLE


class TrainingsFailed(ConfigError):  # noqa: N818 - likewise
    """Something broke trainings, which says nothing about what they trained; the same command trains them again."""

    code = ExitCode.RESUMABLE


class StorageLost(ConfigError):  # noqa: N818 - likewise
    """The storage that keeps a copy of a run did not answer for too long; nothing is lost, and it can be resumed."""

    code = ExitCode.RESUMABLE


# What the operating system refuses, and what helps.
_REFUSALS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "the disk is damaged, or gone",
    errno.EROFS: "take a folder that can be written",
    errno.EACCES: "take a folder that you may use, or change its permissions",
    errno.EPERM: "take a folder that you may use, or change its permissions",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def refused_by_system(error: OSError, path: Path | None = None) -> EnvironmentProblem | None:
    """An error of the operating system that a person can mend, as one; None for any other.

    Args:
        error: what was raised.
        path: what to name where the error names no file: those of writing do not.
    """
    if (mend := _REFUSALS.get(error.errno or 0)) is None:
        return None
    where = error.filename or path or "a file"
    return EnvironmentProblem(f"{where}: {os.strerror(error.errno or 0)}; {mend}")
