"""The one look at the test images: recorded, with fingerprints of the students that it is for, before it is taken.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_tune import checkpoint, confirmation, records, teacher
from kd_tune.catalog import build_student
from kd_tune.confirm_figures import Answers, Chosen
from kd_tune.data import Dataset
from kd_tune.engine import answer
from kd_tune.errors import ConfigError
from kd_tune.ledger import Run
from kd_tune.mirror import newest_checkpoint
from kd_tune.paths import written_whole
from kd_tune.run_state import TrialState
from kd_tune.trial_data import TrialData, best_device


def open_test_set(
    run: Run, place: Path, chosen: list[Chosen], dataset: Dataset, beside: tuple[str, Path] | None, command: str
) -> Answers:
    """Opens the test set for the chosen students, asks them and a teacher beside them, and keeps the answers.

    Args:
        run: of the search, whose ledger records the opening.
        place: the confirmation's folder, which takes the answers.
        chosen: whom to ask.
        dataset: whose test images.
        beside: name and folder of the teacher.
        command: what a person typed, for the record.
    """
    choice = [
        {
            "arm": one.candidate.arm,
            "trial": one.candidate.trial,
            "trainings": {str(trial.number): _fingerprint(place, trial) for trial in one.trainings},
        }
        for one in chosen
    ]
    log = _opening_log(run, place, choice, command)
    images = dataset.open_test("kd-tune confirm", log)
    data = TrialData(replace(dataset, val=images), None, best_device())  # test images in the validation's place
    logits = np.stack([np.stack([_student_logits(place, trial, data) for trial in one.trainings]) for one in chosen])
    kept = {"logits": logits, "labels": images.labels}
    if beside is not None:
        kept["teacher_logits"] = _teacher_logits(beside[1], data)
    with written_whole(place / confirmation.ANSWERS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **kept)
    return Answers(logits, images.labels, None if beside is None else beside[0])


def _opening_log(run: Run, place: Path, choice: list[dict[str, Any]], command: str) -> Callable[[dict[str, Any]], None]:
    """Records the opening in the search's ledger; one that was killed after it is still the same opening."""
    earlier = [event for event in run.state.test_openings if event.get("confirmation") == place.name]
    if earlier and earlier[-1]["choice"] != choice:
        raise ConfigError(f"{place}: the test set was opened for other students than lie here now; --again begins anew")

    def log(what: dict[str, Any]) -> None:
        if not earlier:
            run.record(records.TEST_OPENED, confirmation=place.name, command=command, choice=choice, **what)

    return log


def _fingerprint(place: Path, trial: TrialState) -> str:
    weights = checkpoint_of(place, trial) / checkpoint.WEIGHTS
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def checkpoint_of(place: Path, trial: TrialState) -> Path:
    """The last checkpoint of a confirmation's training."""
    found = newest_checkpoint(place, trial.number)
    if found is None:
        raise ConfigError(f"{place}: training {trial.number} has no checkpoint; it was deleted")
    return found


def _student_logits(place: Path, trial: TrialState, data: TrialData) -> np.ndarray:
    source = checkpoint_of(place, trial)
    network = build_student(checkpoint.read(source)["trial"]["student"], data.dataset)
    checkpoint.load_weights(source / checkpoint.WEIGHTS, network)
    logits: np.ndarray = answer(network.to(data.device), data).cpu().numpy()
    return logits


def _teacher_logits(folder: Path, data: TrialData) -> np.ndarray:
    ask = teacher.Answers(teacher.load(folder, data.dataset), data.device)
    logits: np.ndarray = torch.cat([ask(images) for images in data.val_batches()]).cpu().numpy()
    return logits
