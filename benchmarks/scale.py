"""Ten thousand trials: what reading, analysing and judging them costs.

Claims: `analyze.py` answers in 10 s within 1 GB on 10,000 trials of 30 epochs, and in 30 s with `report.html`; a
search's driver takes as long for a result and for a trial's end at the ten-thousandth trial as at the first, and for a
proposal of TPE a tenth of a second.

How: a ledger is generated, three arms, every trial with a row for every epoch as a real one has it; `python analyze.py`
reads it in a process of its own, --rounds times with and without `--html`, in turn: seconds, and its largest resident
memory. Then the driver's own parts, without Ray, in this process: the real proposer, referee and ledger, and all that
listens to it (device time, checkpoints, lines of a log, TensorBoard), are given trials one after another, pruned by
rungs; milliseconds a proposal, a result and a trial's end in every tenth of the trials, and this process's memory after
it.

    python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import common
import on_ray
from rich.console import Console

from kd_tune import records
from kd_tune.arms import resolved
from kd_tune.glance import Course
from kd_tune.ledger import Run
from kd_tune.limits import device_time
from kd_tune.manifest import Fingerprints, Manifest, TeacherFacts, hardware, versions
from kd_tune.run_state import TrialState
from kd_tune.scheduler import Referee
from kd_tune.search import CheckpointKeeper
from kd_tune.search_checks import check
from kd_tune.search_file import SearchFile
from kd_tune.searcher import SearchProposer
from kd_tune.strict_yaml import dump_yaml
from kd_tune.tensorboard_log import TensorBoardLog
from kd_tune.watch import Watch

ARMS = ("distil", "cross_entropy", "label_smoothing")


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    file = on_ray.as_search_file(raw_search(arguments))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        write_whole(whole, file, arguments)
        ledger_bytes = sum(path.stat().st_size for path in (whole / "ledger").iterdir())
        analyses, with_page = [], []
        for _ in range(arguments.rounds):  # in turn
            analyses.append(analyse(whole))
            with_page.append(analyse(whole, "--html"))
        print(f"analyze.py: {analyses}; with --html: {with_page}", flush=True)
        page_bytes = (whole / "report" / "report.html").stat().st_size
        tenths = list(drive(Path(folder) / "driven", file, arguments))
    result: dict[str, Any] = {
        "claim": "ten thousand trials are no more trouble than a hundred",
        "ledger_megabytes": round(ledger_bytes / 1e6, 1),
        "analyze_seconds": common.summary([one["seconds"] for one in analyses], 2),
        "analyze_megabytes": common.summary([one["megabytes"] for one in analyses], 0),
        "html_seconds": common.summary([one["seconds"] for one in with_page], 2),
        "html_page_megabytes": round(page_bytes / 1e6, 2),
        "driver": tenths,
        "conditions": made,
    }
    common.write_result("scale", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def raw_search(arguments: argparse.Namespace) -> dict[str, Any]:
    """A search of four parameters, three arms."""
    return {
        "search": {
            "num_trials": -(-arguments.trials // len(ARMS)),
            "arms": list(ARMS),
            "sampler": {"name": "tpe"},
            "scheduler": {"name": "asha", "grace_period": 3, "reduction_factor": 3},
            "seed": 0,
        },
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0},
        "trial": {
            "dataset": {"name": "mnist5k"},
            "teacher": {"name": "digits"},
            "student": {"name": "studentnet", "width": {"float": [0.25, 2.0]}},
            "objective": {
                "name": "hinton",
                "alpha": {"float": [0.1, 1.0]},
                "temperature": {"float": [1.0, 16.0], "log": True},
            },
            "optimizer": {"name": "sgd", "lr": {"float": [0.003, 0.3], "log": True}},
            "training": {"num_epochs": arguments.epochs, "batch_size": 64},
        },
    }


def manifest() -> Manifest:
    teacher = TeacherFacts(
        val_accuracy=0.98, num_parameters=100_000, multiply_adds=10**7, knows_validation_images=False, record={}
    )
    return Manifest(
        created="2026-01-01T00:00:00+0000",
        search_file="scale.yaml",
        seed=0,
        source=None,
        fingerprints=Fingerprints(data="0" * 16, teachers={"digits": "0" * 16}),
        dataset={"name": "mnist5k", "split": {}, "num_train": 4000, "num_val": 1000, "class_names": list("0123456789")},
        teachers={"digits": teacher},
        versions=versions(),
        hardware=hardware(),
    )


def new_run(folder: Path, file: SearchFile) -> Run:
    run = Run.create(folder, dump_yaml(resolved(file)), manifest())
    quota = file.search.trials_by_arm()
    run.record(records.STARTED, quota=quota, strata=(), versions=versions(), slots=2, stack=1)
    return run


def row_of(trial: TrialState, epoch: int, num_epochs: int) -> dict[str, Any]:
    """An epoch as a trial reports it; its accuracy has a maximum in the middle of the space."""
    draw = trial.draw
    off = abs(math.log10(draw["optimizer.lr"]) + 1.3) + abs(draw["student.width"] - 1.5) / 4
    accuracy = (0.99 - 0.15 * off) * (1 - 0.7 * math.exp(-4 * epoch / num_epochs))
    return {
        "epoch": epoch,
        "train_loss": 1.5 - accuracy,
        "train_loss_hard": 0.1,
        "train_loss_soft": 1.4 - accuracy,
        "learning_rate": draw["optimizer.lr"],
        "seconds": 1.0,
        "images_per_second": 4000.0,
        "num_parameters": int(62_000 * draw["student.width"]),
        "multiply_adds": int(650_000 * draw["student.width"]),
        "diverged": False,
        "val_accuracy": accuracy,
        "val_loss": 1.2 - accuracy,
        "val_agreement": accuracy,
        "val_ece": 0.05,
        "val_accuracy_even": accuracy + 0.001,
        "val_accuracy_odd": accuracy - 0.001,
    }


def write_whole(folder: Path, file: SearchFile, arguments: argparse.Namespace) -> None:
    """A run in which every trial has every epoch; draws are random."""
    generator = random.Random(0)
    with closing(new_run(folder, file)) as run:
        for number in range(arguments.trials):
            arm = ARMS[number % len(ARMS)]
            draw = {"student.width": generator.uniform(0.25, 2), "optimizer.lr": 10 ** generator.uniform(-2.5, -0.55)}
            if arm == "distil":
                draw |= {
                    "objective.alpha": generator.uniform(0.1, 1),
                    "objective.temperature": 10 ** generator.uniform(0, 1.2),
                }
            elif arm == "label_smoothing":
                draw |= {"objective.smoothing": generator.uniform(0.01, 0.4)}
            run.record(records.PROPOSED, trial=number, arm=arm, draw=draw, never_pruned=False, stratum=0)
            for epoch in range(1, arguments.epochs + 1):
                row = row_of(run.state.trials[number], epoch, arguments.epochs)
                run.record(records.EPOCH, trial=number, attempt=0, **row)
            run.record(records.STOPPED, trial=number, reason="completed", epoch=arguments.epochs)
        run.record(records.FINISHED, trials_left=0)


def analyse(folder: Path, *options: str) -> dict[str, float]:
    """`analyze.py` as people run it: its seconds, and its largest resident memory, looked at every 20 ms."""
    began, megabytes = time.perf_counter(), 0.0
    command = [sys.executable, str(common.ROOT / "analyze.py"), str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            megabytes = max(megabytes, _most_resident(process.pid) / 1e6)
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"analyze.py ended with {process.returncode}")
    return {"seconds": round(time.perf_counter() - began, 2), "megabytes": round(megabytes)}


def _most_resident(pid: int) -> int:
    """Bytes; 0 for a process that has just ended. Not `ru_maxrss`: a child begins with its parent's."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def drive(folder: Path, file: SearchFile, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trials one after another through proposer, referee and ledger; the cost in every tenth of them."""
    with closing(new_run(folder, file)) as run:
        proposer = SearchProposer(run, check(file), file.search)
        referee = Referee(file.search.scheduler, arguments.epochs)
        curves, quiet = TensorBoardLog(folder, run.state, referee.epochs), Console(file=io.StringIO(), width=120)
        run.listeners += [
            device_time([], file.resources),
            CheckpointKeeper(folder, None),
            Watch(quiet, run.state, Course(arguments.epochs, tuple(referee.epochs))),
            curves,
        ]
        for tenth in range(10):
            proposals, results, ends = [], [], []
            for _ in range(arguments.trials // 10):
                began = time.perf_counter()
                trial = proposer.propose()
                proposals.append(time.perf_counter() - began)
                assert trial is not None
                for epoch in range(1, arguments.epochs + 1):
                    row = row_of(trial, epoch, arguments.epochs)
                    began = time.perf_counter()
                    run.record(records.EPOCH, trial=trial.number, attempt=0, **row)
                    verdict = referee.judge(trial, trial.rows[epoch])
                    results.append(time.perf_counter() - began)
                    if verdict in ("pruned", "completed"):
                        began = time.perf_counter()
                        run.record(records.STOPPED, trial=trial.number, reason=verdict, epoch=epoch)
                        ends.append(time.perf_counter() - began)
                        break
            found = {
                "trials": (tenth + 1) * (arguments.trials // 10),
                "proposal_ms": round(1000 * median(proposals), 2),
                "result_ms": round(1000 * median(results), 4),
                "end_ms": round(1000 * median(ends), 3),
                "megabytes": round(_resident_bytes() / 1e6),
            }
            print(found, flush=True)
            yield found
        curves.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(result: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    rows = [tuple(one.values()) for one in result["driver"]]
    header = ("trials", "ms a proposal (median)", "ms a result (median)", "ms an end (median)", "MB resident")
    seconds, megabytes, html = (result[name] for name in ("analyze_seconds", "analyze_megabytes", "html_seconds"))
    return f"""
# {arguments.trials:,} trials

`analyze.py` on {arguments.trials:,} trials x {arguments.epochs} epochs ({result["ledger_megabytes"]:.0f} MB of ledger):
**{seconds["median"]:.1f} s** ({seconds["min"]:.1f} to {seconds["max"]:.1f}, n = {seconds["n"]}), at most
**{megabytes["max"]:.0f} MB**. With `--html`: {html["median"]:.1f} s ({html["min"]:.1f} to {html["max"]:.1f}), and a
page of {result["html_page_megabytes"]} MB.

The driver's proposer (TPE), referee, ledger and all that listens to it, tenth by tenth of a search that prunes:

{common.table(header, rows)}

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
