"""Training on images that memory cannot hold.

Claim: an `image_folder` larger than a memory limit is decoded and trained on within that limit.

How: PNG files are made, of blocks in noisy colours by class, whose decoded cache is larger than `--limit`. A child
process in a memory cgroup of that limit, without swap, decodes them and trains StudentNet on them. The kernel counts
pages of mapped files against the limit too, but takes them back when room is needed; what it cannot take back is
anonymous memory, which is sampled ten times a second. The control, which shows that the limit is real: a second child
in such a cgroup does the same with the images copied into memory. It must be killed.

Needs Linux and the right to make cgroups (root, or a delegated one), version 1 or 2.

    python benchmarks/larger_than_memory.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from PIL import Image

from kd_tune.data import Dataset, Images, image_folder
from kd_tune.engine import TrialData, train

CGROUP = Path("/sys/fs/cgroup")
BLOCK = 12  # pixels a side of one shade
COLOURS = {"blue": (110, 120, 135), "green": (110, 135, 120), "grey": (122, 122, 122), "red": (135, 115, 115)}
POLL_SECONDS = 0.1


def main() -> None:
    arguments = parse_arguments()
    if arguments.child:
        print(json.dumps(work(arguments)))
        return
    del arguments.child, arguments.png  # nobody's to set
    made = common.conditions(arguments)
    limit = int(arguments.limit * 1e9)
    with cgroup(limit), common.temporary_cache() as folder:  # the first is to fail early where there is no right
        seconds = make_images(folder / "png", arguments)
        print(f"{arguments.images} files made in {seconds:.0f} s", flush=True)
        mapped = run_limited("mapped", folder / "png", limit, arguments)
        cache = sum(path.stat().st_size for path in (folder / "images").rglob("*.u8"))
        held = run_limited("held", folder / "png", limit, arguments)
    if cache <= limit or mapped["exit"] or not held["exit"]:
        raise SystemExit(f"the claim does not hold: cache {cache}, limit {limit}, mapped {mapped}, held {held}")
    result = {
        "claim": "an image_folder larger than a memory limit is decoded and trained on within that limit",
        "cache_bytes": cache,
        "limit_bytes": limit,
        "mapped": mapped,
        "held_in_memory": held,
        "conditions": made,
    }
    common.write_result("larger_than_memory", result, report(result, arguments), arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--limit", type=float, default=1.5, help="GB that a child may take")
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--image-size", type=int, default=192, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--child", choices=["mapped", "held"], help=argparse.SUPPRESS)
    parser.add_argument("--png", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_images(folder: Path, arguments: argparse.Namespace) -> float:
    """FOLDER/CLASS/NUMBER.png: a class colour under noise; returns the seconds it took."""
    began = time.monotonic()
    random = np.random.RandomState(0)
    blocks = -(-arguments.image_size // BLOCK)
    for number in range(arguments.images):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        shades = np.clip(random.normal(colour, 60, (blocks, blocks, 3)), 0, 255).astype(np.uint8)
        pixels = shades.repeat(BLOCK, 0).repeat(BLOCK, 1)[: arguments.image_size, : arguments.image_size]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{number:06d}.png", compress_level=1)
    return time.monotonic() - began


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a child does: decode what is not decoded yet, train, tell its figures."""
    torch.set_num_threads(1)
    began = time.monotonic()
    dataset = image_folder(arguments.png, image_size=arguments.image_size)
    decoded = time.monotonic() - began
    if arguments.child == "held":
        dataset = in_memory(dataset)
    trial = {
        "student": {"name": "studentnet", "width": 0.25},
        "objective": {"name": "cross_entropy"},
        "optimizer": {"name": "sgd", "lr": 0.02},
        "training": {"num_epochs": arguments.epochs, "batch_size": 64},
    }
    rows = [row for row, _ in train(trial, TrialData(dataset, None, torch.device("cpu")), seed=0)]
    return {
        "decoding_seconds": round(decoded, 1),
        "epoch_seconds": [round(row.seconds, 1) for row in rows],
        "val_accuracy": [round(row.val_accuracy, 4) for row in rows],
        "num_train": len(dataset.train),
        "num_val": len(dataset.val),
    }


def in_memory(dataset: Dataset) -> Dataset:
    """The same images, copied."""
    train, val = (Images(np.array(part.images), part.labels) for part in (dataset.train, dataset.val))
    return replace(dataset, train=train, val=val, mapped=None)


