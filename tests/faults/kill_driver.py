"""`kill -9` of the driver at random moments, then resume.

Each round starts a search, kills its driver, and goes on. Three of four die while trials run, at a random epoch; the
others begin with an empty cache and die at any moment of the launch: while it loads, trains its teacher, fills the
bank, writes its report. Every other round trains trials in stacks. What must hold at the end:

- the ledger that the kill left is the beginning of the final one: nothing that was recorded is gone or changed;
- every epoch that Ray had logged when the driver died is in the ledger;
- no epoch stands twice in the tables, and none is missing;
- trials, parameters, ends and every figure of every epoch are those of an undisturbed search.

    python tests/faults/kill_driver.py --count 20
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from rounds import NUM_EPOCHS, NUM_TRIALS, Round, RunState, Search, parser_of, play, undisturbed, workplace

from kd_tune import results

STACKS = (1, 4)


def main() -> None:
    arguments = parser_of(__doc__, count=20).parse_args()
    with workplace() as folder:
        # Ray's own loggers are witnesses; they write below this folder while a search runs.
        os.environ.update(RAY_TMPDIR=str(folder), TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="0")
        stacks = STACKS[: arguments.count]
        known = {stack: undisturbed(folder, stack) for stack in stacks}
        rounds = [
            partial(kill_and_resume, stacks[number % len(stacks)], known[stacks[number % len(stacks)]], number % 8 >= 6)
            for number in range(arguments.count)
        ]
        sys.exit(not play("kill_driver", arguments, rounds, folder))


def kill_and_resume(
    stack: int, known: tuple[RunState, float], at_any_moment: bool, rng: random.Random, folder: Path
) -> Round:
    state, seconds = known
    for left in folder.parent.glob("ray/session_*/artifacts"):  # by earlier rounds
        shutil.rmtree(left)
    search = Search(folder, stack, own_cache=at_any_moment)
    began, launch = time.monotonic(), search.start()
    if at_any_moment:
        time.sleep(rng.random() * seconds)
    else:
        launch.wait_for_epochs(search.run, rng.randrange(1, NUM_TRIALS * NUM_EPOCHS))
        time.sleep(rng.random() * 0.3)
    launch.kill()
    at = time.monotonic() - began
    before, logged = search.text(), logged_by_ray(folder.parent)
    epochs = sum(event["event"] == "epoch" for event in search.events())
    found = Round(f"the driver killed after {at:.1f} s, with {epochs} epochs in its ledger, stack {stack}")
    found.wrong += search.finish()
    if found.wrong:
        return found
    after = results.read(search.run).state
    found.wrong += search.problems(state)
    if not search.text().startswith(before):
        found.wrong.append("what the ledger held is gone")
    lost = [one for one in logged if one[1] not in after.trials[one[0]].rows]
    found.wrong += [f"epochs that Ray had logged are lost: {lost}"] if lost else []
    trained = sum(event["event"] == "epoch" for event in search.events())
    found.figures = {"logged by Ray": len(logged), "trained again": trained - NUM_TRIALS * NUM_EPOCHS}
    return found


def logged_by_ray(folder: Path) -> list[tuple[int, int]]:
    """Trial and epoch of every row in the files that Ray's own logger writes."""
    found = set()
    for path in folder.glob("ray/session_*/artifacts/*/*/driver_artifacts/*/result.json"):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # cut off by the kill
                continue
            found.add((row["config"]["number"], row["epoch"]))
    return sorted(found)


if __name__ == "__main__":
    main()
