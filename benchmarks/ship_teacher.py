"""Puts a trained teacher into the package: weights in half precision, measured again on validation images, and a card.

kd-tune teacher train compact --dataset cifar10 --out teacher
python benchmarks/ship_teacher.py teacher --data cifar10.npz
kd-tune teacher measure kd_tune/shipped/compact-cifar10 --dataset cifar10
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common
import torch

from kd_tune import teacher
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.paths import read_json, written_whole
from kd_tune.teacher import RECORD, SHIPPED, WEIGHTS, Teacher

CARD = "README.md"


def main() -> None:
    arguments = _arguments()
    record = read_json(arguments.teacher / RECORD)
    section = record["recipe"]["dataset"]
    dataset = load_dataset(section, arguments.data)
    target = SHIPPED / f"{record['architecture']['name']}-{dataset.name}"
    with written_whole(target, replace=True) as temporary:
        halved = teacher.load(arguments.teacher, dataset).network.half()  # loading makes them float32 again
        teacher.save(temporary, halved, record | {"test_openings": []})
        found = teacher.load(temporary, dataset)
        val_accuracy = teacher.accuracy(found, dataset.val, torch.device("cpu"))
        changes = {"val_accuracy_float32": record["val_accuracy"], "val_accuracy": val_accuracy}
        teacher.update_record(temporary, **changes)
        (temporary / CARD).write_text(common.reflow(_card(found, dataset, changes)), encoding="utf-8")
    size = (target / WEIGHTS).stat().st_size
    print(f"{target.name}: {size / 1e6:.2f} MB, {val_accuracy:.2%} on {len(dataset.val)} validation images")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="folder that `kd-tune teacher train --out` wrote")
    parser.add_argument("--data", type=Path, help="where its data set lies")
    return parser.parse_args()


def _card(found: Teacher, dataset: Dataset, measured: dict[str, float]) -> str:
    record = read_json(found.folder / RECORD)
    name, recipe, held_out = record["architecture"]["name"], record["recipe"], f"{len(dataset.val):,} validation images"
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items() if key != "commit" and value)
    minutes = f"{record['seconds_of_last_launch'] / 60:.0f} minutes with {record['threads']} threads"
    figures = [
        [f"{held_out}, float32", f"{measured['val_accuracy_float32']:.2%}"],
        [f"{held_out}, float16 as shipped", f"{measured['val_accuracy']:.2%}"],
    ]
    return f"""
# {name} for {dataset.name}

A teacher that comes with kd_tune, so that a search on {dataset.name} needs no training of one. Answers to its classes
({", ".join(dataset.class_names)}) for 3 x 32 x 32 images. It is meant for distillation experiments, and for nothing
that matters: it knows ten classes of small photographs.

## What it is

{record["num_parameters"]:,} parameters, float16 in `{WEIGHTS}`; `kd_tune/models/compact.py` builds the network,
`teacher.json` records how the weights came to be.

## How it was trained

By `kd-tune teacher train {name} --dataset {dataset.name}`, seed {record["seed"]}, on {len(dataset.train):,} of the
50,000 training images (split seed {dataset.split["split_seed"]}). The other {len(dataset.val):,} were used for nothing
but choosing the recipe, so a search with the same split may select on them. Test images were not looked at before the
training was over.

- loss: {_listed(recipe["objective"])}
- optimizer: {_listed(recipe["optimizer"])}
- training: {_listed(recipe["training"])}
- {minutes} on {record["hardware"]["processor"]}, which other work shared
- versions: {versions}

## How good it is

{common.table(["images", "accuracy"], figures)}

Plain evaluation of one network on the clean image. `kd-tune teacher measure {name} --dataset {dataset.name}` opens the
test set for it; `benchmarks/README.md` has the figure.
"""


def _listed(section: dict[str, Any]) -> str:
    return ", ".join(str(value) if key == "name" else f"{key} {value}" for key, value in section.items())


if __name__ == "__main__":
    main()
