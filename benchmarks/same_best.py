"""A search in stacks that is killed and resumed, against the same search one by one: is it the same best student?

Claim: stacks, a kill and a resumption change how long a search takes, not what it finds.

How: `run_search.py` runs a search file three times with the same seed: one by one (`resources: {stack: 1}`), one by one
once more, and in stacks, as it is when nothing is said; the last one is killed (`kill -9` of the driver) when it has
half of the first one's epochs, and resumed. The second shows what timing alone changes: which trial reports first
decides what a sampler is told and whom a rung keeps. Trials with equal parameters are compared row by row.

    python benchmarks/same_best.py search_spaces/mnist5k.yaml --name same_best_mnist5k
    python benchmarks/same_best.py search_spaces/cifar10.yaml --name same_best_cifar10 --data cifar10.npz \\
        --num-trials 8 --set trial.dataset.num_train=10000 --set trial.training.num_epochs=9
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common

from kd_tune.ledger import read_events, replay
from kd_tune.progress import short
from kd_tune.records import METRIC
from kd_tune.run_state import RunState, TrialState, ranked

ALONE, AGAIN, STACKED = "one by one", "one by one again", "in stacks, killed and resumed"


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        one_by_one = ("--set", "resources.stack=1")
        found = {
            ALONE: launch(runs / "alone", arguments, *one_by_one),
            AGAIN: launch(runs / "again", arguments, *one_by_one),
        }
        half = sum(len(trial.rows) for trial in found[ALONE].trials.values()) // 2
        found[STACKED] = launch_and_kill(runs / "stacked", arguments, half)
    result: dict[str, Any] = {
        "claim": "stacks, a kill and a resumption change how long a search takes, not what it finds",
        "killed_after_epochs": half,
        "searches": {name: figures(state) for name, state in found.items()},
        "against_one_by_one": {name: compared(found[ALONE], found[name]) for name in (AGAIN, STACKED)},
        "conditions": made,
    }
    common.write_result(arguments.name, result, report(result), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("file", type=Path, help="a search file")
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--data", type=Path, help="where the data lie")
    parser.add_argument("--num-trials", type=int, default=12, help="of every arm")
    parser.add_argument("--set", action="append", default=[], help="a change to the file, as run_search.py takes it")
    return parser.parse_args()


def command(run: Path, arguments: argparse.Namespace, *more: str) -> list[str]:
    """What starts the search as the given run."""
    words = [sys.executable, str(common.ROOT / "run_search.py"), str(arguments.file)]
    words += ["--runs", str(run.parent), "--name", run.name, "--num-trials", str(arguments.num_trials)]
    words += ["--data", str(arguments.data)] if arguments.data else []
    return [*words, *(word for change in arguments.set for word in ("--set", change)), *more]


def launch(run: Path, arguments: argparse.Namespace, *more: str) -> RunState:
    """The search from its beginning to its end."""
    subprocess.run(command(run, arguments, *more), check=True)
    return replay(run)


def launch_and_kill(run: Path, arguments: argparse.Namespace, epochs: int) -> RunState:
    """The search, killed after so many epochs and resumed."""
    with subprocess.Popen(command(run, arguments)) as process:
        while not (run / "ledger").is_dir() or num_epochs(run) < epochs:
            if process.poll() is not None:
                raise SystemExit(f"the search ended before epoch {epochs}")
            time.sleep(0.2)
        process.kill()
    words = [sys.executable, str(common.ROOT / "run_search.py"), "--resume", str(run)]
    subprocess.run(words + (["--data", str(arguments.data)] if arguments.data else []), check=True)
    return replay(run)


def num_epochs(run: Path) -> int:
    return sum(event["event"] == "epoch" for event in read_events(run))


def figures(state: RunState) -> dict[str, Any]:
    """A search's size, and the best of every arm."""
    best = {arm: ranked(state.of_arm(arm))[0] for arm in state.quota}
    return {
        "trials": len(state.trials),
        "epochs": sum(len(trial.rows) for trial in state.trials.values()),
        "launches": state.launches,
        "best": {arm: {"draw": trial.draw, METRIC: trial.value} for arm, trial in best.items()},
    }


def compared(one: RunState, other: RunState) -> dict[str, Any]:
    """What two searches have in common."""
    by_draw = {_key(trial): trial for trial in one.trials.values()}
    pairs = [(by_draw[_key(trial)], trial) for trial in other.trials.values() if _key(trial) in by_draw]
    differences = [
        abs(first.rows[epoch][METRIC] - second.rows[epoch][METRIC])
        for first, second in pairs
        for epoch in first.rows.keys() & second.rows.keys()
    ]
    return {
        "common_trials": len(pairs),
        "common_rows": len(differences),
        "rows_that_differ": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=None),
        "ended_elsewhere": sum(len(first.rows) != len(second.rows) for first, second in pairs),
        "same_best": {arm: _key(ranked(one.of_arm(arm))[0]) == _key(ranked(other.of_arm(arm))[0]) for arm in one.quota},
    }


def in_words(draw: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in draw.items())


def _key(trial: TrialState) -> str:
    return json.dumps([trial.arm, trial.draw], sort_keys=True)


def report(result: Mapping[str, Any]) -> str:
    searches, against = result["searches"], result["against_one_by_one"]
    best = [
        (arm, name, f"{100 * one['best'][arm][METRIC]:.2f}", in_words(one["best"][arm]["draw"]))
        for arm in searches[ALONE]["best"]
        for name, one in searches.items()
    ]
    header = (
        "search",
        "trials in common",
        "ended at another epoch",
        "rows in common",
        "that differ",
        "by at most, points",
    )
    rows: Sequence[Sequence[object]] = [
        (
            name,
            one["common_trials"],
            one["ended_elsewhere"],
            one["common_rows"],
            one["rows_that_differ"],
            f"{100 * (one['largest_difference'] or 0):.2f}",
        )
        for name, one in against.items()
    ]
    same = [f"{name}: {sum(one['same_best'].values())} of {len(one['same_best'])}" for name, one in against.items()]
    return f"""
# Stacks, killed and resumed, against one by one

Arms whose best configuration is that of the search one by one: {"; ".join(same)}. The search in stacks was killed
after {result["killed_after_epochs"]} epochs.

{common.table(("arm", "search", "best validation accuracy, %", "its parameters"), best)}

Against the first search one by one, trials of equal parameters:

{common.table(header, rows)}

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
