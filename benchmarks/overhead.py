"""kd_tune through Ray against its own bare engine.

Claim: putting a search on Ray costs next to nothing when epochs take seconds.

How: the same trials (equal configs, seeds and checkpoints: both sides take them from `RunContext.assignment`) run as a
search on Ray, and by `kd_tune.host.open_trial` in plain processes; the two take turns, the order swapped every second
round.

- Slowdown: CIFAR-10, StudentNet of width 1 distilled from a bank of 8 views, one thread a trial, `--concurrent` trials
  at once on both sides, so that both share caches and memory alike; a process keeps its data from trial to trial on
  both sides. What is compared is seconds an epoch from a process's first row to its last, which holds everything that
  happens in between: reports, scheduling, checkpoints, the change from one trial to the next. Start-up is excluded.
- A report and a trial: 64 synthetic images, so that an epoch is nearly no work, one trial at a time. The time between
  rows through Ray less the time between rows of the engine; the time from a trial's end to the first row of the next on
  a reused actor, and the same less the engine's.

    python benchmarks/overhead.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

import common
import numpy as np
import on_ray

from kd_tune import host, records
from kd_tune.catalog import load_dataset
from kd_tune.ledger import read_events
from kd_tune.records import Assignment, TeacherPlace
from kd_tune.scheduler import RunScheduler
from kd_tune.search_checks import check
from kd_tune.trainable import RunContext


@dataclass(frozen=True)
class Workload:
    """A search that both sides run.

    Attributes:
        raw: the search file's content.
        source: where its data lie.
        bank: its soft targets, if it has a teacher.
        slots: trials at once.
    """

    raw: dict[str, Any]
    source: Path | None
    bank: Path | None
    slots: int


@dataclass(frozen=True)
class Timeline:
    """What a process did.

    Attributes:
        times: when the rows came, of every trial in order.
        seconds: how long their epochs took, as the rows say.
    """

    times: list[list[float]]
    seconds: list[list[float]]

    def seconds_an_epoch(self) -> float:
        """From the process's first row to its last, over the rows in between."""
        everything = [when for trial in self.times for when in trial]
        return (everything[-1] - everything[0]) / (len(everything) - 1)

    def between_rows(self) -> list[float]:
        """The mean seconds between two rows, of every trial."""
        return [(trial[-1] - trial[0]) / (len(trial) - 1) for trial in self.times]

    def between_trials(self) -> list[float]:
        """Seconds from the last row of a trial to the first of the next."""
        return [after[0] - before[-1] for before, after in zip(self.times, self.times[1:], strict=False)]


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    with common.temporary_cache() as folder:
        long, short = long_epochs(folder, arguments), short_epochs(folder, arguments)
        slowdowns = [measure_slowdown(number, long, folder) for number in range(1, arguments.rounds + 1)]
        fixed = [measure_fixed(number, short, folder) for number in range(1, arguments.rounds + 1)]
    result = {
        "claim": "a search on Ray costs next to nothing when epochs take seconds",
        "slowdown_percent": common.summary([one["slowdown_percent"] for one in slowdowns], 2),
        "slowdown_of_the_epochs_themselves_percent": common.summary([one["own_percent"] for one in slowdowns], 2),
        "report_milliseconds": common.summary([one["report_milliseconds"] for one in fixed], 2),
        "trial_change_milliseconds": common.summary([one["trial_change_milliseconds"] for one in fixed], 2),
        "trial_overhead_milliseconds": common.summary([one["trial_overhead_milliseconds"] for one in fixed], 2),
        "slowdown_rounds": slowdowns,
        "fixed_rounds": fixed,
        "conditions": made,
    }
    common.write_result("overhead", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-10: a folder or an .npz file [default: where kd_tune looks]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=45_000, help="training images of a long epoch")
    parser.add_argument("--epochs", type=int, default=3, help="long epochs of a trial")
    parser.add_argument("--trials", type=int, default=4, help="trials of long epochs")
    parser.add_argument("--concurrent", type=int, default=2, help="trials of long epochs at once")
    parser.add_argument("--short-epochs", type=int, default=100)
    parser.add_argument("--short-trials", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.trials % arguments.concurrent or min(arguments.epochs, arguments.short_epochs) < 2:
        parser.error("--trials must be a multiple of --concurrent, and trials need 2 epochs or more")
    return arguments


def long_epochs(folder: Path, arguments: argparse.Namespace) -> Workload:
    """Epochs of some seconds: CIFAR-10 with a bank."""
    dataset_section = {"name": "cifar10", "num_train": arguments.images}
    dataset = load_dataset(dataset_section, arguments.data)
    found = common.random_teacher("compact", folder / "teacher", dataset)
    bank = common.fill_with_stand_in(found, dataset, views=8)
    trial = {
        "dataset": dataset_section,
        "teacher": {"name": "compact", "weights": str(found.folder)},
        "student": {"name": "studentnet", "width": 1.0},
        "objective": {"name": "mixed_target", "alpha": 0.5, "temperature": 4.0},
        "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4},
        "training": {"num_epochs": arguments.epochs, "batch_size": 128, "views": 8},
    }
    return Workload(search_of(trial, arguments.trials), arguments.data, bank, arguments.concurrent)


def short_epochs(folder: Path, arguments: argparse.Namespace) -> Workload:
    """Epochs of nearly no work: one step on a few small images, no teacher."""
    generator = np.random.default_rng(0)
    source = folder / "synthetic.npz"
    images = generator.integers(0, 256, (64, 16, 16), dtype=np.uint8)
    np.savez(source, train_images=images, train_labels=np.arange(64) % 2)
    trial = {
        "dataset": {"name": "npz"},
        "student": {"name": "studentnet", "width": 0.25},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "training": {"num_epochs": arguments.short_epochs, "batch_size": 56},
    }
    return Workload(search_of(trial, arguments.short_trials), source, None, 1)


def search_of(trial: dict[str, Any], num_trials: int) -> dict[str, Any]:
    """A search without ranges: its trials differ in their seeds."""
    section = {"num_trials": num_trials, "sampler": {"name": "random"}, "scheduler": {"name": "none"}}
    return {"search": section, "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0}, "trial": trial}


def measure_slowdown(number: int, workload: Workload, folder: Path) -> dict[str, Any]:
    """Both sides once, on long epochs."""
    through_ray, bare = both_sides(f"long_{number}", workload, folder, ray_first=bool(number % 2))
    ray_seconds, bare_seconds = (mean(one.seconds_an_epoch() for one in side) for side in (through_ray, bare))
    own = [median(value for one in side for value in on_ray.steady(one.seconds)) for side in (through_ray, bare)]
    print(f"round {number}: {ray_seconds:.3f} s an epoch through Ray, {bare_seconds:.3f} s without", flush=True)
    return {
        "first": "ray" if number % 2 else "engine",
        "ray_seconds_an_epoch": round(ray_seconds, 4),
        "engine_seconds_an_epoch": round(bare_seconds, 4),
        "slowdown_percent": 100 * (ray_seconds / bare_seconds - 1),
        "ray_median_of_own_seconds": round(own[0], 4),
        "engine_median_of_own_seconds": round(own[1], 4),
        "own_percent": 100 * (own[0] / own[1] - 1),
    }


def measure_fixed(number: int, workload: Workload, folder: Path) -> dict[str, Any]:
    """Both sides once, on epochs of nearly no work."""
    (through_ray,), (bare,) = both_sides(f"short_{number}", workload, folder, ray_first=bool(number % 2))
    # A process's first trial warms it up.
    rows = [1000 * median(one.between_rows()[1:]) for one in (through_ray, bare)]
    changes = [1000 * median(one.between_trials()) for one in (through_ray, bare)]
    print(f"round {number}: {rows[0]:.2f} ms a row through Ray, {rows[1]:.2f} ms without", flush=True)
    return {
        "first": "ray" if number % 2 else "engine",
        "ray_row_milliseconds": round(rows[0], 3),
        "engine_row_milliseconds": round(rows[1], 3),
        "report_milliseconds": rows[0] - rows[1],
        "trial_change_milliseconds": changes[0],
        "engine_trial_change_milliseconds": round(changes[1], 3),
        "trial_overhead_milliseconds": changes[0] - changes[1],
    }


def both_sides(name: str, workload: Workload, folder: Path, ray_first: bool) -> tuple[list[Timeline], list[Timeline]]:
    """Timelines of the processes on Ray, and of those without it."""
    if ray_first:
        through_ray = run_on_ray(workload, folder / f"{name}_ray")
        return through_ray, run_bare(workload, folder / f"{name}_engine")
    bare = run_bare(workload, folder / f"{name}_engine")
    return run_on_ray(workload, folder / f"{name}_ray"), bare


def run_on_ray(workload: Workload, folder: Path) -> list[Timeline]:
    """The search; rows are timed by the ledger, when the driver has them."""
    with noting_processes() as trials_by_process:
        on_ray.run_search(workload.raw, folder, workload.source, workload.slots)
    times: dict[int, list[float]] = {}
    seconds: dict[int, list[float]] = {}
    for event in read_events(folder):
        if event["event"] == records.EPOCH:
            times.setdefault(event["trial"], []).append(event["time"])
            seconds.setdefault(event["trial"], []).append(event["seconds"])
    timelines = []
    for trials in trials_by_process.values():
        order = sorted(trials, key=lambda number: times[number][0])
        timelines.append(Timeline([times[number] for number in order], [seconds[number] for number in order]))
    if len(timelines) != workload.slots:
        raise SystemExit(f"Ray used {len(timelines)} processes, not {workload.slots}; run it again")
    return timelines


@contextmanager
def noting_processes() -> Iterator[dict[int, list[int]]]:
    """Which trials each of Ray's processes reports on while the body runs."""
    found: dict[int, list[int]] = {}
    report = RunScheduler.on_trial_result

    def note(scheduler: RunScheduler, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        trials = found.setdefault(result["pid"], [])
        if trial.config["number"] not in trials:
            trials.append(trial.config["number"])
        return report(scheduler, controller, trial, result)

    with mock.patch.object(RunScheduler, "on_trial_result", note):
        yield found


def run_bare(workload: Workload, folder: Path) -> list[Timeline]:
    """The same trials in plain processes, dealt out in turn; each is started afresh, as Ray's actors are."""
    assignments = assignments_of(workload, folder)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for a trial of one CPU
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workload.slots, mp_context=context) as pool:
            return list(pool.map(drive, [assignments[slot :: workload.slots] for slot in range(workload.slots)]))
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def assignments_of(workload: Workload, folder: Path) -> list[Assignment]:
    """The trials of a search as Ray's side of kd_tune would hand them to a host."""
    file = on_ray.as_search_file(workload.raw)
    context = RunContext(
        spaces=check(file),
        seed=file.search.seed,
        folder=str(folder),
        source=None if workload.source is None else str(workload.source.resolve()),
        teachers={}
        if workload.bank is None
        else {workload.raw["trial"]["teacher"]["name"]: TeacherPlace(bank=str(workload.bank))},
        checkpoint_epochs=(1, file.trial["training"]["num_epochs"]),  # what `search` gives a search without rungs
        threads=1,
        epoch_seconds=file.resources.epoch_seconds,
    )
    return [context.assignment({"number": n, "arm": "distil"}, "cpu") for n in range(file.search.num_trials)]


def drive(assignments: list[Assignment]) -> Timeline:
    """Trains trials one after another in this process."""
    timeline = Timeline([], [])
    for assignment in assignments:
        times, seconds = [], []
        for row in host.open_trial(assignment):
            times.append(time.time())
            seconds.append(row.seconds)
        timeline.times.append(times)
        timeline.seconds.append(seconds)
    return timeline


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The result as Markdown."""
    slowdown, own = result["slowdown_percent"], result["slowdown_of_the_epochs_themselves_percent"]
    rows = [
        (
            number,
            one["first"],
            f"{one['ray_seconds_an_epoch']:.3f}",
            f"{one['engine_seconds_an_epoch']:.3f}",
            f"{one['slowdown_percent']:.2f}",
            f"{one['own_percent']:.2f}",
        )
        for number, one in enumerate(result["slowdown_rounds"], start=1)
    ]
    header = (
        "round",
        "first",
        "Ray: seconds an epoch",
        "engine: seconds an epoch",
        "slowdown, %",
        "of epochs themselves, %",
    )
    fixed = [
        (title, *(result[key][part] for part in ("median", "min", "max", "n")))
        for title, key in (
            ("a report: row through Ray less row of the engine", "report_milliseconds"),
            ("a trial's end to the next one's first row, reused actor", "trial_change_milliseconds"),
            ("the same less the engine's", "trial_overhead_milliseconds"),
        )
    ]
    return f"""# kd_tune through Ray against its bare engine

**Slowdown {slowdown["median"]} %** (median of {slowdown["n"]} rounds, {slowdown["min"]} to {slowdown["max"]} %). By the
rows' own clock the epochs themselves take {own["median"]} % longer ({own["min"]} to {own["max"]} %) beside Ray's
processes; the rest lies between rows. Epochs of {arguments.images:,} CIFAR-10 images, StudentNet of width 1,
{arguments.trials} trials of {arguments.epochs} epochs, {arguments.concurrent} at once, one thread each, on both sides;
from a process's first row to its last, changes of trial included, start-up excluded.

{common.table(header, rows)}
## Fixed costs, in milliseconds

{arguments.short_trials} trials of {arguments.short_epochs} epochs of nearly no work, one trial at a time.

{common.table(("what", "median", "min", "max", "n rounds"), fixed)}
{common.conditions_markdown(result["conditions"])}"""


if __name__ == "__main__":
    main()
