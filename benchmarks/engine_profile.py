"""Where an epoch of the engine spends its time, and how much of a core's arithmetic it uses.

Claim: with the teacher's answers in a bank, a student's epoch is mostly the student's own arithmetic.

How: StudentNet of width 1, batches of 128, CIFAR-10 with 8 views and a bank of random float16 logits, one thread. Three
measurements take turns in one process, after one epoch of each to warm up:

- torch.mm of two 2048 x 2048 float32 matrices, the core's measured rate: the best of the rounds' medians;
- an epoch of `kd_tune.engine.train`, whose row says images a second and seconds;
- an epoch in a loop that calls what the engine's calls, in its order, with a clock between the pieces: the median over
  the steps of each piece, times the number of steps.

An image takes 3 x 2 x 651,720 floating-point operations: multiply and add, forward once and backward twice. Pooling,
activations, loss and optimizer are not counted as work, but their time counts. By this usual convention the gradient
with respect to the images is counted, which the engine does not compute; the share without it is given too.

    python benchmarks/engine_profile.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import common
import numpy as np
import torch
from torch import nn

from kd_tune import engine
from kd_tune.catalog import build_objective, build_optimizer, build_student, load_dataset
from kd_tune.data import Dataset
from kd_tune.engine import LAYOUT
from kd_tune.objectives import Objective
from kd_tune.soft_targets import Bank
from kd_tune.trial_data import TrialData

# conv1 28 x 28 x 6 x 75, conv2 10 x 10 x 16 x 150, linear 400 x 120, 120 x 84, 84 x 10.
MULTIPLY_ADDS = 651_720
FIRST_LAYER = 352_800  # of them in conv1; its backward pass needs the gradient of the weights only
FLOP_AN_IMAGE = 3 * 2 * MULTIPLY_ADDS
SIDE = 2048
PIECES = {
    "data": "batch: gather, view, normalise, labels, teacher's logits",
    "forward": "network",
    "loss": "objective",
    "backward": "gradients",
    "step": "learning rate, optimizer, sums of the loss",
}


class Clock:
    """Adds the time since it was last asked to a named piece."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, piece: str) -> None:
        now = time.perf_counter()
        self.seconds[piece].append(now - self._last)
        self._last = now


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    torch.set_num_threads(1)
    data = trial_data(arguments)
    measured = measure(data, arguments)
    result = evaluate(measured, data, arguments)
    result["conditions"] = made
    common.write_result("engine_profile", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-10: a folder or an .npz file [default: where kd_tune looks]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--products", type=int, default=7, help="matrix products a round")
    return parser.parse_args()


def trial_data(arguments: argparse.Namespace) -> TrialData:
    """CIFAR-10 and a bank of random logits, as a trial has them."""
    dataset = load_dataset({"name": "cifar10", "num_train": arguments.images}, arguments.data)
    return TrialData(dataset, random_bank(dataset, arguments.views), torch.device("cpu"))


def random_bank(dataset: Dataset, views: int) -> Bank:
    generator = np.random.default_rng(0)
    shapes = (views, len(dataset.train), dataset.num_classes), (len(dataset.val), dataset.num_classes)
    logits, val_logits = (generator.standard_normal(shape, dtype=np.float32).astype(np.float16) for shape in shapes)
    return Bank(logits, val_logits, "random")


def trial_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "student": {"name": "studentnet", "width": 1.0},
        "objective": {"name": "mixed_target", "alpha": 0.5, "temperature": 4.0},
        "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 5e-4},
        "training": {
            "num_epochs": arguments.rounds + 1,
            "batch_size": arguments.batch_size,
            "views": arguments.views,
            "schedule": "constant",
        },
    }


