"""The model card of an exported student: what `config.json` says, for a person, and no more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from kd_tune.export_checks import ONE_POINT
from kd_tune.markdown import Markdown, plain, table
from kd_tune.objectives import OBJECTIVES
from kd_tune.progress import counted, short
from kd_tune.ranges import branch_name

CARD = "README.md"


def write_card(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the card into an exported student's folder.

    Args:
        folder: the student's.
        config: the content of its `config.json`.
    """
    trial = config["trial"]["trial"]
    shape = config["input"]
    architecture = in_words(config["architecture"])
    dataset = config["trial"]["dataset"]
    macs = config["multiply_adds"]
    text = _render(
        "model_card.md.jinja",
        title=f"{config['architecture']['name']} for {dataset['name']}",
        architecture=architecture,
        size_in_words=f"{config['num_parameters']:,} parameters"
        + ("" if macs is None else f" and {macs:,} multiply-adds an image"),
        num_classes=shape["num_classes"],
        dataset=dataset["name"],
        version=config["kd_tune"],
        number=config["trial"]["number"],
        size=shape["image_size"],
        channels=shape["in_channels"],
        array=_array(shape["image_size"], shape["in_channels"]),
        mean=_numbers(config["normalisation"]["mean"]),
        std=_numbers(config["normalisation"]["std"]),
        class_names=", ".join(config["class_names"]),
        arm=config["trial"]["arm"],
        objective=in_words(config["objective"]),
        teacher=_teacher(trial),
        learnt_from="teacher" in trial and not _is_control(trial),
        epochs=f"{config['epoch']} of {counted(trial['training']['num_epochs'], 'epoch')}",
        seed=config["trial"]["seed"],
        optimizer=in_words(trial["optimizer"]),
        fingerprint=dataset["fingerprint"],
        split=", ".join(f"{name} {value}" for name, value in dataset["split"].items()),
        val_accuracy=f"{config['val_accuracy']:.2%}",
        accuracy=list(_accuracy(config)),
        calibration=_calibration(config.get("calibration")),
        files=_files(config["formats"]),
        problems=[f"no {name}: {found['problem']}" for name, found in config["formats"].items() if "problem" in found],
        tested_on=config["self_test"]["images"],
        speed=_speed(config.get("speed")),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    # S701 asks for HTML's escapes; `finalize` sees every value, and makes it plain text of Markdown.
    environment = jinja2.Environment(  # noqa: S701
        finalize=lambda value: value if isinstance(value, Markdown) else plain(value),
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def in_words(section: Mapping[str, Any]) -> str:
    """`studentnet width=0.5`."""
    arguments = [f"{name}={short(value)}" for name, value in section.items() if name != "name"]
    return " ".join([str(section["name"]), *arguments])


def _teacher(trial: Mapping[str, Any]) -> str:
    if "teacher" not in trial:
        return "No teacher."
    name = branch_name(trial["teacher"])
    if _is_control(trial):
        return f"A control: it learnt nothing from a teacher (agreement with {name} was measured)."
    return f"Teacher: {name}."


def _is_control(trial: Mapping[str, Any]) -> bool:
    """Whether a trial learns nothing from its teacher."""
    return not getattr(OBJECTIVES.get(trial["objective"]["name"]), "needs_teacher", True)


def _accuracy(config: Mapping[str, Any]) -> Iterator[str]:
    """What else is known of its accuracy: the confirmation's figures on test images, and those of int8."""
    confirmed = config.get("confirmed")
    if confirmed is None:
        yield "Test images have had no part in this: the figure is unconfirmed (kd-tune confirm)."
    else:
        count = len(confirmed["test_accuracies"])
        mean = sum(confirmed["test_accuracies"]) / count
        yield (
            f"Test accuracy of this configuration: {mean:.2%}, the mean of {count} trainings on fresh seeds, 95 % "
            f"interval {confirmed['low']:.2%} to {confirmed['high']:.2%}. This is the training with the median "
            "validation accuracy."
        )
    int8 = config["formats"].get("int8", {})
    if "points_below_float32" in int8:
        below = int8["points_below_float32"]
        yield (
            f"int8: {int8['val_accuracy']:.2%} on {config['self_test']['images']}, where float32 has "
            f"{config['self_test']['val_accuracy']:.2%}. "
            + (f"That is {below:.2f} points less: more than one." if below > 100 * ONE_POINT else "")
        ).rstrip()


def _calibration(found: Mapping[str, Any] | None) -> dict[str, str] | None:
    if found is None:
        return None
    if "problem" in found:
        return {"temperature": "1", "words": f"not calibrated, because {found['problem']}"}
    words = (
        f"the temperature was fitted on {found['fitted_on']}, where it takes the expected calibration error from "
        f"{found['ece_before']:.4f} to {found['ece_after']:.4f} and the negative log-likelihood from "
        f"{found['nll_before']:.4f} to {found['nll_after']:.4f}; on other images it will do a little worse"
    )
    return {"temperature": short(found["temperature"]), "words": words}


def _files(formats: Mapping[str, Mapping[str, Any]]) -> Markdown:
    rows = [
        {
            "file": found["file"],
            "format": name + (f", opset {found['opset']}" if "opset" in found else ""),
            "bytes": f"{found['bytes']:,}",
            "validation accuracy": f"{found['val_accuracy']:.2%}" if "val_accuracy" in found else "",
            "SHA-256": found["sha256"],
        }
        for name, found in formats.items()
        if "problem" not in found
    ]
    return table(pd.DataFrame(rows))


def _speed(speed: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Student and teacher, a row each, and under what conditions."""
    if speed is None:
        return None
    rows = []
    for who in ("student", "teacher"):
        found = speed.get(who, {})
        if "latency_ms_batch_1" in found:
            rows.append(
                {
                    "network": f"{who} {found.get('name', '')}".strip(),
                    "one image, ms": short(found["latency_ms_batch_1"]),
                    "32 images, ms": short(found["latency_ms_batch_32"]),
                    "memory, MiB": short(found["memory_mib"]),
                }
            )
        elif "problem" in found:
            rows.append({"network": who, "one image, ms": f"not measured: {found['problem']}"})
    conditions = speed["conditions"]
    rounds = " and ".join(f"{count} rounds of {size}" for size, count in conditions["rounds"].items())
    words = (
        f"{conditions['runtime']}, float32, {conditions['threads']} thread of {conditions['processor']}, "
        f"{conditions['statistic']} ({rounds}). Memory is what the process grows by at 32 images. Load average before: "
        f"{conditions['load_average_before']}."
    )
    return {"table": table(pd.DataFrame(rows).fillna("")), "conditions": words}


def _array(size: int, channels: int) -> Markdown:
    """The shape of images that `predict.py` takes, for a block of code."""
    return Markdown(f"[N, {size}, {size}]" if channels == 1 else f"[N, {size}, {size}, {channels}]")


def _numbers(values: list[float]) -> str:
    return ", ".join(short(value) for value in values)
