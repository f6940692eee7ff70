"""What TensorBoard reads of a run: one curve a trial, whatever happened to its launcher."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from kd_tune.ledger import Run
from kd_tune.tensorboard_log import SEARCH, TensorBoardLog
from tests.searches import toy_manifest, toy_search

DRAW = {"optimizer.lr": 0.1, "objective": "hinton", "student.width": 0.5, "training.nesterov": True}


def record_epochs(folder: Path, epochs: range) -> None:
    """What a launcher writes about trial 0, the first one its proposal too."""
    with closing(Run(folder)) as run, closing(TensorBoardLog(folder, run.state)) as log:
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


def record_ends(folder: Path, ends: dict[int, tuple[int, float]]) -> None:
    """What a launcher writes about trials that are pruned: each after so many epochs, at such an accuracy."""
    with closing(Run(folder)) as run, closing(TensorBoardLog(folder, run.state, (1, 3))) as log:
        run.listeners.append(log)
        for number, (epochs, accuracy) in ends.items():
            run.record("proposed", trial=number, arm="distil", draw=DRAW)
            for epoch in range(1, epochs + 1):
                run.record("epoch", trial=number, attempt=0, epoch=epoch, val_accuracy=accuracy)
            run.record("stopped", trial=number, reason="pruned")


def test_the_search_is_a_run_of_its_own_that_goes_on_over_launches(folder: Path) -> None:
    record_ends(folder, {0: (1, 0.5), 1: (4, 0.75)})
    record_ends(folder, {2: (2, 0.625), 3: (1, 0.875)})
    curves = EventAccumulator(str(folder / "tensorboard" / SEARCH)).Reload()
    points = {tag: [(point.step, point.value) for point in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}
    assert points == {
        "best/distil": [(1, 0.5), (5, 0.75), (7, 0.75), (8, 0.875)],
        "trials/ended": [(1, 1), (5, 2), (7, 3), (8, 4)],
        "survivors/after_epoch_001": [(3, 1), (7, 2)],
        "survivors/after_epoch_003": [(5, 1)],
    }


def test_a_figure_that_is_none_is_never_the_best(folder: Path) -> None:
    with closing(Run(folder)) as run, closing(TensorBoardLog(folder, run.state)) as log:
        run.listeners.append(log)
        run.record("proposed", trial=0, arm="distil", draw=DRAW)
        run.record("epoch", trial=0, attempt=0, epoch=1, val_accuracy=float("nan"))
        run.record("stopped", trial=0, reason="diverged")
    curves = EventAccumulator(str(folder / "tensorboard" / SEARCH)).Reload()
    assert curves.Tags()["scalars"] == ["trials/ended"]
