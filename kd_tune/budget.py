"""What a run spent, and what pruning and stored answers of teachers saved it: counts that follow from its records."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kd_tune.arms import teachers_of
from kd_tune.ranges import branch_name
from kd_tune.records import DISTIL
from kd_tune.results import RunTables


def budget(tables: RunTables) -> pd.DataFrame:
    """Epochs and seconds by arm, and what pruned trials would have taken to reach the end.

    Returns:
        A row an arm: arm, trials, epochs, seconds, saved_epochs and saved_seconds (at each pruned trial's own pace),
        saved (the share of the epochs without pruning), and epochs_for_diagnosis, after trials that are never pruned
        would have been stopped.
    """
    num_epochs = tables.file.trial["training"]["num_epochs"]
    rows = []
    for arm in tables.state.quota:
        trials = tables.trials[tables.trials["arm"] == arm]
        pruned = trials[trials["status"] == "pruned"]
        left = num_epochs - pruned["epoch"]
        epochs, saved = int(trials["epoch"].sum()), int(left.sum())
        spared = [trial for trial in tables.state.of_arm(arm) if trial.spared_at is not None]
        rows.append(
            {
                "arm": arm,
                "trials": len(trials),
                "epochs": epochs,
                "seconds": float(trials["train_seconds"].sum()),
                "saved_epochs": saved,
                "saved_seconds": float((pruned["train_seconds"] / pruned["epoch"] * left).sum()),
                "saved": saved / (epochs + saved) if epochs else 0.0,
                "epochs_for_diagnosis": sum(trial.epoch - (trial.spared_at or 0) for trial in spared),
            }
        )
    return pd.DataFrame(rows)


def teacher_answers(tables: RunTables) -> pd.DataFrame:
    """Answers of teachers that distilled students used, and those that were computed to be stored.

    Used: one a training image and epoch, and one a validation image. Computed: one a view and training image, and one a
    validation image. The same answers serve other searches, which are not counted.

    Returns:
        A row a teacher whose answers were stored: teacher, epochs (of its students), used, computed, factor (used over
        computed), multiply_adds_saved (negative where the students used fewer than were computed). Empty where the run
        does not say how many images it had; without teachers whose network is not here.
    """
    columns = ["teacher", "epochs", "used", "computed", "factor", "multiply_adds_saved"]
    images = tables.manifest.dataset
    if "num_train" not in images:
        return pd.DataFrame(columns=columns)
    views = tables.file.trial["training"]["views"]
    computed = views * images["num_train"] + images["num_val"]
    rows = []
    for name, cost in _stored(tables).items():
        students = [trial for trial in tables.state.of_arm(DISTIL) if trial.draw.get("teacher", name) == name]
        epochs = sum(trial.epoch for trial in students)
        used = epochs * images["num_train"] + images["num_val"]
        row = {"teacher": name, "epochs": epochs, "used": used, "computed": computed, "factor": used / computed}
        rows.append(row | {"multiply_adds_saved": (used - computed) * cost})
    return pd.DataFrame(rows, columns=columns)


def _stored(tables: RunTables) -> Mapping[str, int]:
    """The teachers that answered once for all, with the multiply-adds of an answer."""
    stored = [branch_name(section) for section in teachers_of(tables.file.trial) if section.get("mode") != "live"]
    facts = tables.manifest.teachers
    return {name: cost for name in stored if name in facts and (cost := facts[name].multiply_adds) is not None}
