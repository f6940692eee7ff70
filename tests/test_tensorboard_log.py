"""What TensorBoard reads of a run: one curve a trial, whatever happened to its launcher."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from kd_tune.ledger import Run
from kd_tune.tensorboard_log import TensorBoardLog
from tests.searches import toy_manifest, toy_search

DRAW = {"optimizer.lr": 0.1, "objective": "hinton", "student.width": 0.5, "training.nesterov": True}


def record_epochs(folder: Path, epochs: range) -> None:
    """What a launcher writes about trial 0, the first one its proposal too."""
    with closing(Run(folder)) as run, closing(TensorBoardLog(folder)) as log:
        run.listeners.append(log)
        if not run.state.trials:
            run.record("proposed", trial=0, arm="distil", draw=DRAW, repeat=2)
        state = run.state.trials[0]
        for epoch in epochs:
            row = {"epoch": epoch, "val_accuracy": epoch / 10, "train_loss": 1 / epoch, "seconds": 2.0}
            row |= {"val_agreement": float("nan"), "num_parameters": 62_006, "learning_rate": 0.1, "diverged": False}
            run.record("epoch", trial=0, attempt=state.attempt + (epoch <= state.latest), **row)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Run.create(tmp_path / "run", yaml.safe_dump(toy_search()), toy_manifest()).close()
    return tmp_path / "run"


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / "0000_distil")).Reload()


def test_curves_go_on_where_a_launcher_was_killed_and_repeat_nothing(folder: Path) -> None:
    record_epochs(folder, range(1, 4))
    record_epochs(folder, range(3, 6))  # the third is run again
    curves = read(folder)
    assert sorted(curves.Tags()["scalars"]) == [
        "time/seconds",
        "train/learning_rate",
        "train/loss",
        "validation/accuracy",
    ]
    points = [(point.step, point.value) for point in curves.Scalars("validation/accuracy")]
    assert points == [(epoch, pytest.approx(epoch / 10)) for epoch in range(1, 6)]


def test_hyperparameters_are_there_before_the_first_epoch(folder: Path) -> None:
    record_epochs(folder, range(0))
    content = read(folder).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    started = HParamsPluginData.FromString(content).session_start_info
    given = {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}
    assert given == {"arm": "distil", "number": 0.0, "repeat": 2.0, **DRAW}