def measure(data: TrialData, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The three measurements in turn; the first round warms up and is dropped."""
    rows = engine.train(trial_of(arguments), data, seed=0)
    profiled = profiled_epochs(data, arguments)
    measured = []
    for number in range(arguments.rounds + 1):
        product_rate = matrix_rate(arguments.products)
        row, _ = next(rows)
        pieces, validation = next(profiled)
        measured.append({"product_rate": product_rate, "row": row, "pieces": pieces, "validation": validation})
        print(
            f"round {number}: {row.images_per_second:.0f} images a second, {product_rate / 1e9:.1f} GFLOP/s", flush=True
        )
    return measured[1:]


def matrix_rate(products: int) -> float:
    """Floating-point operations a second of a large float32 matrix product, the median of several."""
    left, right, out = (torch.ones(SIDE, SIDE) for _ in range(3))
    seconds = []
    for _ in range(products + 1):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / median(seconds[1:])


def profiled_epochs(data: TrialData, arguments: argparse.Namespace) -> Iterator[tuple[dict[str, list[float]], float]]:
    """Epochs with a clock between the pieces: seconds of every piece in every step, and of validation."""
    trial = trial_of(arguments)
    torch.manual_seed(0)
    network = build_student(trial["student"], data.dataset).to(memory_format=LAYOUT)
    optimizer = build_optimizer(trial["optimizer"], network)
    objective = build_objective(trial["objective"], data.dataset)
    while True:
        network.train()
        pieces = profiled_epoch(network, optimizer, objective, data, arguments)
        began = time.perf_counter()
        engine.judge(engine.answer(network, data), data)
        yield pieces, time.perf_counter() - began


def profiled_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    data: TrialData,
    arguments: argparse.Namespace,
) -> dict[str, list[float]]:
    """What the engine does with the training images in an epoch, step by step; see `engine._train_epoch`."""
    order = torch.randperm(len(data.labels))
    views = torch.randint(arguments.views, (len(order),)) if arguments.views > 1 else None
    sums: dict[str, torch.Tensor] = {}
    clock = Clock()
    for start in range(0, len(order), arguments.batch_size):
        chosen = slice(start, start + arguments.batch_size)
        clock.start()
        images, labels, teacher_logits = data.batch(order[chosen], None if views is None else views[chosen])
        clock.lap("data")
        logits = network(images.contiguous(memory_format=LAYOUT))
        clock.lap("forward")
        parts = objective(logits.float(), labels, teacher_logits)
        total = torch.stack(list(parts.values())).sum()
        clock.lap("loss")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        clock.lap("backward")
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.step()
        for name, part in parts.items():
            sums[name] = sums.get(name, torch.zeros(())) + part.detach() * len(labels)
        clock.lap("step")
    return clock.seconds


def evaluate(measured: list[dict[str, Any]], data: TrialData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over rounds and steps."""
    steps = math.ceil(len(data.labels) / arguments.batch_size)
    milliseconds = {
        piece: 1000 * median(value for one in measured for value in one["pieces"][piece]) for piece in PIECES
    }
    seconds = {piece: value * steps / 1000 for piece, value in milliseconds.items()}
    seconds["validation"] = median(one["validation"] for one in measured)
    images_per_second = median(one["row"].images_per_second for one in measured)
    achieved = images_per_second * FLOP_AN_IMAGE
    possible = max(one["product_rate"] for one in measured)
    return {
        "claim": "with the teacher's answers in a bank, a student's epoch is mostly the student's own arithmetic",
        "steps": steps,
        "milliseconds_a_step": {piece: round(value, 4) for piece, value in milliseconds.items()},
        "seconds_an_epoch": {piece: round(value, 4) for piece, value in seconds.items()},
        "sum_of_pieces_seconds": round(sum(seconds.values()), 4),
        "engine_epoch_seconds": common.summary([one["row"].seconds for one in measured]),
        "images_per_second": common.summary([one["row"].images_per_second for one in measured], 1),
        "student_gflops": round(achieved / 1e9, 2),
        "matrix_product_gflops": round(possible / 1e9, 2),
        "matrix_product_gflops_rounds": [round(one["product_rate"] / 1e9, 2) for one in measured],
        "share_of_matrix_product_rate": round(achieved / possible, 4),
        "share_without_gradient_of_images": round(achieved / possible * (1 - FIRST_LAYER / (3 * MULTIPLY_ADDS)), 4),
    }


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The result as Markdown."""
    seconds, total = result["seconds_an_epoch"], result["sum_of_pieces_seconds"]
    rows = [
        (
            piece,
            PIECES.get(piece, "the validation images: forward, accuracy, loss, calibration"),
            f"{result['milliseconds_a_step'][piece]:.3f}" if piece in PIECES else "",
            f"{value:.2f}",
            f"{100 * value / total:.0f}",
        )
        for piece, value in seconds.items()
    ]
    rows.append(("sum", "", "", f"{total:.2f}", "100"))
    epoch, rate = result["engine_epoch_seconds"], result["images_per_second"]
    return f"""# Where an epoch of the engine spends its time

**StudentNet runs at {result["student_gflops"]:.1f} GFLOP/s, {100 * result["share_of_matrix_product_rate"]:.0f} % of
the {result["matrix_product_gflops"]:.0f} GFLOP/s that the same core reaches in float32 matrix products**:
{rate["median"]:.0f} images a second as the engine reports them, {epoch["median"]:.2f} s an epoch of
{arguments.images:,} images with validation (median of {epoch["n"]} epochs, {epoch["min"]:.2f} to {epoch["max"]:.2f} s).
Width 1, batches of {arguments.batch_size}, {arguments.views} views, one thread.

{common.table(("piece", "what", "ms a step", "s an epoch", "%"), rows)}
Medians over all steps of {epoch["n"]} epochs, times {result["steps"]} steps. The loop with the clock and the engine's
own epoch are separate runs: the sum should come close to the engine's {epoch["median"]:.2f} s.

An image takes 3 x 2 x {MULTIPLY_ADDS:,} floating-point operations; without the gradient with respect to the images,
which the convention counts and the engine leaves out, the share is
{100 * result["share_without_gradient_of_images"]:.0f} %. The matrix product is {SIDE} x {SIDE} x {SIDE}, the
best of {epoch["n"]} rounds' medians of {arguments.products}.

{common.conditions_markdown(result["conditions"])}"""


if __name__ == "__main__":
    main()
