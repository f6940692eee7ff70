"""What students and teachers take in onnxruntime on one thread: measured once an architecture, kept in the run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_tune import checkpoint, onnx_speed
from kd_tune.catalog import build_network
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.export_formats import FLOAT_FORMATS, ONNX, Student, reason, write_onnx
from kd_tune.paths import read_record, write_json
from kd_tune.prepare import find_teacher
from kd_tune.ranges import branch_name
from kd_tune.results import LATENCY, SPEED, Speed, plain_name
from kd_tune.run_state import RunState

SAME_MACHINE = ("runtime", "processor", "threads", "rounds", "system")  # conditions under which figures compare

Figures = dict[str, Any]  # as `onnx_speed.measure` gives them, or why there are none


@dataclass(frozen=True)
class Speeds:
    """What was measured in one go.

    Attributes:
        students: by architecture, as JSON.
        teachers: by name.
        conditions: of the measurement.
    """

    students: Mapping[str, Figures]
    teachers: Mapping[str, Figures]
    conditions: Mapping[str, Any]

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What `config.json` says of a checkpoint's student and its teacher."""
        found = {"student": self.students[_key(record)], "conditions": dict(self.conditions)}
        section = record["trial"].get("teacher")
        return found if section is None else found | {"teacher": self._teacher(section)}

    def _teacher(self, section: Mapping[str, Any]) -> dict[str, Any]:
        name = branch_name(section)
        return {"name": name} | self.teachers[name]

    def latency(self, record: Mapping[str, Any]) -> float | None:
        """Milliseconds that a checkpoint's student takes for one image; None if it cannot be measured."""
        found = self.students[_key(record)].get(LATENCY)
        return None if found is None else float(found)


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps(record["trial"]["student"], sort_keys=True)


def measure(checkpoints: Mapping[int, Path], dataset: Dataset | None) -> tuple[Speeds, dict[int, dict[str, Any]]]:
    """Measures the students of some checkpoints, and their teachers.

    Args:
        checkpoints: by trial; one of each architecture is measured.
        dataset: the run's, by which teachers are found in the cache; None: it is not at hand.

    Returns:
        What was measured, and the checkpoints' records by trial.

    Raises:
        ConfigError: what it takes is not installed, or a checkpoint is damaged.
    """
    if missing := FLOAT_FORMATS[0].missing():
        raise ConfigError(
            f"speed is measured with onnxruntime: {', '.join(missing)} missing (pip install 'kd-tune[export]')"
        )
    records = {number: checkpoint.read(folder) for number, folder in checkpoints.items()}
    students: dict[str, Figures] = {}
    teachers: dict[str, Figures] = {}
    files: dict[tuple[str, str], Path] = {}
    with tempfile.TemporaryDirectory(prefix="kd_tune_") as temporary:
        for number, record in records.items():
            for kind, name, found in (
                ("student", _key(record), students),
                ("teacher", _teacher_name(record), teachers),
            ):
                if name is None or name in found:
                    continue
                path = Path(temporary) / str(len(students) + len(teachers)) / ONNX
                path.parent.mkdir()
                found[name] = {}
                try:
                    network = _student(checkpoints[number], record) if kind == "student" else _teacher(record, dataset)
                    write_onnx(network, _two_images(record["input"]), path)
                    files[kind, name] = path
                except Exception as error:  # whatever the exporter raises about a network
                    found[name] = {"problem": str(error) if isinstance(error, ConfigError) else reason(error)}
        sides = next(iter(records.values()))["input"]
        shape = (sides["in_channels"], sides["image_size"], sides["image_size"])
        try:
            figures, conditions = onnx_speed.measure({"\n".join(key): path for key, path in files.items()}, shape)
        except BrokenProcessPool:
            raise EnvironmentProblem(
                "the process that measures latency and memory was ended by the system; was there memory enough?"
            ) from None
        except Exception as error:  # whatever onnxruntime raises about a file that the exporter wrote
            raise ConfigError(f"onnxruntime cannot run what is to be measured: {reason(error)}") from error
    for kind, name in files:
        (students if kind == "student" else teachers)[name].update(figures[f"{kind}\n{name}"])
    return Speeds(students, teachers, conditions), records


def _teacher_name(record: Mapping[str, Any]) -> str | None:
    section = record["trial"].get("teacher")
    return None if section is None else branch_name(section)


def _student(folder: Path, record: Mapping[str, Any]) -> Student:
    network = build_network(record["trial"]["student"], **record["input"])
    checkpoint.load_weights(folder / checkpoint.WEIGHTS, network)
    return Student(network, **record["normalisation"]).eval()


def _teacher(record: Mapping[str, Any], dataset: Dataset | None) -> Student:
    if dataset is None:
        raise ConfigError("the teacher is found by the run's data, which are not at hand")
    found = find_teacher(record["trial"]["teacher"], dataset)
    if found is None:
        raise ConfigError("the teacher is not in the cache")
    normalisation = found.record.normalisation
    return Student(found.network, normalisation.mean, normalisation.std).eval()


def _two_images(shape: Mapping[str, int]) -> torch.Tensor:
    return torch.zeros(2, shape["in_channels"], shape["image_size"], shape["image_size"])


def keep(run: Path, speeds: Speeds, measured: Mapping[int, Mapping[str, Any]], state: RunState) -> None:
    """Writes `speed.json` into a run: the figures of every trial whose student has the architecture of a measured one.

    Figures that were measured on this machine before are kept.

    Args:
        run: the run's folder.
        speeds: what was measured.
        measured: the records of the trials whose checkpoints were.
        state: of the run.
    """
    by_draw = {_student_draw(state.trials[number].draw): record for number, record in measured.items()}
    figures = {
        str(number): speeds.students[_key(by_draw[draw])]
        for number, trial in sorted(state.trials.items())
        if (draw := _student_draw(trial.draw)) in by_draw
    }
    teachers = dict(speeds.teachers)
    if (run / SPEED).exists():  # what was measured before, if it was on the same machine
        known = read_record(run / SPEED, Speed)
        if all(known.conditions.get(name) == speeds.conditions[name] for name in SAME_MACHINE):
            figures, teachers = known.trials | figures, known.teachers | teachers
    write_json(run / SPEED, {"trials": figures, "teachers": teachers, "conditions": dict(speeds.conditions)})


def _student_draw(draw: Mapping[str, Any]) -> str:
    """The parameters of a draw that the student is built from."""
    own = {name: value for name, value in draw.items() if plain_name(name).split(".")[0] == "student"}
    return json.dumps(own, sort_keys=True)
