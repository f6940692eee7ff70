"""How exported students answer the validation images, in TensorBoard."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from kd_tune import validation_pictures
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.export import Wanted, export_best, load_student
from kd_tune.export_formats import answers, in_torch
from kd_tune.paths import read_json

TAGS = ["validation/accuracy_by_class", "validation/calibration", "validation/confusion_matrix"]


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with an export."""
    copy = tmp_path_factory.mktemp("pictures") / "run"
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("ray", "lock"))
    export_best(copy, copy / "export", Wanted(), None)
    return copy


def test_every_exported_student_has_pictures_beside_its_curves(run: Path, toy_dataset: Dataset) -> None:
    assert validation_pictures.write(run, run / "export", toy_dataset) == 9
    config = read_json(run / "export" / "distil_1" / "config.json")
    logs = run / "tensorboard" / f"{config['trial']['number']:04d}_distil"
    shown = EventAccumulator(str(logs), size_guidance={IMAGES: 0}).Reload()
    assert sorted(shown.Tags()["images"]) == TAGS
    assert "validation/accuracy" in shown.Tags()["scalars"]
    (event,) = shown.Images(TAGS[2])
    assert event.step == config["epoch"]
    pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("L"))
    assert len(np.unique(pixels)) > 20, "there is something to see"


def test_they_show_what_the_student_answers(run: Path, toy_dataset: Dataset) -> None:
    config = read_json(run / "export" / "distil_1" / "config.json")
    logits = answers(in_torch(load_student(run / "export" / "distil_1")), toy_dataset.val.images, 64)
    assert logits.shape == (len(toy_dataset.val), 3)
    right = (logits.argmax(-1) == toy_dataset.val.labels).mean()
    assert right == pytest.approx(config["val_accuracy"])
    figures = dict(validation_pictures.figures("a", logits, toy_dataset))
    texts = [text.get_text() for text in figures["validation/confusion_matrix"].axes[0].texts]
    counts = [int(text) for text in texts if text.isdigit()]
    assert sum(counts) == len(toy_dataset.val)


def test_a_class_without_validation_images_is_said(run: Path, toy_dataset: Dataset) -> None:
    lacking = replace(toy_dataset, class_names=(*toy_dataset.class_names, "none such"))
    with pytest.raises(ConfigError, match="class 'none such' has 0"):
        list(validation_pictures.figures("a", np.zeros((len(lacking.val), 4), np.float32), lacking))
