"""The shipped CIFAR-10 search as a bill: hours of a script without kd_tune, and of kd_tune with the teacher's answers.

Nothing is run here: `against_naive.py` measures the rates that go in.
"""

from __future__ import annotations

import argparse
from statistics import mean, median
from typing import Any

import common
import on_ray

from kd_tune.expected import ORDERS, expected_epochs
from kd_tune.ranges import Choice
from kd_tune.search_file import load_search_file

SHIPPED = common.ROOT / "search_spaces" / "cifar10.yaml"
NUM_TRAIN, NUM_VAL = 45_000, 5_000


def shipped_widths() -> list[float]:
    """Widths that the shipped search chooses from."""
    file = load_search_file(SHIPPED)
    width = file.trial["student"].get("width", 1.0)
    return [float(value) for value in (width.options if isinstance(width, Choice) else [width])]


def shipped_search(result: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The bill for `search_spaces/cifar10.yaml` on both sides, the fill included."""
    file = load_search_file(SHIPPED)
    by_arm = {arm: expected_epochs(file, trials) for arm, trials in file.search.trials_by_arm().items()}
    widths = result["median_seconds_by_width"]
    factor = mean(widths[f"{width:g}"] for width in shipped_widths()) / widths["1"]
    ours = median(value for one in result["rounds"] for value in on_ray.steady(one["stacks"]["seconds"]))
    peer = median(value for one in result["rounds"] for value in on_ray.steady(one["peer"]["seconds"]))
    our_epoch = ours / arguments.our_images * NUM_TRAIN * factor
    views = file.trial["training"].get("views", 1)
    peer_seconds = {"vgg13_bn": peer, "compact": median(on_ray.steady(result["peer_with_compact"]["seconds"]))}
    scopes = {"all arms": sum(by_arm.values()), "the distil arm alone": by_arm["distil"]}
    bills = [
        bill(
            scope,
            epochs,
            name,
            peer_seconds[name] / arguments.images * NUM_TRAIN,
            our_epoch,
            (views * NUM_TRAIN + NUM_VAL) / result["fills"][name]["answers_per_second"],
            arguments.places,
        )
        for name in peer_seconds
        for scope, epochs in scopes.items()
    ]
    return {
        "expected_epochs_by_arm": {arm: round(epochs, 1) for arm, epochs in by_arm.items()},
        "views": views,
        "width_factor": round(factor, 3),
        "bills": bills,
    }


def bill(
    scope: str,
    epochs: float,
    teacher: str,
    peer_epoch: float,
    our_epoch: float,
    fill_seconds: float,
    concurrent: int,
) -> dict[str, Any]:
    """Hours on both sides and their ratio; a fill has the machine to itself, epochs run `concurrent` at a time."""
    peer_seconds = epochs * peer_epoch / concurrent
    training_seconds = epochs * our_epoch / concurrent
    return {
        "scope": scope,
        "teacher": teacher,
        "epochs": round(epochs, 1),
        "peer_hours": round(peer_seconds / 3600, 3),
        "fill_hours": round(fill_seconds / 3600, 3),
        "training_hours": round(training_seconds / 3600, 3),
        "ratio_without_fill": round(peer_seconds / training_seconds, 2),
        "ratio": round(peer_seconds / (fill_seconds + training_seconds), 2),
    }


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The bill for the shipped search, and how it was computed, as Markdown."""
    shipped = result["shipped_search"]
    header = ("teacher", "scope", "student epochs", "peer, h", "fill, h", "training, h", "ratio", "ratio without fill")
    keys = ("teacher", "scope", "epochs", "peer_hours", "fill_hours", "training_hours", "ratio", "ratio_without_fill")
    by_arm = ", ".join(f"{arm} {epochs:g}" for arm, epochs in shipped["expected_epochs_by_arm"].items())
    by_width = ", ".join(f"{width}: {seconds:.2f} s" for width, seconds in result["median_seconds_by_width"].items())
    scaled = f"student epochs x seconds an epoch, scaled to {NUM_TRAIN:,} images / {arguments.places} at once"
    filler = "the teacher itself" if arguments.fill_images == arguments.our_images else "a trivial network in its name"
    return f"""## The shipped CIFAR-10 search, with the fill on the bill

{common.table(header, [[one[key] for key in keys] for one in shipped["bills"]])}
Computed from the measured rates, not run:

- Peer: {scaled}. For `compact` its
  epochs were measured with that teacher asked in every step
  (n = {len(on_ray.steady(result["peer_with_compact"]["seconds"]))}).
- Fill: {shipped["views"]} views x {NUM_TRAIN:,} images + {NUM_VAL:,} validation images / answers a second
  ({describe_fills(result["fills"])}).
- Training: {scaled} x
  {shipped["width_factor"]}, the mean cost of the file's widths relative to width 1 ({by_width}; that pruning
  may favour the wide ones is not counted). The peer is charged width 1 throughout.
- Student epochs, expected: {by_arm}. kd_tune's rungs are played
  {ORDERS} times with trials in random order, one after another, each of the same merit at every rung; none diverges.
  Random order is an assumption: under a sampler that learns, later trials survive more often, on both sides.
- "All arms" charges the peer for a teacher in the controls too. Whoever leaves it out there compares the distil arm
  alone, to which kd_tune's whole fill is then charged.
- Start-up, and what lies between trials, is left out on both sides. The bank of the timed searches was filled by
  {filler}.
"""


def describe_fills(fills: dict[str, Any]) -> str:
    return "; ".join(
        f"{name}: {fill['answers_per_second']:.0f}, from {fill['answers']:,} answers, {fill['device']}, "
        f"{fill['threads']} threads"
        for name, fill in fills.items()
    )
