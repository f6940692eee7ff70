"""Whether a launch stopped at its user's own limit: `python cluster/at_limit.py RUN SINCE` exits with 0 only then.

It prints the limit, such as `--max-hours 2`. SINCE, in seconds since 1970, is before the launch, so that the pause of
an earlier one does not count.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kd_tune.confirmation import begun, folder_of
from kd_tune.errors import ConfigError
from kd_tune.ledger import read_events
from kd_tune.limits import is_own_limit
from kd_tune.records import FINISHED, PAUSED, STARTED


def own_limit(run: Path, since: float) -> str | None:
    """The limit at which a run, or a confirmation of it, paused; None: it did not, or for another reason.

    Raises:
        ConfigError: a ledger is damaged.
    """
    for folder in (run, *(folder_of(run, number) for number in begun(run))):
        launches = [event for event in read_events(folder) if event["event"] in (STARTED, PAUSED, FINISHED)]
        for last in launches[-1:]:
            if last["event"] == PAUSED and last["time"] >= since and is_own_limit(last.get("limit")):
                return str(last["limit"])
    return None


def main() -> int:
    """Prints the limit."""
    try:
        limit = own_limit(Path(sys.argv[1]), float(sys.argv[2]))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    if limit is None:
        return 1
    print(limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
