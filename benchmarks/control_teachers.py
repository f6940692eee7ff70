"""What students learn from teachers that know nothing, on mnist5k: the check that distillation's gain is the teacher's.

Two claims are put to the test, on validation images:

1. With alpha 1 a student sees nothing but its teacher's answers. When those are dealt out among the images
   (`permuted`), nothing is left to learn: it must be at chance.
2. With alpha 0.5 the answers of `permuted` and `random` act at most like a tuned label smoothing. Every arm gets the
   same number of configurations, the best is chosen by one training each, and then trained on fresh seeds. A control
   beats label smoothing if the 95 % interval of the difference of means (Welch) lies above 0.

The real teacher is trained beside them, so that the test can be seen to find a difference where there is one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from rich.console import Console
from scipy import stats

from kd_tune import soft_targets
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.engine import train
from kd_tune.prepare import PreparedTeacher, prepare
from kd_tune.records import derive_seed
from kd_tune.trial_data import TrialData

VIEWS = 8
RATES = (0.02, 0.05, 0.1)
SMOOTHINGS = (0.05, 0.1, 0.2, 0.4)
TEMPERATURES = (1.0, 4.0, 8.0, 20.0)
TEACHERS: dict[str, dict[str, Any]] = {
    "digits": {"name": "digits"},
    "permuted": {"name": "permuted", "of": "digits"},
    "random": {"name": "random", "network": "digits"},
}
DATASET = {"name": "mnist5k"}
CPU = torch.device("cpu")


def main() -> None:
    arguments = _arguments()
    made = common.conditions(arguments)
    torch.set_num_threads(1)
    dataset = load_dataset(DATASET, None)
    with common.temporary_cache():
        data: dict[str, TrialData] = {"label_smoothing": TrialData(dataset, None, CPU)}
        facts: dict[str, float] = {}
        for name, section in TEACHERS.items():
            trial = {"teacher": section, "dataset": DATASET, "training": {"views": VIEWS}}
            found = prepare(trial, dataset, None, Console())[name]
            data[name], facts[name] = _data(found, dataset), found.facts.val_accuracy
        alone = {
            name: _train_seeds({"name": "hinton", "alpha": 1.0, "temperature": 4.0}, 0.05, data[name], arguments, name)
            for name in ("digits", "permuted")
        }
        arms = {name: _tuned(name, data[name], arguments) for name in data}
    result = {"conditions": made, "teachers": facts, "alpha_1": alone, "alpha_0.5": arms}
    result["differences"] = {name: _difference(arms[name], arms["label_smoothing"]) for name in TEACHERS}
    common.write_result("control_teachers", result, _markdown(result, dataset), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="fresh seeds of every chosen configuration")
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--width", type=float, default=0.25, help="of the student")
    return parser.parse_args()


def _data(found: PreparedTeacher, dataset: Dataset) -> TrialData:
    assert found.place.bank is not None
    bank = soft_targets.open_bank(
        Path(found.place.bank), found.fingerprint, len(dataset.train), dataset.num_classes, VIEWS
    )
    return TrialData(dataset, bank, CPU)


def _train(objective: Mapping[str, Any], lr: float, data: TrialData, arguments: argparse.Namespace, seed: int) -> float:
    """Validation accuracy after the last epoch."""
    trial = {
        "student": {"name": "studentnet", "width": arguments.width},
        "objective": objective,
        "optimizer": {"name": "sgd", "lr": lr, "weight_decay": 5e-4},
        "training": {"num_epochs": arguments.epochs, "batch_size": 64, "views": VIEWS},
    }
    *_, (row, _) = train(trial, data, seed)
    return row.val_accuracy


def _train_seeds(
    objective: Mapping[str, Any], lr: float, data: TrialData, arguments: argparse.Namespace, name: str
) -> dict[str, Any]:
    values = [
        _train(objective, lr, data, arguments, derive_seed("fresh", name, seed)) for seed in range(arguments.seeds)
    ]
    print(f"{name}: {objective} at {lr}: {np.mean(values):.2%} over {len(values)} seeds", flush=True)
    return {
        "objective": dict(objective),
        "lr": lr,
        "accuracies": values,
        "mean": float(np.mean(values)),
        "standard_deviation": float(np.std(values, ddof=1)),
    }


def _tuned(name: str, data: TrialData, arguments: argparse.Namespace) -> dict[str, Any]:
    """The best of the same number of configurations for every arm, on fresh seeds."""
    objectives: list[dict[str, Any]] = (
        [{"name": "label_smoothing", "smoothing": smoothing} for smoothing in SMOOTHINGS]
        if name == "label_smoothing"
        else [{"name": "hinton", "alpha": 0.5, "temperature": temperature} for temperature in TEMPERATURES]
    )
    candidates = list(itertools.product(objectives, RATES))
    tried = [_train(objective, lr, data, arguments, derive_seed("tuning", name)) for objective, lr in candidates]
    objective, lr = candidates[int(np.argmax(tried))]
    return _train_seeds(objective, lr, data, arguments, name) | {"configurations": len(candidates)}


def _difference(arm: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, float]:
    """Difference of means in points with its 95 % interval, without assuming equal spreads (Welch)."""
    test = stats.ttest_ind(arm["accuracies"], control["accuracies"], equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = arm["mean"] - control["mean"]
    return {"mean": 100 * difference, "low": 100 * float(interval.low), "high": 100 * float(interval.high)}


def _markdown(result: Mapping[str, Any], dataset: Dataset) -> str:
    chance = 1 / dataset.num_classes
    error = (chance * (1 - chance) / len(dataset.val)) ** 0.5
    arms, differences = result["alpha_0.5"], result["differences"]
    num_seeds = len(arms["label_smoothing"]["accuracies"])
    beaten = [name for name in ("permuted", "random") if differences[name]["low"] > 0]
    alone = [
        [name, f"{facts['mean']:.2%}", f"{min(facts['accuracies']):.2%} to {max(facts['accuracies']):.2%}"]
        for name, facts in result["alpha_1"].items()
    ]
    rows = [
        [
            name,
            f"{result['teachers'][name]:.2%}" if name in result["teachers"] else "none",
            _describe(facts),
            f"{facts['mean']:.2%}",
            f"{100 * facts['standard_deviation']:.2f}",
            "" if name not in differences else "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**differences[name]),
        ]
        for name, facts in arms.items()
    ]
    return f"""
# Teachers that know nothing

{" and ".join(beaten) if beaten else "Neither control"} {"beat" if beaten else "beats"} tuned label smoothing by more
than its interval. StudentNet of width {result["conditions"]["arguments"]["width"]}, mnist5k, {num_seeds} fresh seeds,
accuracy on {len(dataset.val)} validation images.

## Alpha 1: nothing but the teacher's answers

Chance is {chance:.0%}, with a standard error of {error:.2%} on these images.

{common.table(["teacher", "mean accuracy", "range over seeds"], alone)}

## Alpha 0.5, each arm tuned over {arms["label_smoothing"]["configurations"]} configurations

{
        common.table(
            [
                "arm",
                "accuracy of the teacher",
                "chosen",
                "mean accuracy",
                "standard deviation, points",
                "against label smoothing, points (95 % interval)",
            ],
            rows,
        )
    }

{common.conditions_markdown(result["conditions"])}
"""


def _describe(facts: Mapping[str, Any]) -> str:
    objective = facts["objective"]
    key = "smoothing" if objective["name"] == "label_smoothing" else "temperature"
    return f"{key} {objective[key]:g}, rate {facts['lr']:g}"


if __name__ == "__main__":
    main()
