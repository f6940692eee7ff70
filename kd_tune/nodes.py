"""Asking the nodes of a cluster: a check is a task pinned to each; a folder is known by a file that lies in it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_tune.findings import Finding, Verdict, failed
from kd_tune.node_checks import MARKER, Folder, check_folder

NODE_SECONDS = 120.0  # for a node's answer; loading torch there takes 5, from a slow disk a minute


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process is connected to, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def is_head(node: Mapping[str, Any]) -> bool:
    """Whether a cluster was begun on this node."""
    return "node:__internal_head__" in node["Resources"]


def others() -> list[dict[str, Any]]:
    """Those that are not this process's own."""
    here = ray.get_runtime_context().get_node_id()
    return [node for node in alive() if node["NodeID"] != here]


def ask(
    nodes: Iterable[Mapping[str, Any]],
    check: Callable[[Any], list[Finding]],
    request: Callable[[Mapping[str, Any]], Any],
) -> list[Finding]:
    """What a check finds on nodes; a node that does not answer, or where the check breaks, fails.

    Args:
        nodes: whom to ask.
        check: runs there.
        request: its argument, for each node.
    """
    task = ray.remote(num_cpus=0)(check)  # no core, so that a busy node answers too
    asked: dict[Any, str] = {}
    for node in nodes:
        pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        asked[pinned.remote(request(node))] = node["NodeManagerAddress"]
    if not asked:
        return []
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
    findings = [replace(found, node=asked[answer]) for answer in answered for found in _answer(answer)]
    mend = "see that node's logs in /tmp/ray/session_latest/logs"
    silent = failed("node", f"no answer within {NODE_SECONDS:.0f} s", mend)
    return findings + [replace(silent, node=asked[answer]) for answer in late]


def _answer(answer: Any) -> list[Finding]:
    try:
        findings: list[Finding] = ray.get(answer)
    except RayError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        return [failed("node", f"the checks broke there: {reason}", "install the same versions there as here")]
    return findings


def as_it_is(name: str, path: Path, must_be_shared: bool = True) -> Folder:
    """A folder to be asked about, as it is there: a check makes none."""
    meant = path.absolute()
    there = next(folder for folder in (meant, *meant.parents) if folder.exists())
    return Folder(name, str(meant), str(there), must_be_shared=must_be_shared)


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
