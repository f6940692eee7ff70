"""From the command to the first epoch.

Claim: a search says something within seconds of its command.

How: `python run_search.py search_spaces/mnist5k.yaml` in a process of its own, with a cache of its own; the time from
just before the process is started to the `time` of the first `epoch` event in the run's ledger. A first run trains the
teacher and fills the bank; it is reported apart. Each search is then stopped with SIGINT, and waited for.

    python benchmarks/first_epoch.py
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common

from kd_tune import records
from kd_tune.ledger import read_events

SEARCH = Path("search_spaces") / "mnist5k.yaml"
POLL_SECONDS = 0.05
STOP_SECONDS = 120.0
STOPPED_CODES = (0, 75)  # 75: stopped, can be resumed


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    with common.temporary_cache() as folder:
        cold = measure_once("cold", folder, arguments)
        print(f"with the teacher's training: {cold['first_epoch_seconds']:.2f} s", flush=True)
        runs = []
        for number in range(1, arguments.rounds + 1):
            runs.append(measure_once(f"run_{number}", folder, arguments))
            print(f"run {number}: {runs[-1]['first_epoch_seconds']:.2f} s", flush=True)
    result = {
        "claim": "a search says something within seconds of its command",
        "first_epoch_seconds": common.summary([one["first_epoch_seconds"] for one in runs], 2),
        "first_proposal_seconds": common.summary([one["first_proposal_seconds"] for one in runs], 2),
        "stop_seconds": common.summary([one["stop_seconds"] for one in runs], 2),
        "cold_first_epoch_seconds": cold["first_epoch_seconds"],
        "runs": runs,
        "conditions": made,
    }
    common.write_result("first_epoch", result, report(result), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs that are timed")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a first epoch")
    return parser.parse_args()


def measure_once(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts a search, waits for its first epoch, and stops it."""
    log_path = folder / f"{name}.log"
    command = [sys.executable, "run_search.py", str(SEARCH), "--runs", str(folder / "runs"), "--name", name]
    with log_path.open("w", encoding="utf-8") as log:
        began = time.time()
        # The ledger's clock is the wall clock.
        process = subprocess.Popen(command, cwd=common.ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            first = wait_for_epoch(process, folder / "runs" / name, began + arguments.timeout)
        finally:
            stop_seconds = stop(process)
    if first is None:
        raise SystemExit(
            f"no epoch came (exit code {process.returncode}):\n{log_path.read_text(encoding='utf-8')[-2000:]}"
        )
    if process.returncode not in STOPPED_CODES:
        print(f"{name}: exit code {process.returncode} after SIGINT", file=sys.stderr)
    return {
        "first_proposal_seconds": round(first[records.PROPOSED] - began, 3),
        "first_epoch_seconds": round(first[records.EPOCH] - began, 3),
        "stop_seconds": round(stop_seconds, 2),
        "exit_code": process.returncode,
    }


def wait_for_epoch(process: subprocess.Popen[bytes], run: Path, deadline: float) -> dict[str, float] | None:
    """Times of the first event of every kind, once there is an epoch; None if none came."""
    while time.time() < deadline:
        ended = process.poll() is not None
        first: dict[str, float] = {}
        for event in read_events(run):
            first.setdefault(event["event"], event["time"])
        if records.EPOCH in first:
            return first
        if ended:
            return None
        time.sleep(POLL_SECONDS)
    return None


def stop(process: subprocess.Popen[bytes]) -> float:
    """Interrupts a search as a person does; returns the seconds that it took to end."""
    began = time.monotonic()
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - began


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    first = result["first_epoch_seconds"]
    rows = [
        (title, *(result[key][part] for part in ("median", "min", "max", "n")))
        for title, key in (
            ("first epoch in the ledger", "first_epoch_seconds"),
            ("first proposal in the ledger", "first_proposal_seconds"),
            ("from SIGINT to the end, report included", "stop_seconds"),
        )
    ]
    return f"""# From the command to the first epoch

**{first["median"]:.1f} s** (median of {first["n"]} runs, {first["min"]:.1f} to {first["max"]:.1f} s) from
`python run_search.py {SEARCH}` to the first epoch in the ledger, with teacher and soft targets from the cache; the very
first run, which trains the teacher and fills the bank, took {result["cold_first_epoch_seconds"]:.1f} s.

{common.table(("seconds", "median", "min", "max", "n"), rows)}
{common.conditions_markdown(result["conditions"])}"""


if __name__ == "__main__":
    main()
