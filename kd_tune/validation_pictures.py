"""How exported students answer the validation images, as pictures beside their trials' curves in TensorBoard."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event as LoggedEvent
from tensorboard.compat.proto.summary_pb2 import Summary

from kd_tune import calibration, confusion_plots, confusions, prediction_plots, predictions
from kd_tune.data import Dataset
from kd_tune.export_formats import CONFIG, answers, in_torch, load_student
from kd_tune.paths import read_json
from kd_tune.plots import COLOURS, new_figure
from kd_tune.predictions import Model, Predictions
from kd_tune.teacher import evaluation_batch
from kd_tune.tensorboard_log import writer_of


def write(run: Path, students: Path, dataset: Dataset) -> int:
    """Writes pictures of every student in a folder of exports.

    Args:
        run: the run's folder.
        students: a folder each, as `export` writes them.
        dataset: of the run.

    Returns:
        The number of pictures.

    Raises:
        ConfigError: a student is damaged, or a class has too few validation images for a figure of its own.
    """
    count = 0
    for folder in sorted(path.parent for path in students.glob(f"*/{CONFIG}")):
        config = read_json(folder / CONFIG)
        trial = config["trial"]
        name = f"trial {trial['number']}, {trial['arm']}"
        with writer_of(run, trial["number"], trial["arm"]) as writer:
            student = in_torch(load_student(folder))
            logits = answers(student, dataset.val.images, evaluation_batch(dataset.image_size))
            for tag, figure in figures(name, logits, dataset):
                image = Summary.Image(encoded_image_string=_png(figure), colorspace=4)
                summary = Summary(value=[Summary.Value(tag=tag, image=image)])
                writer.add_event(LoggedEvent(wall_time=time.time(), step=config["epoch"], summary=summary))
                count += 1
    return count


def figures(name: str, logits: np.ndarray, dataset: Dataset) -> Iterator[tuple[str, Figure]]:
    """Confusion matrix, accuracy by class and calibration of one training, each with its tag.

    Args:
        name: of the student.
        logits: `[M, C]`, of the validation images.
        dataset: whose they are.
    """
    # One training has no spread over seeds; in these tables only a teacher may have none.
    alone = Predictions(
        dataset.val.labels,
        dataset.class_names,
        models=[],
        teacher=Model(name, logits[None]),
        groups=dataset.class_groups,
    )
    yield "validation/confusion_matrix", confusion_plots.confusion_matrices(confusions.confusions(alone))
    yield "validation/accuracy_by_class", _by_class(predictions.accuracy_by_class(alone), name)
    reliability = prediction_plots.reliability(calibration.reliability(alone), calibration.calibration(alone))
    yield "validation/calibration", reliability


def _by_class(table: pd.DataFrame, name: str) -> Figure:
    """Accuracy on the images of every class, the worst at the bottom."""
    rows = table.sort_values("accuracy")
    figure, (axes,) = new_figure(1, width=6.4, height=1.4 + 0.28 * len(rows))
    errors = np.array([rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]])
    axes.errorbar(rows["accuracy"], rows["class"], xerr=errors, fmt="o", color=COLOURS[0], markersize=4, capsize=2)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")
    axes.set_xlabel("validation accuracy, 95 % interval over images")
    axes.set_title(name, fontsize=9, color="0.4")
    return figure


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=100)
    return written.getvalue()
