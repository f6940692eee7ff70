"""Students trained in one step against the same students one by one.

Claim: on a CPU, narrow students that see the same images are trained about twice as fast in a stack; students with
images of their own gain less, and wide ones little or nothing. By that `stacked_host` and `StudentNet.stack_shapes`
decide.

How: one process, one thread. In every round each way of training runs once, in an order that is reversed every second
round: an epoch of `--images` CIFAR-10 images (views, soft targets of a bank, validation on `--val-images`), batches of
64 and 128. A stack's seconds are divided by its students. Ways: by itself; stacks of 1 (beside a copy of itself), 2, 4,
8, 16; 4 with orders of their own; widths 0.25 and 0.5, padded to 1; widths 2 and 4, which a search would not stack.
The ratio is of seconds by itself, at the same width, in the same round.

    python benchmarks/stacked.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch

from kd_tune.catalog import load_dataset
from kd_tune.engine import Student, advance, enrol
from kd_tune.models import studentnet
from kd_tune.models.cost import multiply_adds
from kd_tune.soft_targets import open_bank, read_fingerprint
from kd_tune.stack import advance_together
from kd_tune.trial_data import TrialData

# Number of students (0: one by itself), width, whether they have orders of their own.
WAYS = [
    *((count, 1.0, False) for count in (0, 1, 2, 4, 8, 16)),
    (4, 1.0, True),
    *((count, width, False) for width in (0.25, 0.5, 2.0, 4.0) for count in (0, 4)),
]
Way = tuple[int, float, bool]


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    torch.set_num_threads(1)
    with common.temporary_cache() as folder:
        data = prepare(folder, arguments)
        seconds = {batch: measure(data, batch, arguments) for batch in arguments.batches}
    result: dict[str, Any] = {
        "claim": "narrow students with common images are trained about twice as fast in a stack on a CPU",
        "ways": [
            {"batch": batch, "students": count, "width": width, "own_images": own} | figures(seconds[batch], way)
            for batch in arguments.batches
            for way in WAYS
            for count, width, own in [way]
        ],
        "conditions": made,
    }
    common.write_result("stacked", result, report(result), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    return parser.parse_args()


def prepare(folder: Path, arguments: argparse.Namespace) -> TrialData:
    """CIFAR-10 with the soft targets of a stand-in teacher; its first validation images."""
    dataset = load_dataset({"name": "cifar10", "num_train": arguments.images}, arguments.data)
    found = common.random_teacher("compact", folder / "teacher", dataset)
    bank = common.fill_with_stand_in(found, dataset, arguments.views)
    opened = open_bank(bank, read_fingerprint(bank), len(dataset.train), dataset.num_classes, arguments.views)
    data = TrialData(dataset, opened, torch.device("cpu"))
    data.val_images, data.val_labels = data.val_images[: arguments.val_images], data.val_labels[: arguments.val_images]
    assert data.val_teacher is not None
    data.val_teacher = data.val_teacher[: arguments.val_images]
    return data


def measure(data: TrialData, batch: int, arguments: argparse.Namespace) -> dict[Way, list[float]]:
    """Seconds of a student's epoch in every way, a figure a round."""
    found: dict[Way, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            students = list(learners(way, data, batch, arguments))
            with mock.patch.object(studentnet, "WIDEST_ON_CPU", max(1.0, way[1])):
                began = time.perf_counter()
                if way[0]:
                    advance_together(students, data)
                else:
                    advance(students[0], data)
                taken = (time.perf_counter() - began) / len(students)
            if number:  # the first round warms up
                found[way].append(taken)
        print(f"batches of {batch}: round {number} of {arguments.rounds}", flush=True)
    return found


def learners(way: Way, data: TrialData, batch: int, arguments: argparse.Namespace) -> Iterator[Student]:
    count, width, own = way
    trial = {
        "student": {"name": "studentnet", "width": width},
        "objective": {"name": "hinton", "alpha": 0.9, "temperature": 4.0},
        "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 5e-4},
        "training": {"num_epochs": 30, "batch_size": batch, "views": arguments.views},
    }
    for number in range(max(count, 1)):
        yield enrol(trial, data, seed=number, order_seed=number if own else 0)


def figures(seconds: dict[Way, list[float]], way: Way) -> dict[str, Any]:
    """Seconds of a student's epoch, and how many times faster than by itself."""
    alone = seconds[0, way[1], False]
    ratios = [one / other for one, other in zip(alone, seconds[way], strict=True)]
    return {"seconds": common.summary(seconds[way]), "ratio": common.summary(ratios, 2)}


def padding() -> str:
    """What padding adds to the arithmetic of narrow students: a sentence."""
    by_width = {width: multiply_adds(studentnet.StudentNet(width=width), 3, 32) for width in (0.25, 0.5, 1.0)}
    times = ", ".join(f"{by_width[1.0] / by_width[width]:.1f} times at width {width:g}" for width in (0.25, 0.5))
    return (
        f"Padded to width 1, a student of {by_width[1.0]:,} multiply-adds an image, narrow ones do more arithmetic "
        f"than they need: {times}. It costs no time, as the table shows."
    )


def report(result: dict[str, Any]) -> str:
    rows = [
        (
            one["batch"],
            f"{one['width']:g}",
            one["students"] or "by itself",
            "own" if one["own_images"] else "common",
            f"{one['seconds']['median']:.3f}",
            f"{one['ratio']['median']:.2f}",
            f"{one['ratio']['min']:.2f} to {one['ratio']['max']:.2f}",
        )
        for one in result["ways"]
    ]
    header = ("batch", "width", "students in a stack", "images", "seconds a student's epoch", "times as fast", "range")
    return f"""
# Students trained in one step

{common.table(header, rows)}

The ratio is the median over rounds of (seconds by itself) / (seconds in the stack), both of one round. A stack of 1 is
a student beside a copy of itself, which makes its numbers the same bit for bit whoever is beside it.

{padding()}

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
