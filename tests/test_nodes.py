"""Clusters of several nodes: a node that lacks the files is sent them; a folder of one node alone is refused at once.

The fault scripts are run here with few rounds; by hand they are run with many (docs/reliability.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kd_tune import results
from kd_tune.paths import CACHE_VARIABLE
from tests.faults.nodes import Nodes
from tests.faults.rounds import Search, differences, undisturbed, workplace
from tests.searches import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # a minute each on two idle cores
OWN_FILES = ["unshare", "--map-root-user", "--mount"]
Cluster = Callable[..., tuple[Nodes, list[str]]]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a test's searches and clusters, which change this process's environment."""
    with workplace() as folder:
        for name in (CACHE_VARIABLE, "RAY_AUTH_MODE", "RAY_TMPDIR"):
            monkeypatch.setenv(name, str(folder))
            monkeypatch.delenv(name)  # put back at the end, whatever it is then
        yield folder


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    """`cluster(folder, ...)`: two nodes, of which the second has empty folders of its own there."""
    if subprocess.run([*OWN_FILES, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a namespace of files")
    made: list[Nodes] = []

    def make(*hidden: Path) -> tuple[Nodes, list[str]]:
        for folder in hidden:
            folder.mkdir(parents=True, exist_ok=True)
        mounts = " && ".join(f"mount -t tmpfs none '{folder}'" for folder in hidden)
        nodes = Nodes(place / "ray", {1: [*OWN_FILES, "bash", "-c", f'{mounts} && exec "$@"', "node"]})
        made.append(nodes)
        return nodes, [nodes.add(), nodes.add()]

    yield make
    for nodes in made:
        nodes.kill_all()


@pytest.mark.parametrize("stack", [1, 4])
def test_a_node_that_lacks_data_and_answers_is_sent_them(stack: int, place: Path, cluster: Cluster) -> None:
    state, _ = undisturbed(place, stack)
    search = Search(place / "search", stack, own_cache=True)
    cache = search.cache
    nodes, (_, lacking) = cluster(search.data.parent, cache)
    search.address = nodes.address
    assert search.finish() == []
    assert differences(results.read(search.run).state, state) == []
    seen = nodes.root(lacking)
    assert not (seen / str(search.data).lstrip("/")).exists()
    sent = {path.name for path in (seen / str(cache).lstrip("/") / "sent").glob("*/**/*") if path.is_file()}
    assert sent == {"toy.npz", "logits.f16", "val_logits.npy", "bank.json"}
    assert not (cache / "sent").exists(), "the driver's node has the files"


def test_a_folder_of_one_node_alone_is_refused_before_anything_is_done(place: Path, cluster: Cluster) -> None:
    search = Search(place / "search", 1, own_cache=True)
    nodes, (_, other) = cluster(search.folder / "runs")
    search.address = nodes.address
    launch = search.start()
    assert launch.wait() == 2
    said = launch.log.read_text()
    assert f"error: node {other}: {search.run.parent}: a folder of this node alone; " in said
    assert "a folder that all of these share under one path, or --storage" in said
    assert list(search.run.parent.iterdir()) == []
    assert not (search.cache / "teachers").exists(), "no teacher was trained for it"


@pytest.mark.parametrize(
    ("script", "options", "results"),
    [
        ("kill_driver.py", ("--count", "2"), {"kill_driver": 2}),
        ("kill_processes.py", ("--count", "1"), {"kill_worker": 1, "kill_host": 1, "kill_node": 1}),
        ("lose_head.py", ("--count", "1"), {"lose_head": 1}),
        ("three_nodes.py", (), {"three_nodes": 2}),
        ("storage_errors.py", ("--count", "2"), {"storage_errors": 2}),
    ],
)
def test_a_fault_script_finds_nothing_broken(
    script: str, options: tuple[str, ...], results: dict[str, int], tmp_path: Path
) -> None:
    command: list[Any] = [sys.executable, ROOT / "tests" / "faults" / script, *options, "--out", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {path.stem: json.loads(path.read_text())["held"] for path in tmp_path.glob("*.json")} == results
