"""`kill -9` of a trial's process, of a host that trains a stack, of a whole Ray node, in the midst of a search.

Each round starts a search and kills one of these at a random epoch of the first two thirds. The search is left alone
then. What must hold at its end:

- it ends by itself, with exit code 0, and no trial failed;
- trials go on from their checkpoints: none is trained from the beginning twice;
- slots come back: another process takes the place of the one that was killed; after the loss of a node, when all that
  it took along go on, as many trials are trained at once as there are places on the others, or are left;
- trials, parameters, ends and every figure of every epoch are those of an undisturbed search.

    python tests/faults/kill_processes.py --count 10                 # of each kind
    python tests/faults/kill_processes.py --count 10 --kind node
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nodes import Nodes
from rounds import (
    NUM_TRIALS,
    Round,
    RunState,
    Search,
    SearchProcess,
    parser_of,
    play,
    undisturbed,
    workplace,
)

EPOCHS = 24  # that a trial takes long enough for what was killed to come back
NODE_EPOCHS = 96  # Ray takes a quarter of a minute, or more on busy cores, to notice that a node has gone
TITLES = {"worker": "ray::ImplicitFunc", "host": "ray::Host"}
KINDS = (*TITLES, "node")


def main() -> None:
    parser = parser_of(__doc__, count=10)
    parser.add_argument("--kind", choices=KINDS, help="what is killed [default: each]")
    arguments = parser.parse_args()
    held = True
    with workplace() as folder:
        for kind in KINDS if arguments.kind is None else (arguments.kind,):
            stacks = [{"worker": 1, "host": 4}.get(kind, (1, 4)[number % 2]) for number in range(arguments.count)]
            epochs = NODE_EPOCHS if kind == "node" else EPOCHS
            known = {stack: undisturbed(folder / kind, stack, epochs)[0] for stack in sorted(set(stacks))}
            killing: Callable[..., Round] = kill_node if kind == "node" else partial(kill_process, kind)
            rounds = [partial(killing, stack, known[stack]) for stack in stacks]
            held &= play(f"kill_{kind}", arguments, rounds, folder)
    sys.exit(not held)


def kill_process(kind: str, stack: int, state: RunState, rng: random.Random, folder: Path) -> Round:
    search = Search(folder, stack, epochs=EPOCHS)
    launch = search.start()
    launch.wait_for_epochs(search.run, moment(rng, EPOCHS))
    victims = launch.worker_pids(TITLES[kind])
    found = Round(f"a {kind} of {len(victims)} killed with {epochs_so_far(search)} epochs in the ledger, stack {stack}")
    if not victims:
        return Round(found.injected, ["there was none"])
    killed_at = time.time()
    os.kill(rng.choice(victims), signal.SIGKILL)
    there = victims
    while launch.is_running() and not set(there) - set(victims):
        time.sleep(0.1)
        there = launch.worker_pids(TITLES[kind])
    came = len(set(there) - set(victims))
    found.figures[f"{kind}s in its place"] = came
    found.wrong += [] if came else ["no process came in its place"]
    return ended(search, launch, state, found, 1, killed_at)


def kill_node(stack: int, state: RunState, rng: random.Random, folder: Path) -> Round:
    nodes = Nodes(folder.parent / f"r{folder.name.rpartition('_')[2]}")
    try:
        hosts = [nodes.add() for _ in range(3)]
        search = Search(folder, stack, nodes.address, epochs=NODE_EPOCHS)
        launch = search.start()
        launch.wait_for_epochs(search.run, moment(rng, NODE_EPOCHS))
        places = started(search)["slots"] * stack
        victim = rng.choice(hosts[1:])  # the first one is the head, with the driver
        found = Round(f"1 of 3 nodes killed with {epochs_so_far(search)} epochs in the ledger, stack {stack}")
        killed_at = time.time()
        nodes.kill(victim)
        found.figures["slots before"] = places
        return ended(search, launch, state, found, min(places - stack, NUM_TRIALS), killed_at)
    finally:
        nodes.kill_all()


def ended(search: Search, launch: SearchProcess, state: RunState, found: Round, slots: int, killed_at: float) -> Round:
    """Waits for the search's end, and looks at it.

    Args:
        search: of the round.
        launch: its process.
        state: of an undisturbed one.
        found: what was injected.
        slots: trials that should be trained at once after that, where so many are left.
        killed_at: when.
    """
    code = launch.wait()
    if code:
        found.wrong.append(f"exit code {code}: {launch.log.read_text()[-1500:]}")
        return found
    found.wrong += search.problems(state)
    retried = [event for event in search.events() if event["event"] == "retried"]
    found.figures |= {"trials started again": len(retried), "slots in use after": most_at_once(search, killed_at)}
    found.figures["trials left"] = left = trials_left(search, killed_at)
    if found.figures["slots in use after"] < min(slots, left):
        found.wrong.append(f"{found.figures['slots in use after']} trials at once after it, not {min(slots, left)}")
    return found


def moment(rng: random.Random, epochs: int) -> int:
    """So many epochs of the first two thirds."""
    return rng.randrange(NUM_TRIALS, 2 * NUM_TRIALS * epochs // 3)


def started(search: Search) -> dict[str, Any]:
    return next(event for event in search.events() if event["event"] == "started")


def epochs_so_far(search: Search) -> int:
    return sum(event["event"] == "epoch" for event in search.events())


def trials_left(search: Search, since: float) -> int:
    """Trials that had not ended when the last of those that were started again went on."""
    went_on, waiting = since, set()
    for event in search.events():
        if event["event"] == "retried":
            waiting.add(event["trial"])
        elif event["event"] == "epoch" and event["trial"] in waiting:
            waiting.remove(event["trial"])
            went_on = event["time"]
    return len({event["trial"] for event in search.events() if event["event"] == "epoch" and event["time"] > went_on})


def most_at_once(search: Search, since: float) -> int:
    """The most trials that were in the midst of their epochs at once after a moment: each had one before and after."""
    spans: dict[int, list[float]] = {}
    for event in search.events():
        if event["event"] == "epoch" and event["time"] > since:
            spans.setdefault(event["trial"], []).append(event["time"])
    ends = [(min(times), max(times)) for times in spans.values()]
    return max((sum(first <= at <= last for first, last in ends) for at, _ in ends), default=0)


if __name__ == "__main__":
    main()
