"""What one GPU does with kd_tune, and what it does with the loop that one writes without it.

Claims: a GPU trains 64 StudentNets in one stack at 30 epochs of 50,000 images a second or more, a hundred times as many
as processes that each train one student and ask the teacher in every step; and it fills a whole bank at a fifth of its
matrix rate.

How: no Ray; the stacked host is asked as clients ask it. CIFAR-10, StudentNet of width 1, Hinton's loss, batches of
128.

- Students: --residents trials at one host, --views views with soft targets, from the end of the first epoch of all to
  the end of the last; with images in common, as the trials of a search have them, and each with its own; in float32,
  TF32 and bfloat16, whose mean validation accuracy after --epochs epochs stands beside.
- The naive loop: --processes processes at once, each with its own copy of images and teacher (vgg13_bn, random weights)
  on the GPU, crop and flip there too; the teacher is asked in every step. The best total over numbers of processes.
- Fill: answers a second of vgg13_bn (random weights) for --fill-views views of --images images; times its
  multiply-adds, over the rate of a bfloat16 product of 8192 x 8192 matrices measured in this run.

    python benchmarks/gpu.py --data cifar10.npz
    python benchmarks/gpu.py --data cifar10.npz --device cpu --images 500 --residents 2 --views 2 --epochs 2 \\
        --processes 1 --fill-views 1 --matrix 512 --out rehearsal     # a rehearsal without a GPU
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch
import torch.nn.functional as F

from kd_tune import soft_targets
from kd_tune.augment import apply_views, view_table
from kd_tune.catalog import build_network, load_dataset
from kd_tune.data import Dataset
from kd_tune.models.cost import multiply_adds
from kd_tune.records import Assignment, EpochRow, TeacherPlace
from kd_tune.stacked_host import StackedHost

TEACHER = "vgg13_bn"
PRECISIONS = ("float32", "tf32", "bfloat16")


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    dataset = load_dataset({"name": "cifar10", "num_train": arguments.images}, arguments.data)
    with common.temporary_cache() as folder:
        fill = measure_fill(dataset, folder, arguments)
        bank = stand_in_bank(dataset, folder, arguments)
        students = [
            measure_students(bank, precision, own, arguments) for precision in PRECISIONS for own in (False, True)
        ]
    naive = [measure_naive(count, arguments) for count in arguments.processes]
    result: dict[str, Any] = {
        "claim": "a GPU trains 64 students at 30 epochs a second",
        "students": students,
        "naive": naive,
        "ratio": round(max(one["epochs_a_second"] for one in students) / max(one["rate"] for one in naive), 1),
        "fill": fill,
        "conditions": made,
    }
    common.write_result("gpu", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--residents", type=int, default=64)
    parser.add_argument("--views", type=int, default=162)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--fill-views", type=int, default=162)
    parser.add_argument("--matrix", type=int, default=8192)
    return parser.parse_args()


def full_epochs(epochs: float, arguments: argparse.Namespace) -> float:
    """Epochs of 50,000 images."""
    return epochs * arguments.images / common.FULL_EPOCH


def stand_in_bank(dataset: Dataset, folder: Path, arguments: argparse.Namespace) -> Path:
    """A bank of all views, filled by a trivial network: how long a student trains does not depend on its numbers."""
    found = common.random_teacher("compact", folder / "stand_in", dataset)
    return common.fill_with_stand_in(found, dataset, arguments.views)


def measure_students(bank: Path, precision: str, own: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Student epochs a second of a host full of trials."""
    with tempfile.TemporaryDirectory() as checkpoints:
        host = StackedHost(threads=1)
        trials = [
            assignment(number, bank, Path(checkpoints), precision, own, arguments)
            for number in range(arguments.residents)
        ]
        rows = follow(host, trials)
    first = max(mine[0][0] for mine in rows)
    last = max(mine[-1][0] for mine in rows)
    counted = sum(when > first for mine in rows for when, _ in mine)
    accuracy = sum(mine[-1][1].val_accuracy for mine in rows) / len(rows)
    found = {
        "precision": precision,
        "images": "own" if own else "common",
        "epochs_a_second": round(full_epochs(counted, arguments) / (last - first), 3),
        "counted": counted,
        "mean_val_accuracy": round(accuracy, 5),
    }
    print(found, flush=True)
    return found


def assignment(
    number: int, bank: Path, checkpoints: Path, precision: str, own: bool, arguments: argparse.Namespace
) -> Assignment:
    """One of the trials: equal but for temperature, weight of the teacher, and rate."""
    share = number / max(1, arguments.residents - 1)
    trial = {
        "dataset": {"name": "cifar10", "num_train": arguments.images},
        "teacher": {"name": "compact"},
        "student": {"name": "studentnet", "width": 1.0},
        "objective": {"name": "hinton", "alpha": 0.5 + share / 2, "temperature": 1 + 7 * share},
        "optimizer": {"name": "sgd", "lr": 0.02 + 0.04 * share},
        "training": {
            "num_epochs": arguments.epochs,
            "batch_size": 128,
            "views": arguments.views,
            "precision": precision,
        },
    }
    return Assignment(
        number=number,
        arm="distil",
        trial=trial,
        seed=number,
        order_seed=number if own else 0,
        checkpoints=str(checkpoints / str(number)),
        source=str(arguments.data),
        teacher=TeacherPlace(bank=str(bank)),
        device=arguments.device,
    )


