"""Latency and memory of students and teachers: measured once an architecture, kept for every trial that has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from kd_tune import analysis, export_speed, onnx_speed, report, results
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.export import Wanted, data_of, export_best
from kd_tune.export_choice import choose
from kd_tune.export_speed import SPEED
from kd_tune.paths import read_json

FIGURES = {"latency_ms_batch_1", "latency_ms_batch_32", "memory_mib"}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_speed_is_measured_under_a_limit_of_latency_and_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real measurement, with few rounds: widths 0.25 and 0.5, and the teacher of the search."""
    monkeypatch.setattr(onnx_speed, "BATCHES", {1: 2, 32: 2})
    export_best(run, tmp_path / "students", Wanted(max_latency_ms=1e6), data_of(run, None))
    speed = json.loads((tmp_path / "students" / "distil_1" / "config.json").read_text())["speed"]
    assert speed["student"].keys() == FIGURES
    assert speed["teacher"].keys() == FIGURES | {"name"}
    assert speed["teacher"]["name"] == "digits"
    assert speed["conditions"]["threads"] == 1
    assert 0 < speed["student"]["latency_ms_batch_1"] < speed["student"]["latency_ms_batch_32"]
    assert speed["student"]["memory_mib"] > 0
    card = (tmp_path / "students" / "distil_1" / "README.md").read_text()
    assert "| teacher digits | " in card
    kept = read_json(run / SPEED)
    tables = results.read(run)
    by_width = tables.trials.set_index("number")["student.width"]
    assert len(kept["trials"]) == len(by_width)
    assert tables.trials["latency_ms"].notna().all()
    assert not analysis.pareto(tables, "latency_ms").empty
    report.write(run, Console(quiet=True))
    assert "- Latency of an image: " in (run / "report" / "report.md").read_text()
    for width in (0.25, 0.5):
        assert len({json.dumps(kept["trials"][str(number)]) for number in by_width[by_width == width].index}) == 1


def test_what_was_measured_on_this_machine_before_is_kept(run: Path) -> None:
    state = results.read(run).state
    conditions = dict.fromkeys(export_speed.SAME_MACHINE, "as now")
    numbers = {width: trial.number for trial in state.trials.values() if (width := trial.draw["student.width"])}

    def measured(width: float, latency: float, conditions: dict[str, str]) -> dict[float, float]:
        """Latencies by width after a measurement of one architecture."""
        record = {"trial": {"student": {"width": width}}}
        speeds = export_speed.Speeds({json.dumps({"width": width}): {results.LATENCY: latency}}, {}, conditions)
        export_speed.keep(run, speeds, {numbers[width]: record}, state)
        trials = read_json(run / SPEED)["trials"]
        return {
            width: trials[str(number)][results.LATENCY] for width, number in numbers.items() if str(number) in trials
        }

    assert measured(0.25, 1.0, conditions) == {0.25: 1.0}
    assert measured(0.5, 2.0, conditions) == {0.25: 1.0, 0.5: 2.0}
    assert measured(0.25, 3.0, conditions) == {0.25: 3.0, 0.5: 2.0}
    assert measured(0.5, 4.0, conditions | {"processor": "another"}) == {0.5: 4.0}


def test_what_onnxruntime_refuses_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_speed, "measure", refuse)
    with pytest.raises(ConfigError, match="onnxruntime cannot run what is to be measured: RuntimeError: no such oper"):
        export_best(run, tmp_path / "students", Wanted(), None, measure_speed=True)
    assert not (tmp_path / "students").exists()


def test_a_teacher_that_is_not_there_is_said(
    run: Path, tmp_path: Path, toy_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_TUNE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(onnx_speed, "BATCHES", {1: 1, 32: 1})
    for dataset, why in ((toy_dataset, "not in the cache"), (None, "which are not at hand")):
        export_best(run, tmp_path / f"to_{dataset is None}", Wanted(), dataset, measure_speed=True)
        student = tmp_path / f"to_{dataset is None}" / "distil_1"
        assert why in json.loads((student / "config.json").read_text())["speed"]["teacher"]["problem"]
        assert f"not measured: the teacher is {'not' if dataset else 'found'}" in (student / "README.md").read_text()


def test_a_student_that_onnx_cannot_hold_is_not_measured(
    run: Path, monkeypatch: pytest.MonkeyPatch, toy_dataset: Dataset
) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("data-dependent expression")

    measured: list[object] = []

    def nothing(files: dict[str, Path], shape: object) -> tuple[dict[str, object], dict[str, object]]:
        measured.append(files)
        return {}, {}

    monkeypatch.setattr(export_speed, "write_onnx", refuse)
    monkeypatch.setattr(onnx_speed, "measure", nothing)
    checkpoint = next(iter(choose(results.read(run), Wanted(), lambda found: {}).checkpoints.values()))
    speeds, records = export_speed.measure({0: checkpoint}, toy_dataset)
    assert measured == [{}]
    assert speeds.latency(records[0]) is None
    assert speeds.of(records[0])["student"]["problem"] == "ValueError: data-dependent expression"
