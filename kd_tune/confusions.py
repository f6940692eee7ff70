"""What models take classes for: counts, how they differ from one model's, and whether they stay among like classes.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from kd_tune import influence, statistics
from kd_tune.predictions import Model, Predictions, adjusted, named

EVERY_GROUP = "all classes"


def confusions(predictions: Predictions) -> pd.DataFrame:
    """How often each class was taken for each.

    Returns:
        Columns `model`, `teacher`, `true`, `predicted`, `group` (of the true class), `count` (mean over seeds), `share`
        (of the images of the true class).

    Raises:
        ConfigError: a class has too few test images.
    """
    predictions.check_every_class()
    rows = []
    for model in predictions.everyone:
        counts = confusion_counts(predictions, model)
        for true, predicted in _cells(predictions):
            facts = _cell(predictions, true, predicted)
            count = float(counts[true, predicted])
            rows.append(predictions.row(model, **facts, count=count, share=count / counts[true].sum()))
    return pd.DataFrame(rows)


def confusion_counts(predictions: Predictions, model: Model) -> np.ndarray:
    """`[C, C]`, images by true class (row) and answer (column), a mean over seeds."""
    num_classes = len(predictions.class_names)
    cells = (predictions.labels.astype(np.int64) * num_classes + model.answers).ravel()
    counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    return np.asarray(counts / len(model.answers))


def confusion_differences(predictions: Predictions, reference: str) -> pd.DataFrame:
    """How confusions differ from one model's.

    Args:
        predictions: the answers.
        reference: the name of the model that the others are compared with.

    Returns:
        Columns `model`, `true`, `predicted`, `group`, `reference`, `difference` (of mean counts), `p_value`, `p_holm`
        (over all cells of the model). The teacher has no seeds to compare, and no rows.

    Raises:
        ConfigError: a class has too few test images.
    """
    predictions.check_every_class()
    base = next(model for model in predictions.models if model.name == reference)
    tables = []
    for model in predictions.models:
        if model is base:
            continue
        changes = (
            _cell(predictions, *cell) | {"reference": reference} | _change(predictions, model, base, *cell)
            for cell in _cells(predictions)
        )
        rows = [{"model": model.name, **change} for change in changes]
        tables.append(adjusted(rows))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _change(predictions: Predictions, model: Model, base: Model, true: int, predicted: int) -> dict[str, float]:
    """How much more often one model takes a class for another than a second model does."""
    mine = predictions.labels == true
    first, second = (one.answers[:, mine] == predicted for one in (model, base))
    if not first.any() and not second.any():  # most cells of a hundred classes
        return {"difference": 0.0, "p_value": 1.0}
    found = statistics.difference(first, second)
    return {"difference": found.value * int(mine.sum()), "p_value": found.p_value}


def inside_groups(predictions: Predictions) -> pd.DataFrame:
    """Which share of the wrong answers names another class of the true class's group.

    Returns:
        Columns `model`, `teacher`, `group` (each with more than one class, and `EVERY_GROUP`), `wrong` (answers, mean
        over seeds), `share`, `low`, `high` (NaN where nothing is wrong), `evenly`: the share if the same wrong answers
        were spread evenly over the other classes. Empty without groups.
    """
    sizes = Counter(predictions.group_of)
    group = np.array(predictions.group_of)
    of_image = group[predictions.labels]
    others = np.array([sizes[name] - 1 for name in group]) / (len(group) - 1)
    rows = []
    for model, name in itertools.product(predictions.everyone, [EVERY_GROUP, *(predictions.groups or {})]):
        if predictions.groups is None or sizes[name] == 1:
            continue
        wrong = ~predictions.right(model) & ((of_image == name) | (name == EVERY_GROUP))
        inside = wrong & (group[model.answers] == of_image)
        evenly = (others[predictions.labels] * wrong).sum() / wrong.sum() if wrong.any() else np.nan
        found = named("share", influence.share(inside, wrong))
        rows.append(predictions.row(model, group=name, wrong=wrong.sum(1).mean(), **found, evenly=evenly))
    return pd.DataFrame(rows)


def _cells(predictions: Predictions) -> Iterator[tuple[int, int]]:
    """Numbers of true class and answer, row by row."""
    order = predictions.class_order
    return itertools.product(order, order)


def _cell(predictions: Predictions, true: int, predicted: int) -> dict[str, str]:
    names = predictions.class_names
    return {"true": names[true], "predicted": names[predicted], "group": predictions.group_of[true]}
