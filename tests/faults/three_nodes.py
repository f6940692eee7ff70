"""A search on three Ray nodes of this machine: one is killed half way, and another joins later.

The second round is the same with trials in stacks. What must hold:

- the search ends by itself with exit code 0: no trial is lost, none failed, every epoch is there once;
- the node that joined trains trials;
- trials, parameters, ends and every figure of every epoch are those of a search that nothing happened to.

    python tests/faults/three_nodes.py
"""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path

from nodes import Nodes
from rounds import NUM_TRIALS, Round, RunState, Search, parser_of, play, undisturbed, workplace

EPOCHS = 120  # that trials still wait when the last node has joined, on a busy machine too
STACKS = (1, 4)
TRAINS = {1: "ray::ImplicitFunc", 4: "ray::Host"}


def main() -> None:
    arguments = parser_of(__doc__, count=2).parse_args()
    with workplace() as folder:
        stacks = [STACKS[number % 2] for number in range(arguments.count)]
        known = {stack: undisturbed(folder, stack, EPOCHS)[0] for stack in sorted(set(stacks))}
        rounds = [partial(lose_one_and_add_one, stack, known[stack]) for stack in stacks]
        sys.exit(not play("three_nodes", arguments, rounds, folder))


def lose_one_and_add_one(stack: int, state: RunState, rng: random.Random, folder: Path) -> Round:
    nodes = Nodes(folder.parent / f"r{folder.name.rpartition('_')[2]}")
    try:
        first = [nodes.add() for _ in range(3)]
        say(f"nodes: {', '.join(first)}")
        search = Search(folder, stack, nodes.address, epochs=EPOCHS)
        launch = search.start()
        launch.wait_for_epochs(search.run, NUM_TRIALS * EPOCHS // 2)
        lost = rng.choice(first[1:])
        nodes.kill(lost)
        say(f"{lost} is killed after {epochs_of(search)} of {NUM_TRIALS * EPOCHS} epochs")
        while launch.is_running() and places(search)[-1] == len(first):
            time.sleep(0.2)
        late = nodes.add()
        joined_at = epochs_of(search)
        say(f"{late} has joined after {joined_at} epochs")
        while launch.is_running() and TRAINS[stack] not in nodes.titles(late):
            time.sleep(0.2)
        used = TRAINS[stack] in nodes.titles(late)
        say(f"{late} {'trains' if used else 'was never used'}, after {epochs_of(search)} epochs")
        found = Round(f"1 of 3 nodes killed, another joined, stack {stack}", [] if used else ["it was never used"])
        code = launch.wait()
        if code:
            found.wrong.append(f"exit code {code}: {launch.log.read_text()[-1500:]}")
            return found
        retried = sum(event["event"] == "retried" for event in search.events())
        found.figures = {"places": places(search), "joined after epochs": joined_at, "trials started again": retried}
        found.wrong += search.problems(state)
        return found
    finally:
        nodes.kill_all()


def epochs_of(search: Search) -> int:
    return sum(event["event"] == "epoch" for event in search.events())


def places(search: Search) -> list[int]:
    """How many trials could be trained at once, from the start on."""
    return [event["slots"] for event in search.events() if event["event"] in ("started", "places")]


def say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