def follow(host: StackedHost, trials: list[Assignment]) -> list[list[tuple[float, EpochRow]]]:
    """All rows of some trials, with the moment at which each came, as their clients have them."""
    found: dict[int, list[tuple[float, EpochRow]]] = {one.number: [] for one in trials}

    def ask(number: int) -> None:
        while rows := host.rows(number, found[number][-1][1].epoch if found[number] else 0):
            found[number] += [(time.perf_counter(), row) for row in rows]
        host.leave(number)

    clients = [threading.Thread(target=ask, args=(one.number,)) for one in trials]
    for one in trials:
        host.open(one)
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if not all(found.values()):
        raise SystemExit("a trial gave no rows")
    return list(found.values())


def measure_naive(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Student epochs a second of so many naive loops at once, while all of them run."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    loops = [
        context.Process(target=naive_loop, args=(arguments, number, barrier, answers), daemon=True)
        for number in range(count)
    ]
    for loop in loops:
        loop.start()
    rates = [answers.get() for _ in loops]
    for loop in loops:
        loop.join()
    found = {"processes": count, "rate": round(sum(rates), 4)}
    print(found, flush=True)
    return found


def naive_loop(arguments: argparse.Namespace, seed: int, barrier: Any, answers: Any) -> None:
    """What one writes without kd_tune, with everything on the device; puts its epochs a second."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    dataset = load_dataset({"name": "cifar10", "num_train": arguments.images}, arguments.data)
    images = torch.from_numpy(dataset.train.images).to(device)
    labels = torch.from_numpy(dataset.train.labels).to(device)
    views = torch.from_numpy(view_table(flips=True)).to(device)
    teacher = build_network({"name": TEACHER}, **dataset.input_shape).eval().requires_grad_(False).to(device)
    student = build_network({"name": "studentnet", "width": 1.0}, **dataset.input_shape).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)

    def train(num_batches: int) -> None:
        order = torch.randperm(len(labels), device=device)
        for chosen in order.split(128)[:num_batches]:
            batch = apply_views(images[chosen], views[torch.randint(len(views), (len(chosen),), device=device)])
            pixels = batch.float() / 255
            with torch.no_grad():
                soft = F.softmax(teacher(pixels) / 4.0, dim=1)
            logits = student(pixels)
            loss = 0.9 * 16 * F.cross_entropy(logits / 4.0, soft) + 0.1 * F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronize(device)

    train(8)
    barrier.wait()
    began = time.perf_counter()
    train(10**9)
    answers.put(full_epochs(1, arguments) / (time.perf_counter() - began))


def measure_fill(dataset: Dataset, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Answers a second, and their share of the device's matrix rate."""
    device = torch.device(arguments.device)
    found = common.random_teacher(TEACHER, folder / "teacher", dataset)
    cost = multiply_adds(found.network, dataset.in_channels, dataset.image_size)
    soft_targets.fill(folder / "warm_up", found, dataset, 1, device)
    began = time.perf_counter()
    soft_targets.fill(folder / "bank", found, dataset, arguments.fill_views, device)
    seconds = time.perf_counter() - began
    answers = arguments.fill_views * len(dataset.train) + len(dataset.val)
    rate, peak = answers / seconds, matrix_rate(device, arguments.matrix)
    result = {
        "answers": answers,
        "seconds": round(seconds, 2),
        "answers_a_second": round(rate, 1),
        "multiply_adds": cost,
        "matrix_tflops": round(peak / 1e12, 3),
        "share": round(2 * cost * rate / peak, 4),
    }
    print(result, flush=True)
    return result


def matrix_rate(device: torch.device, size: int) -> float:
    """Floating-point operations a second of a bfloat16 matrix product; median of 10 after a warm-up."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        synchronize(device)
        began = time.perf_counter()
        torch.matmul(left, right)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / median(seconds[3:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    students = [
        (one["precision"], one["images"], f"{one['epochs_a_second']:.2f}", f"{100 * one['mean_val_accuracy']:.2f}")
        for one in result["students"]
    ]
    naive = [(one["processes"], f"{one['rate']:.3f}") for one in result["naive"]]
    fill = result["fill"]
    return f"""
# What one GPU does

## {arguments.residents} students at one host

{common.table(("precision", "images", "student epochs a second", "mean validation accuracy, %"), students)}

## Against the naive loop

{common.table(("processes at once", "student epochs a second"), naive)}

The best of the host over the best of the loops: **{result["ratio"]:.1f}**.

## The whole bank

{fill["answers"]:,} answers of {TEACHER} in {fill["seconds"]:.1f} s: {fill["answers_a_second"]:,.0f} a second, at
{fill["multiply_adds"]:,} multiply-adds each **{fill["share"]:.1%}** of the {fill["matrix_tflops"]:.1f} TFLOP/s of a
bfloat16 matrix product.

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
