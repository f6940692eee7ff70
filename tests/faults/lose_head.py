"""The head node is lost with the driver on it, the cluster is started anew, and the search resumed.

Each round starts a search on two nodes, and kills the head and the driver at a random epoch; the other node goes down
with its cluster. What must hold when a new cluster has gone on is what `kill_driver.py` asks for.

    python tests/faults/lose_head.py --count 3
"""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path

from nodes import Nodes
from rounds import NUM_EPOCHS, NUM_TRIALS, Round, RunState, Search, parser_of, play, undisturbed, workplace

STACKS = (1, 4)


def main() -> None:
    arguments = parser_of(__doc__, count=3).parse_args()
    with workplace() as folder:
        stacks = [STACKS[number % 2] for number in range(arguments.count)]
        known = {stack: undisturbed(folder, stack)[0] for stack in sorted(set(stacks))}
        rounds = [partial(lose_head, stack, known[stack]) for stack in stacks]
        sys.exit(not play("lose_head", arguments, rounds, folder))


def lose_head(stack: int, state: RunState, rng: random.Random, folder: Path) -> Round:
    number = folder.name.rpartition("_")[2]
    nodes = Nodes(folder.parent / f"r{number}")
    try:
        head, _ = nodes.add(), nodes.add()
        search = Search(folder, stack, nodes.address)
        launch = search.start()
        launch.wait_for_epochs(search.run, rng.randrange(1, NUM_TRIALS * NUM_EPOCHS))
        time.sleep(rng.random() * 0.3)
        nodes.kill(head)
        launch.kill()
    finally:
        nodes.kill_all()
    before = search.text()
    epochs = sum(event["event"] == "epoch" for event in search.events())
    found = Round(f"head and driver killed with {epochs} epochs in the ledger, stack {stack}")
    nodes = Nodes(folder.parent / f"s{number}")
    try:
        nodes.add()
        nodes.add()
        search.address = nodes.address
        found.wrong += search.finish()
    finally:
        nodes.kill_all()
    if found.wrong:
        return found
    if not search.text().startswith(before):
        found.wrong.append("what the ledger held is gone")
    trained = sum(event["event"] == "epoch" for event in search.events())
    found.figures = {"trained again": trained - NUM_TRIALS * NUM_EPOCHS}
    found.wrong += search.problems(state)
    return found


if __name__ == "__main__":
    main()
