"""What 64 resident trials lose to Ray Tune: the share of the wall clock in which their host has nothing to do.

Claim: a device that trains 64 students in a stack hardly ever waits for Ray Tune, the searcher or the ledger.

How: a search through Ray with one host of 64 trials, pruned by rungs, so that trials end and others take their places.
In the host, training is replaced by sleep: --rates student epochs a second, whatever the stack's size, which is what
a GPU of that rate would take; validation accuracies are made up. Everything else is real: clients, reports, sampler,
rungs, ledger, checkpoints, TensorBoard's files. The share is 1 - (seconds slept) / (wall clock), while the host is
full: from its first epoch, before which it waits for all 64, to the last proposal. A part of it is the host's own
work, taking in students and writing checkpoints; the rest is what it waits, for Ray Tune or for a core. Start-up is
told apart: Ray starts 64 processes, of some 2 core seconds each.

    python benchmarks/ray_share.py
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import common
import on_ray

from kd_tune import cluster, records
from kd_tune.ledger import read_events
from kd_tune.records import EpochRow
from kd_tune.trainable import Host, RunContext

WORK = "host_work.txt"


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    rounds = []
    for number in range(arguments.rounds):
        for rate in arguments.rates if number % 2 else reversed(arguments.rates):
            rounds.append({"rate": rate} | measure(rate, arguments))
            print(f"round {number + 1}: {rounds[-1]}", flush=True)
    result: dict[str, Any] = {
        "claim": "a host of 64 trials hardly ever waits for Ray Tune",
        "rounds": rounds,
        "rates": [summary_of(rate, rounds) for rate in arguments.rates],
        "conditions": made,
    }
    common.write_result("ray_share", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[30.0, 100.0], help="student epochs a second")
    parser.add_argument("--residents", type=int, default=64)
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=27)
    return parser.parse_args()


def sleeping_host(seconds: float, residents: int) -> type[Host]:
    """A host whose students' epochs take so long and teach nothing, and which begins when it has so many.

    It notes how long it admits students and writes checkpoints. Ray sends clients the class: what it needs is imported
    in the host alone, or they would load torch too.
    """

    class SleepingHost(Host):
        def __init__(self, context: RunContext) -> None:
            from kd_tune import stacked_host
            from kd_tune.engine import Evaluation, row_of

            full = threading.Event()
            work = (Path(context.folder) / WORK).open("w", buffering=1)

            def sleep(students: Sequence[Any], data: Any) -> list[EpochRow]:
                while not full.is_set():
                    time.sleep(0.01)
                    if self.load(0)[1] == residents:
                        full.set()
                began = time.perf_counter()
                time.sleep(seconds * len(students))
                share = (time.perf_counter() - began) / len(students)
                rows = []
                for student in students:
                    student.epoch += 1
                    accuracy = 1 - 0.9 / (1 + student.peak_lr * student.epoch)
                    judged = Evaluation(accuracy, 1.0, float("nan"), 0.1, accuracy, accuracy)
                    rows.append(row_of(student, {"cross_entropy": 1.0}, judged, share, share, len(data.labels)))
                return rows

            def timed(method: Callable[..., None]) -> Callable[..., None]:
                def call(*arguments: Any) -> None:
                    began = time.perf_counter()
                    method(*arguments)
                    work.write(f"{time.time()} {time.perf_counter() - began}\n")

                return call

            stacked_host.advance_together = sleep
            for name in ("_admit", "_give_out"):
                setattr(stacked_host.StackedHost, name, timed(getattr(stacked_host.StackedHost, name)))
            super().__init__(context)

    return SleepingHost


def measure(rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search."""
    host = sleeping_host(1 / rate, arguments.residents)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(cluster, "Host", host):
        run = Path(folder) / "run"
        began = time.time()
        state = on_ray.run_search(raw_search(arguments), run, None, 1)
        work = [tuple(map(float, line.split())) for line in (run / WORK).read_text(encoding="ascii").splitlines()]
        return figures(list(read_events(run)), work, began) | {"trials": len(state.trials)}


def figures(events: Sequence[Mapping[str, Any]], work: Sequence[tuple[float, ...]], began: float) -> dict[str, Any]:
    """Of a search's ledger and its host's work; what is slept before the first row's moment is before the count."""
    epochs = [event for event in events if event["event"] == records.EPOCH]
    first = epochs[0]["time"]
    last = max(event["time"] for event in events if event["event"] == records.PROPOSED)
    slept = [event["seconds"] for event in epochs if first < event["time"] <= last]
    worked = sum(seconds for moment, seconds in work if first < moment <= last)
    wall = last - first
    return {
        "start_seconds": round(first - began, 1),
        "wall_seconds": round(wall, 2),
        "epochs": len(slept),
        "share": round(1 - sum(slept) / wall, 4),
        "own_share": round(worked / wall, 4),
        "waiting_share": round(1 - (sum(slept) + worked) / wall, 4),
    }


def raw_search(arguments: argparse.Namespace) -> dict[str, Any]:
    """A search of the embedded digits, pruned by rungs."""
    return {
        "search": {"num_trials": arguments.trials, "arms": ["distil"], "sampler": {"name": "tpe"}},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0, "stack": arguments.residents},
        "trial": {
            "dataset": {"name": "mnist5k"},
            "teacher": {"name": "digits"},
            "student": {"name": "studentnet", "width": 1.0},
            "objective": {"name": "hinton", "alpha": 0.9, "temperature": 4.0},
            "optimizer": {"name": "sgd", "lr": {"float": [0.005, 0.1], "log": True}},
            "training": {"num_epochs": arguments.epochs, "batch_size": 128},
        },
    }


def summary_of(rate: float, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [one for one in rounds if one["rate"] == rate]
    return {
        "rate": rate,
        "share": common.summary([one["share"] for one in mine]),
        "own_share": common.summary([one["own_share"] for one in mine]),
        "waiting_share": common.summary([one["waiting_share"] for one in mine]),
        "wall_seconds": common.summary([one["wall_seconds"] for one in mine], 1),
        "start_seconds": common.summary([one["start_seconds"] for one in mine], 1),
        "epochs": common.summary([one["epochs"] for one in mine], 0),
    }


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    rows = [
        (
            f"{one['rate']:g}",
            f"{one['share']['median']:.1%}",
            f"{one['share']['min']:.1%} to {one['share']['max']:.1%}",
            f"{one['own_share']['median']:.1%}",
            f"{one['waiting_share']['median']:.1%}",
            one["epochs"]["median"],
            f"{one['wall_seconds']['median']:.0f}",
            f"{one['start_seconds']['median']:.0f}",
        )
        for one in result["rates"]
    ]
    header = (
        "student epochs a second",
        "not training",
        "range",
        "own work",
        "waiting",
        "epochs",
        "seconds",
        "seconds until it is full",
    )
    return f"""
# What {arguments.residents} resident trials lose to Ray Tune

{common.table(header, rows)}

Medians of {arguments.rounds} searches each. {arguments.trials} trials of up to {arguments.epochs} epochs, TPE and
rungs, one host, training replaced by sleep at the rate of the first column. The share is that of the wall clock from
its first epoch, when it is full, to the last proposal, in which it did not sleep: clients, reports, sampler, rungs,
ledger, checkpoints, TensorBoard's files. Own work is the host's: it takes in students and writes checkpoints.

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
