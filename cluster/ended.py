"""Whether a search has ended, from its ledger: `python cluster/ended.py RUN` exits with 0 then, else with 5."""

from __future__ import annotations

import sys
from pathlib import Path

from kd_tune.errors import ConfigError, ExitCode
from kd_tune.ledger import read_events
from kd_tune.records import FINISHED, STARTED


def has_ended(run: Path) -> bool:
    """Whether every trial had ended when the last launch left.

    Raises:
        ConfigError: the ledger is damaged.
    """
    launches = [event["event"] for event in read_events(run) if event["event"] in (STARTED, FINISHED)]
    return launches[-1:] == [FINISHED]


def main() -> int:
    """Says what is missing."""
    run = Path(sys.argv[1])
    try:
        if has_ended(run):
            return ExitCode.DONE
        print(f"error: {run}: the ledger does not say that the search has ended", file=sys.stderr)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
    return ExitCode.ENVIRONMENT


if __name__ == "__main__":
    sys.exit(main())
