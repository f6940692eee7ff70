"""Whether a search file's data, teachers and their answers are there, and whether a trial fits. Makes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_tune import cluster, soft_targets, teacher
from kd_tune.arms import teachers_of
from kd_tune.catalog import load_dataset
from kd_tune.config import ResourcesConfig
from kd_tune.data import Dataset, resolve_source
from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, failed, passed, warned
from kd_tune.prepare import network_of
from kd_tune.ranges import branch_name
from kd_tune.search_checks import check
from kd_tune.search_file import SearchFile


def check_search(file: SearchFile, source: Path | None) -> list[Finding]:
    """The file itself, its data, and each teacher that it may name."""
    try:
        check(file)
    except ConfigError as error:
        return [failed("search file", problem, f"correct {file.source.name}") for problem in error.problems]
    findings = [passed("search file", file.source.name)]
    section = file.trial["dataset"]
    try:
        dataset = load_dataset(section, resolve_source(section["name"], source))
    except ConfigError as error:
        return [*findings, *[failed("data", problem, "--data says where they lie") for problem in error.problems]]
    count = f"{len(dataset.train)} images to train on, {len(dataset.val)} to validate"
    findings.append(passed("data", f"{dataset.name}, {count}, fingerprint {dataset.fingerprint}"))
    views = file.trial["training"].get("views", 1)
    return findings + [check_teacher(section, dataset, views) for section in teachers_of(file.trial)]


def check_teacher(section: Mapping[str, Any], dataset: Dataset, views: int) -> Finding:
    """One teacher: whether it is there and undamaged, and has answered for all views.

    Args:
        section: of the search file.
        dataset: whom it teaches about.
        views: that trials want.
    """
    name = f"teacher {branch_name(section)}"
    try:
        folder = _find(section, dataset)
        if folder is None:
            return _not_made_yet(name, section, dataset)
        found = teacher.load(folder, dataset)
        if section.get("mode") == "live":
            return passed(name, f"{folder}, fingerprint {found.fingerprint}; live, so it has no bank")
        return _check_bank(name, found, dataset, views)
    except ConfigError as error:
        return failed(name, " ".join(str(error).split()), "delete what is damaged; the next search makes it again")


def _find(section: Mapping[str, Any], dataset: Dataset) -> Path | None:
    """The folder of the network that answers; None: there is none yet, or it is no network."""
    if section["name"] in ("logits", "random"):
        return None
    if "weights" in section:
        path = Path(os.path.expanduser(section["weights"]))
        return path if teacher.exists(path) else None
    return teacher.locate(network_of(section), dataset)


def _not_made_yet(name: str, section: Mapping[str, Any], dataset: Dataset) -> Finding:
    """What a search makes of a section for which there is no network yet."""
    if section["name"] == "random":
        return passed(name, "made in a moment when the search starts")
    given = section.get("file") or section.get("weights")
    if given is None:
        mend = "the search trains it first, once; or `kd-tune teacher train` now"
        return warned(name, f"none for {dataset.name} with fingerprint {dataset.fingerprint} yet", mend)
    if not Path(os.path.expanduser(given)).is_file():
        return failed(name, f"{given}: no such file", "put it there, or correct the search file")
    return passed(name, f"{given}; the search reads and checks it when it starts")


def _check_bank(name: str, found: teacher.Teacher, dataset: Dataset, views: int) -> Finding:
    folder = soft_targets.folder_of(found, dataset)
    if not soft_targets.is_filled(folder, views):
        missing = soft_targets.missing_answers(folder, dataset, views)
        said = f"{found.folder}, fingerprint {found.fingerprint}; {missing} answers are missing for {views} views"
        return warned(name, said, "the search asks for them first, once")
    fingerprint = soft_targets.fingerprint_of(found, dataset)
    soft_targets.open_bank(folder, fingerprint, len(dataset.train), dataset.num_classes, views)
    return passed(name, f"{found.folder}, fingerprint {found.fingerprint}; {views} views in {folder}")


def check_places(resources: ResourcesConfig) -> Finding:
    """Whether a trial fits: on some node of the cluster that this process is connected to, or else on this machine."""
    try:
        return passed("places", f"{cluster.places(resources)} for trials, or for stacks of them")
    except ConfigError as error:
        return failed("places", str(error), "lower `resources` in the search file, or add a larger node")
