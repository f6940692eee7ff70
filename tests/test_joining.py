"""What a search says of the cluster that it joins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kd_tune.ray_token import MODE
from tests.searches import ROOT

# Ray of a process of its own, so that its token is this test's alone.
JOIN = """
from pathlib import Path
from kd_tune import cluster
from kd_tune.config import ResourcesConfig
from kd_tune.joining import joined

cluster.start_here(num_cpus=1)
with joined("auto", Path("run"), None, ResourcesConfig()):
    print("joined")
"""


def join(home: Path, mode: str) -> subprocess.CompletedProcess[str]:
    """Joins a Ray that was started with this mode of its token."""
    given = {"HOME": str(home), "PYTHONPATH": str(ROOT), MODE: mode}
    command = [sys.executable, "-c", JOIN]
    return subprocess.run(command, env=os.environ | given, cwd=home, capture_output=True, text=True)


def test_a_cluster_without_a_token_is_used_with_a_warning(tmp_path: Path) -> None:
    ended = join(tmp_path, "disabled")
    assert ended.stdout == "joined\n", ended.stderr
    assert "warning: node 127.0.0.1: token: off (RAY_AUTH_MODE is disabled or not set): " in ended.stderr
    assert "; ray get-auth-token --generate; " in ended.stderr


def test_nothing_is_said_of_a_cluster_whose_token_is_a_secret(tmp_path: Path) -> None:
    ended = join(tmp_path, "token")
    assert ended.stdout == "joined\n", ended.stderr
    assert "warning" not in ended.stderr
