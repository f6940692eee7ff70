"""What an arm of a search trains: the file's own trial, or the same as a control. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_tune.config import TrainingConfig
from kd_tune.ranges import Choice, FloatRange
from kd_tune.records import DISTIL
from kd_tune.search_file import SearchFile
from kd_tune.space import Space, to_raw


def control_objective(arm: str) -> dict[str, Any]:
    """The `objective` section, with its ranges, that an arm without the teacher's help has in place of the file's."""
    controls: dict[str, dict[str, Any]] = {
        "cross_entropy": {"name": "cross_entropy"},
        "label_smoothing": {"name": "label_smoothing", "smoothing": FloatRange(bounds=[0.0, 0.4])},
    }
    return controls[arm]


def teachers_of(trial: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The teacher sections of a trial with ranges: none, one, or those of a choice."""
    if "teacher" not in trial:
        return []
    node = trial["teacher"]
    return list(node.options) if isinstance(node, Choice) and node.is_sections else [node]


def space_of_arm(trial: Mapping[str, Any], arm: str) -> Space:
    """The file's own trial, or the same with an objective that the teacher has no part in.

    Controls keep the teacher section where it names one teacher that need not be asked again: nothing is learnt from
    it, but their agreement with it is measured.
    """
    template = dict(trial)
    template["training"] = TrainingConfig.model_validate(_constants(trial["training"])).model_dump() | trial["training"]
    if arm != DISTIL:
        template["objective"] = control_objective(arm)
        if len(teachers_of(trial)) > 1 or any(section.get("mode") == "live" for section in teachers_of(trial)):
            del template["teacher"]  # not a parameter of an arm that has no use for it, nor worth asking in every step
    return Space(template)


def _constants(training: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in training.items() if isinstance(value, int | float | str)}


def resolved(file: SearchFile) -> dict[str, Any]:
    """The search file with overrides and defaults written out: what `search.yaml` in a run holds."""
    trial = to_raw(space_of_arm(file.trial, DISTIL).template)
    node = trial.get("teacher", {})
    for section in node.get("choice", [node]):
        for key in {"weights", "file"} & section.keys():
            section[key] = str(Path(section[key]).expanduser().resolve())
    return {"search": file.search.model_dump(), "resources": file.resources.model_dump(), "trial": trial}
