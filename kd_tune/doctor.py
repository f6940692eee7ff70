"""Is this set-up fit for a search? One finding a check: of this machine, of a cluster's nodes, of a search file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kd_tune import cluster, nodes
from kd_tune.data import files_of, resolve_source
from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, failed, passed, warned
from kd_tune.manifest import versions
from kd_tune.node_checks import Folder, Node, check_node
from kd_tune.node_files import Parcel, pack
from kd_tune.paths import cache_folder
from kd_tune.ray_checks import check_dashboard
from kd_tune.ray_token import MODE
from kd_tune.search_file import SearchFile
from kd_tune.search_findings import check_places, check_search
from kd_tune.storage import Storage


@dataclass(frozen=True)
class Setup:
    """What is examined.

    Attributes:
        runs: the folder that would hold the run.
        file: of a search; None: none in particular.
        source: where its data lie; None: the usual place.
        address: of a running cluster; None: this machine.
        storage: where the run would be kept too, if anywhere.
    """

    runs: Path
    file: SearchFile | None = None
    source: Path | None = None
    address: str | None = None
    storage: str | None = None


def examine(setup: Setup) -> list[Finding]:
    """Every check there is."""
    alone, storage = setup.address is None, setup.storage
    folders = [
        nodes.as_it_is("runs", setup.runs, must_be_shared=storage is None),
        nodes.as_it_is("cache", cache_folder(), must_be_shared=False),
    ]
    if storage is not None and (kept := Storage(storage).folder) is not None:
        folders, storage = [*folders, nodes.as_it_is("storage", kept)], None
    findings = [check_requirements(_requirements(), versions())]
    findings += check_node(Node(tuple(folders), starts_ray=alone, is_head=alone, versions={}, storage=storage))
    if setup.file is not None:
        findings += check_search(setup.file, setup.source)
    if setup.address is not None:
        findings += check_cluster(setup.address, folders, setup.file, setup.source, storage)
        return findings
    findings.append(check_dashboard(None, has_token=True))  # kd_tune starts none
    if setup.file is not None:
        findings.append(check_places(setup.file.resources))
    return findings


def check_requirements(required: Mapping[str, str] | None, found: Mapping[str, str | None]) -> Finding:
    """Whether what is installed is what kd_tune asks for.

    Args:
        required: specifiers such as `==2.60.*` by package, `python` among them; None: nobody knows.
        found: versions by package, and kd_tune's commit.
    """
    shown = ("python", "ray", "torch", "optuna")
    said = ", ".join(f"{name} {found[name] or 'missing'}" for name in shown)
    said += f", kd_tune {found['kd-tune']}" + (f" (commit {found['commit']})" if found["commit"] else "")
    mend = "pip install --constraint constraints.txt --editable ."
    if required is None:
        return warned("versions", f"{said}; kd_tune is not installed, so nobody knows what it needs", mend)
    unmet = [
        f"{name} {found[name] or 'missing'}, but kd_tune asks for {name}{specifier}"
        for name, specifier in required.items()
        if name in found and (found[name] is None or not SpecifierSet(specifier).contains(str(found[name]), True))
    ]
    return failed("versions", "; ".join(unmet), mend) if unmet else passed("versions", said)


def _requirements() -> dict[str, str] | None:
    """What the installed package's own record asks for, which is pyproject.toml's."""
    try:
        lines, python = requires("kd-tune") or [], metadata("kd-tune")["Requires-Python"]
    except PackageNotFoundError:
        return None
    parsed = [requirement for line in lines if not (requirement := Requirement(line)).marker]
    return {"python": python} | {requirement.name: str(requirement.specifier) for requirement in parsed}


def check_cluster(
    address: str,
    folders: Sequence[Folder],
    file: SearchFile | None,
    source: Path | None = None,
    storage: str | None = None,
) -> list[Finding]:
    """A running cluster: every node, its dashboard, and whether some node holds a trial."""
    try:
        with cluster.connected(address), nodes.marked(folders) as shared:
            findings = [passed("cluster", f"{address} is reached"), _check_dashboard()]
            findings += check_nodes(shared, _data(file, source), storage)
            if file is not None:
                findings.append(check_places(file.resources))
            return findings
    except ConfigError as error:
        mend = "`ray start --head` there, the same versions and the same token here"
        return [failed("cluster", " ".join(str(error).split()), mend)]


def _data(file: SearchFile | None, source: Path | None) -> list[Parcel]:
    """What nodes need of the data; nothing if there are none here, which is a finding of its own."""
    if file is None:
        return []
    name = file.trial["dataset"]["name"]
    found = resolve_source(name, source)
    return [pack("data", found, files_of(name, found))] if found is not None and found.exists() else []


def check_nodes(folders: Sequence[Folder], parcels: Sequence[Parcel] = (), storage: str | None = None) -> list[Finding]:
    """`check_node` on every node of the cluster that this process is connected to, with what trials read there."""

    def request(node: Mapping[str, Any]) -> Node:
        return Node(
            tuple(folders),
            starts_ray=False,
            is_head=nodes.is_head(node),
            versions=versions(),
            storage=storage,
            parcels=tuple(parcels),
        )

    return nodes.ask(nodes.alive(), check_node, request)


def _check_dashboard() -> Finding:
    from ray._private.worker import get_dashboard_url

    return check_dashboard(get_dashboard_url(), os.environ.get(MODE, "").lower() == "token")
