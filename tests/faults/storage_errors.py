"""A storage that answers with errors, late or not at all, under a search that keeps its run there.

Each round starts a search with `--storage` on an S3 server of this machine. Three of ten requests of drivers and trials
fail: with status 500 or 503, with a connection that breaks, or with an answer that comes up to three seconds late. In
every other round the driver is killed at a random epoch, its folder is deleted, and the same command is given again,
which has the storage alone. Every third and fourth round trains trials in stacks. What must hold at the end:

- the search ends with exit code 0, no trial has failed or was started again;
- no epoch stands twice in the tables, and none is missing;
- trials, parameters, ends and every figure of every epoch are those of an undisturbed search;
- the copy of ledger, report and export is the run's own, byte by byte.

    python tests/faults/storage_errors.py --count 10
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from rounds import NUM_EPOCHS, NUM_TRIALS, Round, RunState, Search, parser_of, play, undisturbed, workplace

from kd_tune.storage import Storage
from tests.object_store import CREDENTIALS, Failure, Gate, gate_to, s3_server

STACKS = (1, 1, 4, 4)
SHARE = 0.3  # of requests that fail
COPIED = ("ledger", "report", "export")


def main() -> None:
    arguments = parser_of(__doc__, count=10).parse_args()
    os.environ.update(CREDENTIALS)
    stacks = [STACKS[number % len(STACKS)] for number in range(arguments.count)]
    with workplace() as folder, s3_server() as port:
        known = {stack: undisturbed(folder, stack)[0] for stack in sorted(set(stacks))}
        rounds = [
            partial(fail_requests, port, stack, known[stack], bool(number % 2)) for number, stack in enumerate(stacks)
        ]
        sys.exit(not play("storage_errors", arguments, rounds, folder))


def fail_requests(
    port: int, stack: int, state: RunState, loses_machine: bool, rng: random.Random, folder: Path
) -> Round:
    with gate_to(port) as gate:
        storage = Storage(gate.url).child(folder.name)
        injected = let_fail(gate, rng)
        search = Search(folder, stack, storage=storage.url)
        found = Round(f"{SHARE:.0%} of requests failed, stack {stack}")
        if loses_machine:
            launch = search.start()
            launch.wait_for_epochs(search.run, rng.randrange(NUM_TRIALS, NUM_TRIALS * NUM_EPOCHS))
            launch.kill()
            shutil.rmtree(search.run)
            found.injected += ", machine lost on the way"
        found.wrong += search.finish()
        found.figures = dict(sorted(injected.items()))
        if found.wrong:
            return found
        kinds = Counter(event["event"] for event in search.events())
        found.figures["trained again"] = kinds["epoch"] - NUM_TRIALS * NUM_EPOCHS
        found.wrong += [f"{kinds['retried']} trials were started again"] if kinds["retried"] else []
        found.wrong += search.problems(state)
        del gate.next_failure  # type: ignore[method-assign]
        found.wrong += uncopied(search.run, storage.child("toy"))
    return found


def let_fail(gate: Gate, rng: random.Random) -> Counter[str]:
    """Lets requests fail from now on; returns their count, which grows."""
    injected: Counter[str] = Counter()

    def next_failure() -> Failure:
        injected["requests"] += 1
        if rng.random() > SHARE:
            return None
        injected["failed"] += 1
        return rng.choice([500, 503, "reset", rng.random() * 3])

    gate.next_failure = next_failure  # type: ignore[method-assign]
    return injected


def uncopied(run: Path, copy: Storage) -> list[str]:
    """Files of a run that its copy has otherwise, or lacks."""
    files = [path for name in COPIED for path in sorted((run / name).rglob("*")) if path.is_file()]
    names = [path.relative_to(run).as_posix() for path in files]
    return [
        f"{name} is not copied" for name, path in zip(names, files, strict=True) if copy.read(name) != path.read_bytes()
    ]


if __name__ == "__main__":
    main()
