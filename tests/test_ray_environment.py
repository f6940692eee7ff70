"""Ray is imported with kd_tune's settings, whichever module of kd_tune comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            print(os.environ.get("RAY_AUTH_MODE"), *(name for name in os.environ if name.startswith("TUNE_")))
        return None

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["cluster", "joining", "judges", "trackers", "tune_callbacks", "client", "nodes"])
def test_settings_are_there_before_ray_is(module: str, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir(mode=0o700)
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    said = subprocess.run(
        [sys.executable, "-c", CODE, f"kd_tune.{module}"],
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.splitlines()[0] == "token"
