"""kd_tune against the script that one writes without it.

Claim: students are distilled many times faster than by a Ray Tune script that asks the teacher in every step, the more
so as kd_tune trains several in one step, and the answers of the teacher that it computes beforehand are paid for within
one search.

How: `naive_peer.py` and two kd_tune searches (through Ray), one that stacks its trials as it does when nothing is said
and one with `resources: {stack: 1}`, take turns for `--rounds` rounds, the order reversed every second round. On all
sides: StudentNet of width 1, batches of 128, mixed target loss, SGD with momentum, `--places` processes of one thread,
`--trials` trials a process (in stacks: as many as share one), nothing pruned, vgg13_bn with random weights as the
teacher. Start-up and the first epoch of every trial are left out. Epochs an hour are places / median seconds that an
epoch says it took; in a stack that is the student's share. By the ledger's clock, on kd_tune's side, they are trials at
once / median seconds between two rows of a trial. Both are scaled by the number of images to epochs of 50,000, because
an epoch of the peer is long and one of kd_tune short.

The bank of the timed searches is filled beforehand. Its fill is timed apart, on `--fill-images` images of all views; if
that is less than --our-images, a trivial network fills the searches' bank in the teacher's name (how fast a student
trains does not depend on the numbers in the bank). For the shipped CIFAR-10 search the fill is added to the bill.

    python benchmarks/against_naive.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import common
import naive_bill
import on_ray
import torch

from kd_tune import soft_targets
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.search_checks import CPU_STACK
from kd_tune.teacher import Teacher
from kd_tune.trial_data import best_device

TEACHER = "vgg13_bn"


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    with common.temporary_cache() as folder:
        fills = {name: measure_fill(name, folder, arguments) for name in (TEACHER, "compact")}
        weights = prepare_bank(folder, arguments)
        rounds = [measure_round(number, weights, folder, arguments) for number in range(1, arguments.rounds + 1)]
        peer_compact = peer_epochs(arguments, "compact")
        widths = measure_widths(weights, folder, arguments)
    result: dict[str, Any] = {
        "claim": "kd_tune distils students faster than a Ray Tune script that asks the teacher in every step",
        "rounds": rounds,
        "peer_epochs_an_hour": round(median(one["peer_epochs_an_hour"] for one in rounds), 2),
        "our_epochs_an_hour": round(median(one["our_epochs_an_hour"] for one in rounds), 2),
        "ratio": round(median(one["ratio"] for one in rounds), 2),
        "ratio_by_ledger_clock": round(median(one["ratio_by_ledger_clock"] for one in rounds), 2),
        "ratio_one_by_one": round(median(one["ratio_one_by_one"] for one in rounds), 2),
        "stack_ratio": round(median(one["stack_ratio"] for one in rounds), 2),
        "stack_ratio_by_ledger_clock": round(median(one["stack_ratio_by_ledger_clock"] for one in rounds), 2),
        "fills": fills,
        "peer_with_compact": peer_compact,
        "median_seconds_by_width": widths,
    }
    result["shipped_search"] = naive_bill.shipped_search(result, arguments)
    result["conditions"] = made
    common.write_result("against_naive", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2500, help="training images of the peer")
    parser.add_argument("--our-images", type=int, default=45_000, help="training images of kd_tune")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=2, help="of the peer and of a search without stacks, a place")
    parser.add_argument("--places", type=int, default=2, help="processes that train")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--fill-images", type=int, default=2500, help="images whose fill is timed")
    return parser.parse_args()


def measure_fill(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Answers a second of a teacher, through `soft_targets.fill` as a search calls it: all threads, or a GPU."""
    section = {"name": "cifar10", "num_train": arguments.fill_images}
    dataset = load_dataset(section, arguments.data)
    found = common.random_teacher(name, folder / "teachers" / name, dataset)
    device = best_device()
    began = time.perf_counter()
    soft_targets.fill(soft_targets.folder_of(found, dataset), found, dataset, arguments.views, device)
    seconds = time.perf_counter() - began
    answers = arguments.views * len(dataset.train) + len(dataset.val)  # clean validation images are asked about too
    threads = torch.get_num_threads()
    print(f"{name}: {answers} answers in {seconds:.1f} s", flush=True)
    return {
        "answers": answers,
        "seconds": round(seconds, 2),
        "answers_per_second": round(answers / seconds, 2),
        "device": device.type,
        "threads": threads,
    }


