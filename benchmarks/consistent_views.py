"""Soft targets of the very view that the student sees, against those of the clean image, and against a live teacher.

Claim: a bank of views teaches what a live teacher teaches, in a fraction of its time, and more than a bank of clean
images; float16 costs it nothing.

How: the shipped teacher `compact`, --images CIFAR-10 training images, StudentNet of width 1, Hinton's loss (alpha 0.9,
temperature 4), batches of 128, one-cycle SGD, --views views. In every epoch the same student is trained on in three
ways, which take turns in an order that is reversed every second epoch: with a bank of all views; with the teacher's
answer to the clean image, whatever the view; with the teacher asked in every step (--live-seeds of the seeds, because
that is slow). First weights, order and views of a seed are the same for all three. One process, one thread.
Accuracies are of 5,000 validation images after the last epoch, differences are paired by seed.
float16: the divergence KL(p || q) of the softened answers p, in float32, and q, rounded to float16, over the clean
training images.

    python benchmarks/consistent_views.py --data cifar10.npz
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from scipy.stats import ttest_1samp

from kd_tune import soft_targets, teacher
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.engine import Student, advance, enrol
from kd_tune.teacher import Answers, Teacher
from kd_tune.trial_data import TrialData

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
BANK, CLEAN, LIVE = "bank of views", "clean image's answer", "live teacher"
CPU = torch.device("cpu")


def main() -> None:
    arguments = parse_arguments()
    made = common.conditions(arguments)
    dataset = load_dataset({"name": "cifar10", "num_train": arguments.images}, arguments.data)
    with common.temporary_cache() as folder:
        found = teacher.load(teacher.SHIPPED / "compact-cifar10", dataset)
        began = time.perf_counter()
        soft_targets.fill(folder / "bank", found, dataset, arguments.views, CPU)
        fill_seconds = time.perf_counter() - began
        torch.set_num_threads(1)
        seeds = [train_seed(seed, ways(folder / "bank", found, dataset, arguments, seed), arguments)
                 for seed in range(arguments.seeds)]  # fmt: skip
    result: dict[str, Any] = {
        "claim": "a bank of views teaches what a live teacher teaches, in a fraction of its time",
        "fill_seconds": round(fill_seconds, 1),
        "ways": {way: summary_of(way, seeds) for way in (BANK, CLEAN, LIVE)},
        "bank_less_clean": difference(seeds, BANK, CLEAN),
        "bank_less_live": difference(seeds, BANK, LIVE),
        "live_seconds_over_bank": ratio_of_seconds(seeds, LIVE, BANK),
        "float16_kl": divergences(found, dataset),
        "seeds": seeds,
        "conditions": made,
    }
    common.write_result("consistent_views", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as an .npz file")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--live-seeds", type=int, default=2)
    return parser.parse_args()


def ways(
    bank: Path, found: Teacher, dataset: Dataset, arguments: argparse.Namespace, seed: int
) -> dict[str, TrialData]:
    """The data of every way of teaching; a live teacher for the first seeds only."""
    opened = soft_targets.open_bank(
        bank, soft_targets.read_fingerprint(bank), len(dataset.train), dataset.num_classes, arguments.views
    )
    data = {BANK: TrialData(dataset, opened, CPU), CLEAN: TrialData(dataset, opened, CPU)}
    clean = data[CLEAN].teacher_logits
    assert clean is not None
    data[CLEAN].teacher_logits = clean[:1].expand(arguments.views, -1, -1)
    if seed < arguments.live_seeds:
        data[LIVE] = TrialData(dataset, None, CPU, found)
    return data


def train_seed(seed: int, data: Mapping[str, TrialData], arguments: argparse.Namespace) -> dict[str, Any]:
    """One student in every way: its last accuracy, and the seconds of its epochs."""
    trial = {
        "student": {"name": "studentnet", "width": 1.0},
        "objective": {"name": "hinton", "alpha": 0.9, "temperature": 4.0},
        "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4},
        "training": {"num_epochs": arguments.epochs, "batch_size": 128, "views": arguments.views},
    }
    students: dict[str, Student] = {way: enrol(trial, mine, seed) for way, mine in data.items()}
    rows: dict[str, list[Any]] = {way: [] for way in data}
    for epoch in range(arguments.epochs):
        for way in list(data) if epoch % 2 else reversed(list(data)):
            rows[way].append(advance(students[way], data[way]))
    print(f"seed {seed}: " + ", ".join(f"{way} {mine[-1].val_accuracy:.2%}" for way, mine in rows.items()), flush=True)
    return {
        way: {"accuracy": mine[-1].val_accuracy, "seconds": [round(row.seconds, 4) for row in mine]}
        for way, mine in rows.items()
    }


def summary_of(way: str, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [one[way] for one in seeds if way in one]
    return {
        "accuracy": common.summary([one["accuracy"] for one in mine]),
        "seconds": common.summary([value for one in mine for value in one["seconds"][1:]]),
    }


def difference(seeds: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, Any]:
    """In accuracy, paired by seed, with a 95 % interval over seeds (Student's t)."""
    pairs = [one[first]["accuracy"] - one[second]["accuracy"] for one in seeds if first in one and second in one]
    low, high = ttest_1samp(pairs, 0.0).confidence_interval(0.95)
    mean = sum(pairs) / len(pairs)
    return {"mean": round(mean, 5), "low": round(float(low), 5), "high": round(float(high), 5), "n": len(pairs)}


def ratio_of_seconds(seeds: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, Any]:
    """Of epochs of the same number, whose turns followed each other; without a training's first."""
    pairs = [
        mine / other
        for one in seeds
        if first in one
        for mine, other in list(zip(one[first]["seconds"], one[second]["seconds"], strict=True))[1:]
    ]
    return common.summary(pairs, 1)


def divergences(found: Teacher, dataset: Dataset) -> list[dict[str, Any]]:
    """KL(float32 || float16) of softened answers to the clean training images, in nats."""
    answers = Answers(found, CPU)
    exact = torch.cat([answers(torch.from_numpy(images)) for images in _batches(dataset)]).double()
    rounded = exact.half().double()
    table = []
    for temperature in TEMPERATURES:
        p, q = (F.log_softmax(logits / temperature, dim=-1) for logits in (exact, rounded))
        kl = (p.exp() * (p - q)).sum(-1)
        entropy = -(p.exp() * p).sum(-1)
        table.append(
            {
                "temperature": temperature,
                "mean": float(kl.mean()),
                "max": float(kl.max()),
                "mean_entropy": float(entropy.mean()),
            }
        )
    return table


def _batches(dataset: Dataset) -> list[Any]:
    images = dataset.train.images
    return [images[start : start + 500] for start in range(0, len(images), 500)]


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    rows = [
        (
            way,
            one["accuracy"]["n"],
            f"{100 * one['accuracy']['median']:.2f}",
            f"{100 * one['accuracy']['min']:.2f} to {100 * one['accuracy']['max']:.2f}",
            f"{one['seconds']['median']:.2f}",
        )
        for way, one in result["ways"].items()
    ]
    header = ("soft targets", "seeds", "validation accuracy, %", "range", "seconds an epoch")
    precision = [
        (f"{one['temperature']:g}", f"{one['mean']:.1e}", f"{one['max']:.1e}", f"{one['mean_entropy']:.2f}")
        for one in result["float16_kl"]
    ]
    ratio = result["live_seconds_over_bank"]
    return f"""
# What a bank of views is worth

{common.table(header, rows)}

- Bank of views less clean image's answer: {_points(result["bank_less_clean"])}.
- Bank of views less live teacher: {_points(result["bank_less_live"])}.
- An epoch with the live teacher takes **{ratio["median"]:.1f} times** as long as one with the bank
  ({ratio["min"]:.1f} to {ratio["max"]:.1f}, n = {ratio["n"]}). The fill of {arguments.views} views took
  {result["fill_seconds"]:.0f} s, once, on two threads.

## float16 against float32

{common.table(("temperature", "mean KL, nats", "largest", "mean entropy of the soft targets"), precision)}

{common.conditions_markdown(result["conditions"])}
"""


def _points(found: Mapping[str, Any]) -> str:
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.2f} points ({low:+.2f} to {high:+.2f}, n = {found['n']})"


if __name__ == "__main__":
    main()
