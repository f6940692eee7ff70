"""What `kd-tune plan` says a search takes, against what it takes.

Claim: the hours, epochs and bytes of a plan, whose speed is timed for half a minute beforehand, are those of the search
within 30 %.

How: for each search the plan is made first, by the same code as `kd-tune plan`; then `python run_search.py` runs the
search to its end on this machine. Hours are from the first event of its ledger to the last, as a plan's "training" is;
teachers and their answers are there before, since a plan tells these apart. Searches: the digits of
`search_spaces/mnist5k.yaml` as they are, and `search_spaces/cifar10.yaml` on fewer images and trials.

    python benchmarks/plan_hours.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
from rich.console import Console

from kd_tune import plan_figures
from kd_tune.catalog import load_dataset
from kd_tune.data import resolve_source
from kd_tune.ledger import read_events, replay
from kd_tune.limits import HOUR
from kd_tune.prepare import prepare
from kd_tune.search_file import load_search_file


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    spaces = common.ROOT / "search_spaces"
    shorter = [f"trial.dataset.num_train={arguments.images}", f"trial.training.num_epochs={arguments.epochs}"]
    searches = [measure(spaces / "mnist5k.yaml", None, [], None)]
    print(searches[-1], flush=True)
    searches.append(measure(spaces / "cifar10.yaml", arguments.data, shorter, arguments.trials))
    print(searches[-1], flush=True)
    result: dict[str, Any] = {
        "claim": "a plan's figures are those of the search within 30 %",
        "searches": searches,
        "conditions": made,
    }
    common.write_result("plan_hours", result, report(result), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--trials", type=int, default=15, help="of every arm, on CIFAR-10")
    return parser.parse_args()


def measure(path: Path, source: Path | None, overrides: Sequence[str], num_trials: int | None) -> dict[str, Any]:
    """Plan and search; the plan first, as people do."""
    file = load_search_file(path, list(overrides), num_trials)
    found = resolve_source(file.trial["dataset"]["name"], source)
    prepare(file.trial, load_dataset(file.trial["dataset"], found), found, Console(quiet=True))
    plan = plan_figures.make(file, source)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(common.ROOT / "run_search.py"), str(path), "--runs", folder, "--name", "run"]
        command += [word for text in overrides for word in ("--set", text)]
        command += ["--data", str(source)] if source else []
        command += ["--num-trials", str(num_trials)] if num_trials else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = Path(folder) / "run"
        times = [event["time"] for event in read_events(run)]
        state = replay(run)
        epochs = sum(len(trial.rows) for trial in state.trials.values())
        disk = sum(
            os.lstat(file).st_size
            for file in run.rglob("*")
            if file.is_file() and not {"export", "report"} & set(file.parts)
        )
    planned_disk = sum(size for what, size in plan.disk().items() if what != "soft targets")
    return {
        "search": path.stem,
        "trials": len(state.trials),
        "places": plan.places,
        "epochs": ratio(plan.epochs, epochs),
        "hours": ratio(plan.training_hours, (times[-1] - times[0]) / HOUR),
        "megabytes": ratio(planned_disk / 1e6, disk / 1e6),
    }


def ratio(planned: float, measured: float) -> dict[str, float]:
    return {"planned": round(planned, 4), "measured": round(measured, 4), "ratio": round(planned / measured, 3)}


def report(result: Mapping[str, Any]) -> str:
    rows = [
        (
            one["search"],
            one["trials"],
            what,
            f"{one[what]['planned']:.3g}",
            f"{one[what]['measured']:.3g}",
            f"{one[what]['ratio']:.2f}",
        )
        for one in result["searches"]
        for what in ("hours", "epochs", "megabytes")
    ]
    return f"""
# A plan against its search

{common.table(("search", "trials", "of what", "planned", "measured", "planned / measured"), rows)}

One search each. Hours from the first event of the ledger to the last; megabytes of the run's folder without report and
export.

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
