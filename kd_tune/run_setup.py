"""What a run is made from, written into its folder, and found again when it is gone on with or confirmed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kd_tune.arms import resolved
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError
from kd_tune.ledger import SEARCH_FILE, Run, no_run
from kd_tune.manifest import MANIFEST, Fingerprints, Manifest, hardware, versions
from kd_tune.mirror import remember
from kd_tune.paths import read_record, written_whole
from kd_tune.prepare import PreparedTeacher, prepare
from kd_tune.records import TeacherPlace
from kd_tune.search_checks import check
from kd_tune.search_file import SearchFile, load_search_file
from kd_tune.space import Space
from kd_tune.storage import Storage
from kd_tune.strata import Students
from kd_tune.strict_yaml import dump_yaml
from kd_tune.warm_start import EarlierRun, record_known


def make_run(
    folder: Path,
    file: SearchFile,
    manifest: Manifest,
    earlier: Sequence[EarlierRun],
    students: Students | None,
    storage: Storage | None = None,
) -> list[str]:
    """Makes a new run with all that it learns from, or nothing: a part of it would be gone on with in silence.

    Returns:
        Lines that say what it learns from.

    Raises:
        ConfigError: the name is taken, or the place cannot be written.
    """
    arms = list(file.search.trials_by_arm())
    content = dump_yaml(resolved(file))
    with written_whole(folder) as temporary, closing(Run.create(temporary, content, manifest)) as run:
        if storage is not None:
            remember(temporary, storage)
        return record_known(run, earlier, arms, students)


@dataclass(frozen=True)
class Found:
    """What a run was started with, found again and checked to be the same.

    Attributes:
        file: its search file.
        spaces: by arm.
        manifest: how it was made.
        dataset: its images.
        source: where they lie.
        teachers: where each teacher's answers are.
        networks: folders of those that can be asked about other images.
    """

    file: SearchFile
    spaces: dict[str, Space]
    manifest: Manifest
    dataset: Dataset
    source: Path | None
    teachers: dict[str, TeacherPlace]
    networks: dict[str, Path]


def file_of(folder: Path) -> SearchFile:
    """The search file of a run; ConfigError if there is no run here."""
    if not (folder / SEARCH_FILE).exists():
        raise ConfigError(no_run(folder))
    return load_search_file(folder / SEARCH_FILE)


def find_again(folder: Path, source: Path | None, console: Console) -> Found:
    """Reads a run's files, loads its data, and prepares its teachers where they are no longer there.

    Args:
        folder: the run's.
        source: where the data lie now; None: where the run found them.
        console: shows progress.

    Raises:
        ConfigError: no run here, or data or teacher have changed since.
    """
    file = file_of(folder)
    spaces = check(file)
    manifest = read_record(folder / MANIFEST, Manifest)
    source = source or (None if manifest.source is None else Path(manifest.source))
    dataset = load_dataset(file.trial["dataset"], source)
    _check_unchanged(folder, "data", dataset.fingerprint, manifest.fingerprints.data)
    prepared = prepare(file.trial, dataset, source, console)
    _check_unchanged(folder, "teacher", fingerprints_of(prepared), manifest.fingerprints.teachers)
    networks = {name: one.network for name, one in prepared.items() if one.network is not None}
    return Found(file, spaces, manifest, dataset, source, places_of(prepared), networks)


def places_of(prepared: Mapping[str, PreparedTeacher]) -> dict[str, TeacherPlace]:
    """Where each teacher's answers are, by its name."""
    return {name: found.place for name, found in prepared.items()}


def fingerprints_of(prepared: Mapping[str, PreparedTeacher]) -> dict[str, str]:
    """Of each teacher, by its name."""
    return {name: found.fingerprint for name, found in prepared.items()}


def _check_unchanged(folder: Path, what: str, now: object, then: object) -> None:
    if now != then:
        raise ConfigError(f"{folder}: the {what} is not what the run started with (now {now}, then {then})")


def manifest_of(
    file: SearchFile, dataset: Dataset, prepared: Mapping[str, PreparedTeacher], source: Path | None
) -> Manifest:
    """How a new run is made."""
    return Manifest(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        search_file=file.source.name,
        source=None if source is None else str(source),
        seed=file.search.seed,
        fingerprints=Fingerprints(data=dataset.fingerprint, teachers=fingerprints_of(prepared)),
        dataset={
            "name": dataset.name,
            "split": dataset.split,
            "num_train": len(dataset.train),
            "num_val": len(dataset.val),
            "class_names": list(dataset.class_names),
        },
        teachers={name: found.facts for name, found in prepared.items()},
        versions=versions(),
        hardware=hardware(),
    )
