"""What commands end with."""

from __future__ import annotations

import errno

import pytest

from kd_tune.errors import (
    ConfigError,
    EnvironmentProblem,
    ExitCode,
    NothingUsable,
    TrainingsFailed,
    refused_by_system,
)


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError, 2), (NothingUsable, 3), (EnvironmentProblem, 5), (TrainingsFailed, 75)]
)
def test_every_error_has_its_exit_code(error: type[ConfigError], code: int) -> None:
    assert error("why").code == code


@pytest.mark.parametrize(
    ("number", "mend"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "can be written"), (errno.EACCES, "permissions")],
)
def test_what_the_system_refuses_is_said_with_its_mend(number: int, mend: str) -> None:
    problem = refused_by_system(OSError(number, "as the system says", "runs/a/ledger/00000.jsonl"))
    assert problem is not None
    assert problem.code == ExitCode.ENVIRONMENT
    assert str(problem).startswith("runs/a/ledger/00000.jsonl: ")
    assert mend in str(problem)


def test_an_error_of_ours_is_not_taken_for_the_systems() -> None:
    assert refused_by_system(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None
