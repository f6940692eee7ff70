"""Is this set-up fit for a search? One finding a check: of this machine, of a cluster's nodes, of a search file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, Verdict, failed, passed, warned
from kd_tune.manifest import versions
from kd_tune.node_checks import MARKER, Folder, Node, check_folder, check_node
from kd_tune.paths import cache_folder
from kd_tune.ray_checks import check_dashboard
from kd_tune.ray_token import MODE
from kd_tune.search_file import SearchFile
from kd_tune.search_findings import check_places, check_search
from kd_tune.storage import Storage

NODE_SECONDS = 120.0  # for a node's answer; loading torch there takes 5, from a slow disk a minute


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
    folders = [_folder("runs", setup.runs, storage is None), _folder("cache", cache_folder(), must_be_shared=False)]
    if storage is not None and (kept := Storage(storage).folder) is not None:
        folders, storage = [*folders, _folder("storage", kept)], None
    findings = [check_requirements(_requirements(), versions())]
    findings += check_node(Node(tuple(folders), starts_ray=alone, is_head=alone, versions={}, storage=storage))
    if setup.file is not None:
        findings += check_search(setup.file, setup.source)
    if setup.address is not None:
        findings += check_cluster(setup.address, folders, setup.file, storage)
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


def _folder(name: str, path: Path, must_be_shared: bool = True) -> Folder:
    """A folder as it is asked for: a check makes none."""
    meant = path.absolute()
    there = next(folder for folder in (meant, *meant.parents) if folder.exists())
    return Folder(name, str(meant), str(there), must_be_shared=must_be_shared)


def check_cluster(
    address: str, folders: Sequence[Folder], file: SearchFile | None, storage: str | None = None
) -> list[Finding]:
    """A running cluster: every node, its dashboard, and whether some node holds a trial."""
    from kd_tune import cluster

    try:
        with cluster.connected(address), marked(folders) as shared:
            findings = [passed("cluster", f"{address} is reached"), _check_dashboard()]
            findings += check_nodes(shared, storage)
            if file is not None:
                findings.append(check_places(file.resources))
            return findings
    except ConfigError as error:
        mend = "`ray start --head` there, the same versions and the same token here"
        return [failed("cluster", " ".join(str(error).split()), mend)]


@contextmanager
def marked(folders: Iterable[Folder]) -> Iterator[list[Folder]]:
    """Folders with a file in each by which another node knows it for the same folder; left out: what cannot be written.

    The file's name is new each time, so that no node remembers that it was not there.
    """
    shared = []
    with ExitStack() as stack:
        for folder in folders:
            marker = Path(folder.path) / f"{MARKER}{secrets.token_hex(8)}"
            if check_folder(folder).verdict is Verdict.PASS:
                marker.touch()
                stack.callback(marker.unlink)
                shared.append(replace(folder, marker=marker.name))
        yield shared


def check_nodes(folders: Sequence[Folder], storage: str | None = None) -> list[Finding]:
    """`check_node` on every node of the cluster that this process is connected to, each a task pinned to it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(check_node)  # no core, so that a busy node answers too
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        if node["Alive"]:
            is_head = "node:__internal_head__" in node["Resources"]
            request = Node(tuple(folders), starts_ray=False, is_head=is_head, versions=versions(), storage=storage)
            pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            asked[pinned.remote(request)] = node["NodeManagerAddress"]
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
    findings = [replace(found, node=asked[answer]) for answer in answered for found in _answer(answer)]
    mend = "see that node's logs in /tmp/ray/session_latest/logs"
    silent = failed("node", f"no answer within {NODE_SECONDS:.0f} s", mend)
    return findings + [replace(silent, node=asked[answer]) for answer in late]


def _answer(answer: Any) -> list[Finding]:
    import ray
    from ray.exceptions import RayError

    try:
        findings: list[Finding] = ray.get(answer)
    except RayError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        return [failed("node", f"the checks broke there: {reason}", "install the same versions there as here")]
    return findings


def _check_dashboard() -> Finding:
    from ray._private.worker import get_dashboard_url

    return check_dashboard(get_dashboard_url(), os.environ.get(MODE, "").lower() == "token")
