"""The one error for bad input."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(Exception):
    """Bad input, all problems at once. Commands print it and exit with 2, without a traceback."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
