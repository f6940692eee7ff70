"""Whether the nodes of a cluster see what a run needs: asked before anything is made, filled or trained for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from kd_tune import cluster, nodes
from kd_tune.config import ResourcesConfig
from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, Verdict
from kd_tune.node_checks import check_folders
from kd_tune.node_files import Parcel, check_parcels
from kd_tune.ray_checks import check_token_there
from kd_tune.storage import Storage


@contextmanager
def joined(address: str | None, run: Path, storage: Storage | None, resources: ResourcesConfig) -> Iterator[None]:
    """The cluster of `--address`, or one that this process has joined already.

    A cluster of `--address` that strangers can run code on is used all the same, with a warning.

    Args:
        address: None: Ray is started on this machine alone, when all is prepared.
        run: the run's folder, to be.
        storage: of the run, which other nodes write to in place of its folder, if there is one.
        resources: of a place.

    Raises:
        ConfigError: no node holds a trial, or one that does sees another folder.
        EnvironmentProblem: the cluster cannot be reached.
    """
    if address is None and not ray.is_initialized():
        yield
        return
    with cluster.connected(address):
        if address is not None:
            _warn(nodes.ask(filter(nodes.is_head, nodes.alive()), check_token_there, lambda node: None))
        cluster.num_slots(resources)
        written = [run] if storage is None else [storage.folder] if storage.folder is not None else []
        with nodes.marked([nodes.as_it_is("runs", folder) for folder in written]) as folders:
            _refuse(nodes.ask(_others_with_places(resources), check_folders, lambda node: folders))
        yield


def check_files(parcels: Sequence[Parcel], resources: ResourcesConfig) -> None:
    """Raises ConfigError if a node that holds trials lacks files that are too large to be sent there."""
    if parcels:
        _refuse(nodes.ask(_others_with_places(resources), check_parcels, lambda node: parcels))


def _others_with_places(resources: ResourcesConfig) -> list[dict[str, Any]]:
    return [node for node in nodes.others() if cluster.slots_of(node["Resources"], resources)]


def _warn(found: Iterable[Finding]) -> None:
    for finding in found:
        if finding.verdict is not Verdict.PASS:
            what = f"node {finding.node}: {finding.check}: {finding.found}; {finding.mend}"
            print(f"warning: {what}", file=sys.stderr)


def _refuse(found: Iterable[Finding]) -> None:
    failures = [finding for finding in found if finding.verdict is Verdict.FAIL]
    if failures:
        raise ConfigError([f"node {finding.node}: {finding.found}; {finding.mend}" for finding in failures])