def prepare_bank(folder: Path, arguments: argparse.Namespace) -> Path:
    """The folder of the teacher whose bank for the timed searches is complete."""
    dataset = load_dataset(dataset_section(arguments), arguments.data)
    found = common.random_teacher(TEACHER, folder / "teachers" / f"{TEACHER}_timed", dataset)
    if not bank_is_there(found, dataset, arguments.views):
        common.fill_with_stand_in(found, dataset, arguments.views)
    return found.folder


def bank_is_there(found: Teacher, dataset: Dataset, views: int) -> bool:
    """Whether the fill that was timed was the whole bank."""
    return soft_targets.missing_answers(soft_targets.folder_of(found, dataset), dataset, views) == 0


def dataset_section(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"name": "cifar10", "num_train": arguments.our_images}


def measure_round(number: int, weights: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All three sides once, and their ratios."""
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "peer": lambda: peer_epochs(arguments, TEACHER),
        "stacks": lambda: our_epochs(weights, folder / f"run_{number}", arguments, CPU_STACK),
        "one_by_one": lambda: our_epochs(weights, folder / f"run_{number}_one_by_one", arguments, 1),
    }
    order = list(sides) if number % 2 else list(reversed(sides))
    found = {name: sides[name]() for name in order}
    seconds = {name: median(on_ray.steady(side["seconds"])) for name, side in found.items()}
    peer = epochs_an_hour(seconds["peer"], arguments.images, arguments.places)
    ours, one_by_one = (
        epochs_an_hour(seconds[name], arguments.our_images, arguments.places) for name in ("stacks", "one_by_one")
    )
    by_ledger, one_by_one_by_ledger = (
        epochs_an_hour(median(found[name]["ledger_seconds"]), arguments.our_images, found[name]["at_once"])
        for name in ("stacks", "one_by_one")
    )
    print(f"round {number}: {peer:.1f}, {ours:.1f} and {one_by_one:.1f} epochs of 50,000 images an hour", flush=True)
    return {
        "order": order,
        **found,
        "peer_epochs_an_hour": round(peer, 3),
        "our_epochs_an_hour": round(ours, 3),
        "one_by_one_epochs_an_hour": round(one_by_one, 3),
        "ratio": round(ours / peer, 3),
        "ratio_by_ledger_clock": round(by_ledger / peer, 3),
        "ratio_one_by_one": round(one_by_one / peer, 3),
        "stack_ratio": round(ours / one_by_one, 3),
        "stack_ratio_by_ledger_clock": round(by_ledger / one_by_one_by_ledger, 3),
    }


def epochs_an_hour(seconds: float, images: int, at_once: int) -> float:
    """Student epochs of 50,000 images an hour, all that run at once together."""
    return 3600 * at_once / seconds * images / common.FULL_EPOCH


def peer_epochs(arguments: argparse.Namespace, teacher: str) -> dict[str, Any]:
    """Seconds of every epoch of the peer, in a process of its own."""
    settings = {
        "images": arguments.images,
        "epochs": arguments.epochs,
        "trials": arguments.trials * arguments.places,
        "concurrent": arguments.places,
    }
    command = [sys.executable, str(common.HERE / "naive_peer.py"), "--data", str(arguments.data), "--teacher", teacher]
    command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return {"teacher": teacher, "threads": answer["threads"], "seconds": answer["seconds"]}


def our_epochs(weights: Path, folder: Path, arguments: argparse.Namespace, stack: int) -> dict[str, Any]:
    """Seconds of every epoch of a kd_tune search: by the trials, and between rows of a trial by the ledger's clock."""
    raw = our_search(weights, arguments, arguments.places * (stack if stack > 1 else arguments.trials))
    if stack == 1:
        raw["resources"]["stack"] = 1
    state = on_ray.run_search(raw, folder, arguments.data, arguments.places)
    by_ledger: list[float] = []
    for trial in state.trials.values():
        by_ledger += on_ray.row_intervals([row["time"] for row in trial.rows.values()])
    seconds = on_ray.epoch_seconds(state)
    return {
        "threads": 1,
        "at_once": arguments.places * stack,
        "seconds": seconds,
        # One epoch a trial has no interval.
        "ledger_seconds": [round(value, 3) for value in by_ledger] or on_ray.steady(seconds),
    }


def our_search(weights: Path, arguments: argparse.Namespace, num_trials: int) -> dict[str, Any]:
    """What the peer searches, as a search file."""
    return {
        "search": {
            "num_trials": num_trials,
            "arms": ["distil"],
            "sampler": {"name": "random"},
            "scheduler": {"name": "none"},
        },
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0},
        "trial": {
            "dataset": dataset_section(arguments),
            "teacher": {"name": TEACHER, "weights": str(weights)},
            "student": {"name": "studentnet", "width": 1.0},
            "objective": {
                "name": "mixed_target",
                "alpha": {"float": [0.0, 1.0]},
                "temperature": {"float": [1.0, 20.0], "log": True},
            },
            "optimizer": {"name": "sgd", "lr": {"float": [0.005, 0.1], "log": True}},
            "training": {"num_epochs": arguments.epochs, "batch_size": 128, "views": arguments.views},
        },
    }


