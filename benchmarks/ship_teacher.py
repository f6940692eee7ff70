"""Puts a trained teacher into the package: weights in half precision, measured again on validation images, and a card.

kd-tune teacher train compact --dataset cifar10 --out first
kd-tune teacher train compact --dataset cifar10 --out second --start-from first --set training.num_epochs=8
    --set optimizer.lr=0.1 --set optimizer.weight_decay=0.0005
python benchmarks/ship_teacher.py first second --data cifar10.npz
kd-tune teacher measure kd_tune/shipped/compact-cifar10 --dataset cifar10

Of several teachers the mean of the weights is taken (Izmailov et al. 2018, arXiv:1803.05407): each must have started
from the first, or the mean is no good.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn

from kd_tune import teacher
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.paths import read_json, written_whole
from kd_tune.teacher import RECORD, SHIPPED, WEIGHTS

CARD = "README.md"
CPU = torch.device("cpu")


def main() -> None:
    arguments = _arguments()
    records = [read_json(folder / RECORD) for folder in arguments.teachers]
    record = records[0]
    dataset = load_dataset(record["recipe"]["dataset"], arguments.data)
    target = SHIPPED / f"{record['architecture']['name']}-{dataset.name}"
    with written_whole(target, replace=True) as temporary:
        averaged = mean_of([teacher.load(folder, dataset).network for folder in arguments.teachers])
        made = {"averaged_with": records[1:], "val_loss": None, "test_openings": []}
        teacher.save(temporary, averaged, record | made)
        whole = teacher.accuracy(teacher.load(temporary, dataset), dataset.val, CPU)
        teacher.save(temporary, averaged.half(), record | made)  # loading makes them float32 again
        found = teacher.load(temporary, dataset)
        val_accuracy = teacher.accuracy(found, dataset.val, CPU)
        teacher.update_record(temporary, val_accuracy=val_accuracy)
        figures = [(f"the mean of {len(records)}, float32", whole), ("the same in float16, as shipped", val_accuracy)]
        figures = [(f"training {n}", made["val_accuracy"]) for n, made in enumerate(records, start=1)] + figures
        (temporary / CARD).write_text(common.reflow(_card(records, dataset, figures)), encoding="utf-8")
    size = (target / WEIGHTS).stat().st_size
    print(f"{target.name}: {size / 1e6:.2f} MB, {val_accuracy:.2%} on {len(dataset.val)} validation images")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", type=Path, nargs="+", help="folders that `kd-tune teacher train --out` wrote")
    parser.add_argument("--data", type=Path, help="where its data set lies")
    return parser.parse_args()


def mean_of(networks: list[nn.Module]) -> nn.Module:
    """A network whose weights and statistics are the mean of those of several; whole numbers are the last one's."""
    states = [network.state_dict() for network in networks]
    mean = {
        key: torch.stack([state[key] for state in states]).mean(0) if value.is_floating_point() else value
        for key, value in states[-1].items()
    }
    networks[-1].load_state_dict(mean)
    return networks[-1]


def _card(records: list[dict[str, Any]], dataset: Dataset, figures: list[tuple[str, float]]) -> str:
    record = records[0]
    name = record["architecture"]["name"]
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items() if key != "commit" and value)
    trainings = "\n".join(_training(number, made) for number, made in enumerate(records, start=1))
    rows = [[text, f"{accuracy:.2%}"] for text, accuracy in figures]
    return f"""
# {name} for {dataset.name}

A teacher that comes with kd_tune, so that a search on {dataset.name} needs no training of one. Answers to its classes
({", ".join(dataset.class_names)}) for 3 x 32 x 32 images. It is meant for distillation experiments, and for nothing
that matters: it knows ten classes of small photographs.

## What it is

{record["num_parameters"]:,} parameters, float16 in `{WEIGHTS}`; `kd_tune/models/compact.py` builds the network,
`teacher.json` records how the weights came to be.

## How it was trained

On {len(dataset.train):,} of the 50,000 training images (split seed {dataset.split["split_seed"]}). The other
{len(dataset.val):,} were used for nothing but choosing the recipe, so a search with the same split may select on them.
The weights are the mean of {len(records)} trainings, each after the first started from the first
(`kd-tune teacher train --start-from`), put together by `benchmarks/ship_teacher.py`.

{trainings}
- on {record["hardware"]["processor"]}, which other work shared; seed {record["seed"]}; {versions}

## How good it is

Accuracy on the {len(dataset.val):,} validation images, in plain evaluation of one network on the clean image:

{common.table(["weights", "accuracy"], rows)}

On the test images: `benchmarks/README.md`, or `kd-tune teacher measure {name} --dataset {dataset.name}`.
"""  # noqa: S608 # prose that begins like SQL


def _training(number: int, record: dict[str, Any]) -> str:
    recipe = record["recipe"]
    minutes = f"{record['seconds_of_last_launch'] / 60:.0f} minutes with {record['threads']} threads"
    sections = "; ".join(_listed(recipe[key]) for key in ("objective", "optimizer", "training"))
    return f"- training {number}: {sections}; {minutes}"


def _listed(section: dict[str, Any]) -> str:
    return ", ".join(str(value) if key == "name" else f"{key} {value}" for key, value in section.items())


if __name__ == "__main__":
    main()
