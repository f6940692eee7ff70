"""Learning curves by formula: a table whose best configurations are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kd_tune.curve_table import CurveTable
from kd_tune.search_file import Source, parse_search_file
from kd_tune.space import Space

NUM_EPOCHS = 9
TRIAL: dict[str, Any] = {
    "dataset": {"name": "mnist5k"},
    "teacher": {"name": "digits"},
    "student": {"name": "studentnet", "width": {"choice": [0.5, 1.0]}},
    "objective": {"name": "hinton", "alpha": {"float": [0.0, 1.0]}, "temperature": 4.0},
    "optimizer": {"name": "sgd", "lr": {"float": [0.001, 1.0], "log": True}},
    "training": {"num_epochs": NUM_EPOCHS},
}


def made_table(count: int = 60, seed: int = 0, noise: float = 0.0) -> CurveTable:
    """Accuracy peaks at a rate of 0.03 and rises with alpha and with epochs; rates above 0.5 diverge at once.

    Args:
        count: configurations.
        seed: of configurations and noise.
        noise: standard deviation of each half's accuracy, the same at all epochs of a configuration.
    """
    import optuna

    trial = parse_search_file({"trial": TRIAL}, Source("made", {})).trial
    random = np.random.default_rng(seed)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    draws = [Space(trial).suggest(study.ask()) for _ in range(count)]
    rows = []
    for config, draw in enumerate(draws):
        rate, width = draw["optimizer.lr"], draw["student.width"]
        even, odd = noise * random.normal(size=2)
        for epoch in range(1, NUM_EPOCHS + 1):
            quality = 0.5 + 0.2 * draw["objective.alpha"] - 0.1 * abs(np.log10(rate / 0.03)) + 0.05 * width
            accuracy = np.nan if rate > 0.5 else quality * (1 - 0.5 / epoch)
            row = {"config": config, **draw, "epoch": epoch, "val_loss": 1.0, "seconds": width}
            row |= {"val_accuracy_even": accuracy + even, "val_accuracy_odd": accuracy + odd}
            rows.append(row | {"num_parameters": int(1000 * width)})
            if rate > 0.5:
                break
    return CurveTable(trial, draws, pd.DataFrame(rows))