def run_limited(mode: str, png: Path, limit: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A child in a memory cgroup: how it ended, what it took, and its own figures if it came to its end."""
    command = [sys.executable, __file__, "--child", mode, "--png", str(png)]
    command += ["--image-size", str(arguments.image_size), "--epochs", str(arguments.epochs)]
    with cgroup(limit) as group:
        # A shell enters the group and becomes the child, so that every page of it is counted.
        entering = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.folder / "cgroup.procs"), *command]
        began = time.monotonic()
        child = subprocess.Popen(entering, stdout=subprocess.PIPE, text=True, env=child_environment())
        anonymous = 0
        while child.poll() is None:
            anonymous = max(anonymous, group.read(group.anonymous))
            time.sleep(POLL_SECONDS)
        output, _ = child.communicate()
        figures: dict[str, Any] = {
            "exit": child.returncode,
            "seconds": round(time.monotonic() - began, 1),
            "peak_bytes": group.read(group.peak),
            "peak_anonymous_bytes": anonymous,
            "killed_for_memory": group.read(group.kills),
        }
    return figures | (json.loads(output.splitlines()[-1]) if child.returncode == 0 else {})


def child_environment() -> dict[str, str]:
    """The package that this script runs with, and one thread."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Group:
    """A memory cgroup; its figures are (file, key), or (file, "") where the file is the figure."""

    folder: Path
    limit: str
    peak: tuple[str, str]
    anonymous: tuple[str, str]
    kills: tuple[str, str]

    def read(self, figure: tuple[str, str]) -> int:
        file, key = figure
        lines = [line.split() for line in (self.folder / file).read_text(encoding="utf-8").splitlines()]
        return int(dict(lines)[key]) if key else int(lines[0][0])


@contextmanager
def cgroup(limit: int) -> Iterator[Group]:
    """A new memory cgroup of version 1 or 2, removed afterwards."""
    name = f"kd_tune_{os.getpid()}_{time.monotonic_ns()}"
    if (CGROUP / "memory").is_dir():
        group = Group(
            CGROUP / "memory" / name,
            "memory.limit_in_bytes",
            ("memory.max_usage_in_bytes", ""),
            ("memory.stat", "total_rss"),
            ("memory.oom_control", "oom_kill"),
        )
    else:
        group = Group(
            CGROUP / name, "memory.max", ("memory.peak", ""), ("memory.stat", "anon"), ("memory.events", "oom_kill")
        )
    try:
        group.folder.mkdir()
        (group.folder / group.limit).write_text(str(limit))
        for swap in ("memory.swap.max", "memory.swappiness"):
            if (group.folder / swap).exists():
                (group.folder / swap).write_text("0")
    except OSError as error:
        if group.folder.is_dir():
            group.folder.rmdir()
        raise SystemExit(no_cgroup(group.folder, error)) from None
    try:
        yield group
    finally:
        group.folder.rmdir()


def no_cgroup(folder: Path, error: OSError) -> str:
    return (
        f"{folder}: no memory cgroup can be made here ({error.strerror}); run this as root, "
        "where cgroup version 1 or 2 is mounted writable and its memory controller is enabled"
    )


def report(result: dict[str, Any], arguments: argparse.Namespace) -> str:
    mapped, held = result["mapped"], result["held_in_memory"]
    rows = [
        [
            name,
            "to its end" if one["exit"] == 0 else f"killed for memory ({one['killed_for_memory']})",
            f"{one['peak_bytes'] / 1e9:.2f}",
            f"{one['peak_anonymous_bytes'] / 1e9:.2f}",
            f"{one['seconds']:.0f}",
        ]
        for name, one in (("mapped", mapped), ("held in memory (control)", held))
    ]
    size = arguments.image_size
    return f"""# Images that memory cannot hold

A decoded cache of **{result["cache_bytes"] / 1e9:.2f} GB** was made and trained on under a limit of
**{result["limit_bytes"] / 1e9:.2f} GB** (a memory cgroup, no swap): {mapped["num_train"]} training and
{mapped["num_val"]} validation images of 3 x {size} x {size}, StudentNet of width 0.25, {arguments.epochs} epochs, one
thread, decoding included. Validation accuracy by epoch:
{", ".join(f"{value:.1%}" for value in mapped["val_accuracy"])} (four classes). Decoding took
{mapped["decoding_seconds"]:.0f} s, the epochs {", ".join(f"{value:.0f}" for value in mapped["epoch_seconds"])} s.

{common.table(["images", "ran", "peak, GB", "of it anonymous, GB", "seconds"], rows)}

The peak counts pages of mapped files, which the kernel takes back when room is needed, so a mapped run fills its limit
and stays within it. The control copies the same images into memory first.

{common.conditions_markdown(result["conditions"])}"""


if __name__ == "__main__":
    main()