def measure_widths(weights: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of an epoch at width 1 and at every width of the shipped search, a stack's worth of trials each.

    Each width in a search of its own: how they meet in a search depends on its sampler.
    """
    widths = sorted({1.0, *naive_bill.shipped_widths()})
    found = {}
    for width in widths:
        raw = our_search(weights, arguments, arguments.places * CPU_STACK)
        raw["trial"]["student"] = {"name": "studentnet", "width": width}
        state = on_ray.run_search(raw, folder / f"run_width_{width:g}", arguments.data, arguments.places)
        found[f"{width:g}"] = round(median(on_ray.steady(on_ray.epoch_seconds(state))), 4)
    return found


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The result as Markdown."""
    rows = [
        (
            number,
            f"{median(on_ray.steady(one['peer']['seconds'])):.2f}",
            f"{median(on_ray.steady(one['stacks']['seconds'])):.2f}",
            f"{median(on_ray.steady(one['one_by_one']['seconds'])):.2f}",
            f"{one['peer_epochs_an_hour']:.1f}",
            f"{one['our_epochs_an_hour']:.0f}",
            f"{one['ratio']:.1f}",
            f"{one['ratio_one_by_one']:.1f}",
            f"{one['stack_ratio']:.2f}",
        )
        for number, one in enumerate(result["rounds"], start=1)
    ]
    header = (
        "round",
        f"peer: seconds an epoch of {arguments.images:,} images",
        f"stacks of {CPU_STACK}: seconds an epoch of {arguments.our_images:,} images",
        "one by one: seconds",
        "peer: epochs an hour",
        "stacks: epochs an hour",
        "stacks / peer",
        "one by one / peer",
        "stacks / one by one",
    )
    ours, peer, ratio = (result[key] for key in ("our_epochs_an_hour", "peer_epochs_an_hour", "ratio"))
    return f"""# kd_tune against a script without it

**{ours:.0f} student epochs an hour against {peer:.1f}: {ratio:.1f} times as many** (median of the ratios of
{len(rows)} rounds; in each round and on each side the median over all epochs but each trial's first:
{epochs_measured(result)}). An epoch has 50,000 images, {arguments.places} processes train, start-up is excluded, the
bank is filled. By the ledger's clock, which counts reports and checkpoints on kd_tune's side only, the ratio is
{result["ratio_by_ledger_clock"]:.1f}.

Without stacks kd_tune is {result["ratio_one_by_one"]:.1f} times as fast as the peer; stacks of {CPU_STACK} are
**{result["stack_ratio"]:.2f} times** as fast as that ({result["stack_ratio_by_ledger_clock"]:.2f} by the ledger's
clock).

{common.table(header, rows)}
{naive_bill.report(result, arguments)}
{common.conditions_markdown(result["conditions"])}"""


def epochs_measured(result: dict[str, Any]) -> str:
    """Of a round, side by side."""
    one = result["rounds"][0]
    return ", ".join(
        f"{name.replace('_', ' ')} {len(on_ray.steady(one[name]['seconds']))}" for name in sorted(one["order"])
    )


if __name__ == "__main__":
    main()
