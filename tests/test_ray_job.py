"""What KubeRay runs as a try of a job, run on this machine: after which ends it is to try again."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from kd_tune.errors import ExitCode
from kd_tune.ledger import Run
from kd_tune.paths import write_json
from tests.searches import ROOT, toy_manifest

PAUSE = """
import sys
from pathlib import Path
from kd_tune.ledger import Run

run = Run(Path(sys.argv[1]))
run.record("started", quota={"distil": 1})
run.record("paused", trials_left=1, limit=sys.argv[2] or None)
sys.exit(75)
"""


def make_run(folder: Path) -> Path:
    """A run that was paused at a limit by an earlier launch."""
    with closing(Run.create(folder, "", toy_manifest())) as run:
        run.record("started", quota={"distil": 1})
        run.record("paused", trials_left=1, limit="--max-hours 2")
    return folder


def try_once(run: Path, *command: str) -> tuple[int, str]:
    """Exit code of the try, and the last line of its log."""
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = ["bash", str(ROOT / "cluster" / "ray_job.sh"), str(run)]
    ended = subprocess.run([*script, *command], env=environment, stdout=subprocess.PIPE, text=True)
    return ended.returncode, ended.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (ExitCode.DONE, "done"),
        (ExitCode.USAGE, "usage or configuration, see the error above"),
        (ExitCode.NOTHING_USABLE, "it ended, but no trial gave a usable figure"),
        (ExitCode.PARTIAL, "it ended, and errors ended some of its trials"),
    ],
)
def test_an_end_that_another_try_would_not_change_is_final(code: ExitCode, said: str, tmp_path: Path) -> None:
    ended = try_once(make_run(tmp_path / "run"), "bash", "-c", f"exit {code}")
    assert ended == (0, f"exit code {code}, not tried again: {said}")


@pytest.mark.parametrize("code", [1, ExitCode.ENVIRONMENT, ExitCode.RESUMABLE, ExitCode.ENDED_AT_ONCE, 137])
def test_any_other_end_is_tried_again(code: int, tmp_path: Path) -> None:
    """75 here is a signal while it prepared: what an earlier launch recorded does not count."""
    ended = try_once(make_run(tmp_path / "run"), "bash", "-c", f"exit {code}")
    assert ended == (code, f"exit code {code}: tried again, unless backoffLimit is reached")


@pytest.mark.parametrize("limit", ["--max-hours 2", "--max-device-hours 0.5"])
@pytest.mark.parametrize("place", ["", "confirmation"])
def test_a_pause_at_the_users_own_limit_is_final(limit: str, place: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    if place:
        make_run(run / place)
        write_json(run / place / "plan.json", {})
    code, said = try_once(run, "python", "-c", PAUSE, str(run / place), limit)
    assert code == 0
    assert said.startswith(f"exit code 75, not tried again: stopped by {limit}; ")


@pytest.mark.parametrize("reason", ["", "s3://bucket/runs/toy: HTTP status 503"], ids=["signal", "storage"])
def test_a_pause_for_another_reason_is_tried_again(reason: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert try_once(run, "python", "-c", PAUSE, str(run), reason)[0] == 75
