"""Students of a run, ready to use: a folder each, with weights, other formats, a model card, hashes and a predictor.

Every format answers the validation images before it is left in the folder. Nothing here looks at test images.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kd_tune import __version__, checkpoint, export_speed, results
from kd_tune.catalog import check_section, load_dataset
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, NothingUsable
from kd_tune.export_checks import (
    ONE_POINT,
    Samples,
    SelfTestFailed,
    Yardstick,
    calibrate,
    check_format,
    check_is_trained_one,
    samples_of,
    yardstick_of,
)
from kd_tune.export_choice import Wanted, choose
from kd_tune.export_formats import (
    CONFIG,
    FLOAT_FORMATS,
    INT8_FORMAT,
    Format,
    Student,
    load_student,
    reason,
    to_floats,
)
from kd_tune.export_speed import Speeds
from kd_tune.ledger import SEARCH_FILE
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.model_card import write_card
from kd_tune.paths import read_record, write_json, written_whole
from kd_tune.search_file import load_search_file

__all__ = ["Exported", "Student", "Wanted", "data_of", "export_best", "export_students", "load_student"]

HASHES = "SHA256SUMS"
PREDICTOR = Path(__file__).parent / "templates" / "predict.py"
NO_DATA = "the run's data are not at hand"

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """A student to export.

    Attributes:
        checkpoint: the folder that it lies in.
        facts: what `config.json` says of it beside what the checkpoint does.
    """

    checkpoint: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


def data_of(run: Path, source: Path | None) -> Dataset:
    """The data set of a run.

    Args:
        run: its folder.
        source: where the data lie now; None: where the run found them.

    Raises:
        ConfigError: they are not there, or not those that the run learnt from.
    """
    manifest = read_record(run / MANIFEST, Manifest)
    source = source or (None if manifest.source is None else Path(manifest.source))
    section = load_search_file(run / SEARCH_FILE).trial["dataset"]
    if problems := check_section("dataset", section):
        raise ConfigError([f"{run / SEARCH_FILE}: trial.{problem}" for problem in problems])
    dataset = load_dataset(section, source)
    if dataset.fingerprint != manifest.fingerprints.data:
        raise ConfigError(f"{source or dataset.name}: these are not the images that {run} learnt from")
    return dataset


def export_best(
    run: Path,
    target: Path,
    wanted: Wanted,
    dataset: Dataset | None,
    replace: bool = False,
    measure_speed: bool = False,
    advance: Advance | None = None,
) -> list[str]:
    """Exports students of a run.

    Args:
        run: the run's folder.
        target: the folder that will hold a folder for each student.
        wanted: which students.
        dataset: the run's; None: it is not at hand, so there is no int8, no calibration, and accuracy is not tested.
        replace: whether an earlier export may lie there; it is replaced.
        measure_speed: whether to measure students and teachers in onnxruntime; a limit of latency does in any case.
        advance: told students done and in all.

    Returns:
        A line about each student, and about what is left out.

    Raises:
        ConfigError: no run here, no such students, no checkpoints, or something lies in the target folder.
    """
    tables = results.read(run)
    speeds: Speeds | None = None

    def measured(checkpoints: Mapping[int, Path]) -> dict[int, float]:
        nonlocal speeds
        speeds, records = export_speed.measure(checkpoints, dataset)
        export_speed.keep(run, speeds, records, tables.state)
        found = {number: speeds.latency(record) for number, record in records.items()}
        return {number: latency for number, latency in found.items() if latency is not None}

    choice = choose(tables, wanted, measured)
    if measure_speed and speeds is None:
        measured({int(checkpoint.read(folder)["number"]): folder for folder in choice.checkpoints.values()})
    students = {name: Exported(folder) for name, folder in choice.checkpoints.items()}
    return [*export_students(students, target, dataset, replace, speeds, advance), *choice.notes]


def export_students(
    students: Mapping[str, Exported],
    target: Path,
    dataset: Dataset | None,
    replace: bool = False,
    speeds: Speeds | None = None,
    advance: Advance | None = None,
) -> list[str]:
    """Writes students into folders of `target`, by name; returns a line about each.

    Args:
        students: by the name of their folder.
        target: the folder that will hold them.
        dataset: as of `export_best`.
        replace: whether an earlier export may be replaced.
        speeds: of these students, if they were measured.
        advance: told students done and in all.

    Raises:
        ConfigError: something lies in the target folder that may not be replaced.
        NothingUsable: no student passed its test.
    """
    samples = None if dataset is None else samples_of(dataset)
    with written_whole(target, replace) as temporary:
        temporary.mkdir()
        lines = []
        for done, (name, student) in enumerate(students.items()):
            if advance is not None:
                advance(done, len(students))
            lines.append(f"{target / name}: {_export_student(student, temporary / name, samples, speeds)}")
        if not any(temporary.iterdir()):
            raise NothingUsable(lines)
        if advance is not None:
            advance(len(students), len(students))
    return lines


def _export_student(student: Exported, target: Path, samples: Samples | None, speeds: Speeds | None) -> str:
    """Writes one student, or nothing if it is not the one that was trained; returns a line about it."""
    target.mkdir()
    record = checkpoint.read(student.checkpoint)
    shutil.copyfile(student.checkpoint / checkpoint.WEIGHTS, target / checkpoint.WEIGHTS)
    config = {**_config(record), **student.facts}
    write_json(target / CONFIG, config)
    about = f"trial {record['number']}, validation accuracy {config['val_accuracy']:.2%}"
    exported = load_student(target)
    yardstick = yardstick_of(exported, samples, config["input"])
    if samples is not None:
        try:
            check_is_trained_one(yardstick, samples, record)
        except SelfTestFailed as error:
            shutil.rmtree(target)
            return f"{about}; not exported, its self-test failed: {error}"
        config["calibration"] = calibrate(yardstick.logits, samples.val_labels) | {"fitted_on": samples.words}
    config["self_test"] = _self_test(yardstick, samples)
    config["formats"] = _add_formats(exported, target, yardstick, samples)
    if speeds is not None:
        config["speed"] = speeds.of(record)
    write_json(target / CONFIG, config)
    shutil.copyfile(PREDICTOR, target / PREDICTOR.name)
    write_card(target, config)
    _write_hashes(target)
    return "; ".join([about, *_in_words(config["formats"])])


def _config(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its student."""
    objective = record["trial"]["objective"]
    return {
        "kd_tune": __version__,
        "architecture": record["trial"]["student"],
        "input": record["input"],
        "class_names": record["class_names"],
        "normalisation": record["normalisation"],
        "objective": objective,
        "temperature": objective.get("temperature", 1.0),
        "epoch": record["row"]["epoch"],
        "val_accuracy": record["row"]["val_accuracy"],
        "val_ece": record["row"]["val_ece"],
        "num_parameters": record["row"]["num_parameters"],
        "multiply_adds": record["row"].get("multiply_adds"),
        "trial": {key: record[key] for key in ("number", "arm", "seed", "trial", "dataset")},
    }


