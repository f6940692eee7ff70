"""What trained students answer on test images: by model, class and pair of classes, beside their teacher.

Pure functions from answers to tables; `prediction_plots` draws them. Every interval is of 95 % and over new seeds and
new test images; a teacher's is over images alone, because there is one of it. Tables hold the models in their order;
where the teacher is beside them, last, a column `teacher` says which rows are its.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from kd_tune import influence, statistics
from kd_tune.class_groups import Groups, group_problems
from kd_tune.errors import ConfigError
from kd_tune.influence import Interval

EVERY_IMAGE, TEACHER_WRONG = "all images", "images that the teacher gets wrong"


@dataclass(frozen=True)
class Model:
    """A configuration that was trained with several seeds, or a teacher.

    Attributes:
        name: for tables and legends.
        logits: `[S, N, C]`, on the test images, at temperature 1.
        median: the seed whose validation accuracy is the median: the network that is exported. A teacher has seed 0.
    """

    name: str
    logits: np.ndarray
    median: int = 0

    @cached_property
    def answers(self) -> np.ndarray:
        """`[S, N]`, the class with the largest logit."""
        return np.asarray(self.logits.argmax(-1))


@dataclass(frozen=True)
class Predictions:
    """Answers of several models on the same test images.

    Attributes:
        labels: `[N]`, class numbers.
        class_names: `[C]`, by class number.
        models: students.
        teacher: with S = 1; None if they had none.
        groups: of classes that are alike, each class in one: names of classes by name of group. None: no groups.
    """

    labels: np.ndarray
    class_names: Sequence[str]
    models: Sequence[Model]
    teacher: Model | None = None
    groups: Groups | None = None

    def __post_init__(self) -> None:
        shape = (len(self.labels), len(self.class_names))
        names = [model.name for model in self.everyone]
        if len(set(names)) < len(names):
            raise ValueError(f"two models have the same name: {names}")
        for model in self.everyone:
            if model.logits.ndim != 3 or model.logits.shape[1:] != shape:
                raise ValueError(f"{model.name}: logits of shape {model.logits.shape}, expected (seeds, *{shape})")
            if model is not self.teacher and len(model.logits) < 2:
                raise ValueError(f"{model.name}: one training has no spread; at least 2 seeds")
        if self.groups is not None and (problems := group_problems(self.groups, self.class_names)):
            raise ConfigError(problems)

    @cached_property
    def everyone(self) -> list[Model]:
        """The models, the teacher last."""
        return [*self.models, *([self.teacher] if self.teacher else [])]

    @cached_property
    def class_order(self) -> list[int]:
        """Class numbers, those of a group side by side: the order of every table by class."""
        if self.groups is None:
            return list(range(len(self.class_names)))
        return [list(self.class_names).index(name) for names in self.groups.values() for name in names]

    @cached_property
    def group_of(self) -> list[str]:
        """`[C]`, the name of each class's group; empty without groups."""
        found = {name: group for group, names in (self.groups or {}).items() for name in names}
        return [found.get(name, "") for name in self.class_names]

    def check_every_class(self) -> None:
        """Raises ConfigError if a class has too few test images for a figure of its own: one alone has no spread."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        if counts.min() < 2:
            raise ConfigError(
                f"class '{self.class_names[int(counts.argmin())]}' has {counts.min()} test images; "
                "figures by class need at least 2 of every class"
            )

    def right(self, model: Model) -> np.ndarray:
        """`[S, N]` bool, whether each training classified each image right."""
        return np.asarray(model.answers == self.labels)

    def row(self, model: Model, **columns: Any) -> dict[str, Any]:
        """A row of a table."""
        return {"model": model.name, "teacher": model is self.teacher, **columns}


def accuracy(predictions: Predictions) -> pd.DataFrame:
    """Accuracy by model.

    Returns:
        Columns `model`, `teacher`, `accuracy`, `low`, `high`, `seeds`.
    """
    return pd.DataFrame(
        predictions.row(
            model, **named("accuracy", statistics.accuracy(predictions.right(model))), seeds=len(model.logits)
        )
        for model in predictions.everyone
    )


def accuracy_by_class(predictions: Predictions) -> pd.DataFrame:
    """Accuracy on the images of each class.

    Returns:
        Columns `model`, `teacher`, `class`, `group` (empty without groups), `images`, `accuracy`, `low`, `high`.

    Raises:
        ConfigError: a class has too few test images.
    """
    predictions.check_every_class()
    rows = []
    for model in predictions.everyone:
        right = predictions.right(model)
        for number in predictions.class_order:
            mine = right[:, predictions.labels == number]
            facts = {"class": predictions.class_names[number], "group": predictions.group_of[number]}
            rows.append(
                predictions.row(model, **facts, images=mine.shape[1], **named("accuracy", statistics.accuracy(mine)))
            )
    return pd.DataFrame(rows)


def agreement(predictions: Predictions) -> pd.DataFrame:
    """How often students answer as their teacher does: on all images, and on those that the teacher gets wrong.

    On the latter, agreement is what was learnt from the teacher and from nowhere else, or is as hard to avoid for both;
    a student that never met the teacher shows how much is the latter.

    Returns:
        Columns `model`, `of` (`EVERY_IMAGE` or `TEACHER_WRONG`), `images`, `agreement`, `low`, `high` (NaN without such
        images). Empty without a teacher.
    """
    if predictions.teacher is None:
        return pd.DataFrame()
    answers = predictions.teacher.answers[0]
    rows = []
    for (name, chosen), model in itertools.product(_images_of_agreement(predictions), predictions.models):
        counted = np.broadcast_to(chosen, model.answers.shape)
        found = influence.share((model.answers == answers) & counted, counted)
        rows.append({"model": model.name, "of": name, "images": int(chosen.sum()), **named("agreement", found)})
    return pd.DataFrame(rows)


def agreement_differences(predictions: Predictions) -> pd.DataFrame:
    """Whether one model agrees more often with the teacher than another, on the same images.

    Returns:
        Columns `of`, `first`, `second`, `difference`, `low`, `high`, `p_value`, `p_holm` (over all pairs, on either
        kind of images). Images that the teacher gets wrong are left out where there are fewer than 2. Empty without a
        teacher.
    """
    if predictions.teacher is None:
        return pd.DataFrame()
    answers = predictions.teacher.answers[0]
    pairs = itertools.combinations(predictions.models, 2)
    rows = []
    for (name, chosen), (first, second) in itertools.product(_images_of_agreement(predictions), pairs):
        if chosen.sum() < 2:
            continue
        found = asdict(statistics.difference(*((model.answers == answers)[:, chosen] for model in (first, second))))
        names = {"of": name, "first": first.name, "second": second.name}
        rows.append({**names, "difference": found.pop("value"), **found})
    return adjusted(rows)


def _images_of_agreement(predictions: Predictions) -> list[tuple[str, np.ndarray]]:
    """The kinds of images that agreement is measured on, `[N]` bool each."""
    assert predictions.teacher
    wrong = predictions.teacher.answers[0] != predictions.labels
    return [(EVERY_IMAGE, np.ones_like(wrong)), (TEACHER_WRONG, wrong)]


def paired_tests(predictions: Predictions) -> pd.DataFrame:
    """Every pair of models on the same test images, by two tests that answer two questions.

    `p_value`: would these configurations, trained again with other seeds, differ on other images? That is what a claim
    about a method needs. `mcnemar_p`: would these two networks, the ones that are exported (`Model.median`), differ on
    other images? McNemar's test (1947), exact. It knows nothing of seeds, so it finds more, and less of that lasts.
    Over pairs of seeds it has no sound form: pooled, an image would count several times.

    Returns:
        Columns `first`, `second`, `difference`, `low`, `high` (of mean accuracies), `p_value`, `p_holm`; `first_only`,
        `second_only` (images that only one of the exported networks gets right), `mcnemar_p`, `mcnemar_p_holm`. Holm's
        adjustment (1979) is over all pairs.
    """
    rows = []
    for first, second in itertools.combinations(predictions.models, 2):
        right = [predictions.right(model) for model in (first, second)]
        one, other = (answers[model.median] for answers, model in zip(right, (first, second), strict=True))
        found = asdict(statistics.difference(*right))
        only = int((one & ~other).sum()), int((other & ~one).sum())
        rows.append(
            {"first": first.name, "second": second.name, "difference": found.pop("value"), **found}
            | {"first_only": only[0], "second_only": only[1], "mcnemar_p": mcnemar(*only)}
        )
    return adjusted(rows)


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact p-value: the images on which two networks differ fall to either side like coins."""
    fewer, both = min(first_only, second_only), first_only + second_only
    return float(min(1.0, 2 * special.bdtr(fewer, both, 0.5)))


def adjusted(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table with Holm's adjustment beside each p-value."""
    table = pd.DataFrame(rows)
    for column, name in (("p_value", "p_holm"), ("mcnemar_p", "mcnemar_p_holm")):
        if column in table:
            table.insert(list(table.columns).index(column) + 1, name, statistics.holm(list(table[column])))
    return table


def named(name: str, interval: Interval) -> dict[str, float]:
    """An interval's columns."""
    return {name: interval.value, "low": interval.low, "high": interval.high}