def _self_test(yardstick: Yardstick, samples: Samples | None) -> dict[str, Any]:
    if samples is None:
        return {"images": f"{len(yardstick.images)} random images", "val_accuracy": None}
    return {"images": samples.words, "val_accuracy": yardstick.accuracy}


def _add_formats(
    student: Student, target: Path, yardstick: Yardstick, samples: Samples | None
) -> dict[str, dict[str, Any]]:
    """Adds to an exported student what can be had; returns what `config.json` says of each format, or the problem."""
    images = torch.from_numpy(to_floats(yardstick.images[:2]))
    weights = {"file": checkpoint.WEIGHTS, **_file_facts(target / checkpoint.WEIGHTS)}
    found = {"safetensors": weights if yardstick.accuracy is None else weights | {"val_accuracy": yardstick.accuracy}}
    for kind in FLOAT_FORMATS:
        found[kind.title] = _add(kind, student, images, target, yardstick)
    if samples is None:
        found[INT8_FORMAT.title] = {"problem": f"{NO_DATA} (--data)"}
    elif "problem" in found[FLOAT_FORMATS[0].title]:
        found[INT8_FORMAT.title] = {"problem": "it is made from the ONNX file"}
    else:
        training = torch.from_numpy(to_floats(samples.train_images))
        found[INT8_FORMAT.title] = int8 = _add(INT8_FORMAT, student, training, target, yardstick)
        if yardstick.accuracy is not None and "problem" not in int8:
            lost = 100 * (yardstick.accuracy - int8["val_accuracy"])
            int8 |= {"points_below_float32": round(lost, 4), "calibrated_on": f"{len(training)} training images"}
    return found


def _add(kind: Format, student: Student, images: torch.Tensor, target: Path, yardstick: Yardstick) -> dict[str, Any]:
    """Writes one format, and takes it away again if it does not answer as it should."""
    if missing := kind.missing():
        return {"problem": f"{', '.join(missing)} missing (pip install 'kd-tune[export]')"}
    path = target / kind.file
    try:
        kind.write(student, images, path)
        checked = check_format(kind.load(path), yardstick, kind.is_float)
    except Exception as error:  # whatever an exporter raises about a network; one without it is no reason to stop
        path.unlink(missing_ok=True)
        return {"problem": str(error) if isinstance(error, SelfTestFailed) else reason(error)}
    return {"file": kind.file, **kind.facts, **checked, **_file_facts(path)}


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write_hashes(target: Path) -> None:
    """Writes SHA256SUMS, which `sha256sum -c` reads."""
    files = sorted(path for path in target.iterdir())
    lines = [f"{_file_facts(path)['sha256']}  {path.name}\n" for path in files]
    (target / HASHES).write_text("".join(lines), encoding="utf-8")


def _in_words(formats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What came of each format."""
    words = []
    for kind in FLOAT_FORMATS:
        found = formats[kind.title]
        difference = found.get("largest_difference_from_torch")
        agrees = f"{kind.title} agrees with torch " + (f"to {difference:.0e}" if difference else "exactly")
        words.append(f"no {kind.title} file: {found['problem']}" if "problem" in found else agrees)
    int8 = formats[INT8_FORMAT.title]
    if "problem" in int8:
        return [*words, f"no int8 file: {int8['problem']}"]
    below = int8["points_below_float32"]
    warning = f", {below:.2f} points below float32" if below > 100 * ONE_POINT else ""
    return [*words, f"int8 {int8['val_accuracy']:.2%}{warning}"]
