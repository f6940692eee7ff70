"""A SLURM of this machine alone, for tests: `srun` starts processes, `scontrol` takes notes, `ray` is real or not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.searches import ROOT

# One process a node. SIGINT is reset: the shell ignores it in what it starts behind its back, SLURM does not.
SRUN = """#!/usr/bin/env bash
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[@]}" >>"$NOTES/srun"
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_PROCID=$node env --default-signal=INT "$@" &
done
for one in $(jobs -p); do wait "$one" || worst=$?; done
exit "${worst:-0}"
"""

SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$NOTES/scontrol"
if [[ $1 == show ]]; then tr , '\\n' <<<"$3"; fi
"""

# Runs the command on the first node, as `ray symmetric-run` does; like it, exits with 0 where Ray does not start.
RAY = """#!/usr/bin/env bash
echo "$@" >>"$NOTES/ray.$SLURM_PROCID"
if ((SLURM_PROCID == 0)); then
    stat -c %a "$RAY_AUTH_TOKEN_PATH" >>"$NOTES/token_mode"
    wc -c <"$RAY_AUTH_TOKEN_PATH" >>"$NOTES/token_length"
    env | grep ^RAY_ >"$NOTES/environment"
    if [[ -e $NOTES/ray_does_not_start ]]; then echo "Failed to start Ray" >&2; exit 0; fi
    while [[ $1 != -- ]]; do shift; done
    shift
    "$@"
else
    exit "$(cat "$NOTES/worker_code" 2>/dev/null || echo 0)"
fi
"""

# Stands in for a search that takes hours: a run's ledger in the shape of one, and the end that the test asked for.
SEARCH = """
import os, signal, sys, time
from pathlib import Path
from kd_tune.ledger import Run
from tests.searches import toy_manifest

PAUSES = {
    "hours": "--max-hours 2",
    "device_hours": "--max-device-hours 3",
    "storage": "s3://bucket/runs/toy: HTTP status 503, for five minutes",
    "signal": None,
}
notes, arguments = Path(os.environ["NOTES"]), sys.argv[1:]
with (notes / "search").open("a") as file:
    print(*arguments, file=file)
ends = (notes / "ends").read_text().split()
end = ends.pop(0)
(notes / "ends").write_text(" ".join(ends))

folder = Path(*(arguments[arguments.index(option) + 1] for option in ("--runs", "--name")))
assert "--or-resume" in arguments
if end == "early":  # a signal while it prepares: nothing is recorded
    sys.exit(75)
run = Run(folder) if folder.exists() else Run.create(folder, "", toy_manifest())
run.record("started", quota={"distil": 1})
if end == "wait":
    def stop(*_):
        run.record("paused", trials_left=1)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    (notes / "waits").touch()
    time.sleep(60)
if end in PAUSES:
    run.record("paused", trials_left=1, limit=PAUSES[end])
    sys.exit(75)
if end == "0":
    run.record("finished", trials_left=0)
sys.exit(0 if end == "silent" else int(end))
"""


# A namespace in which nobody else's process is seen; all of its processes end with the first.
OWN_PROCESSES = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class Slurm:
    """One job in a folder of its own.

    Attributes:
        script: the launch file, edited as a user would.
        notes: where the stand-ins write what they were asked.
        shared: what all nodes see.
        environment: of the script.
        within: the command that runs the script, if one does.
    """

    script: Path
    notes: Path
    shared: Path
    environment: dict[str, str]
    within: tuple[str, ...] = ()

    def start(self) -> subprocess.Popen[str]:
        """The job's script, as SLURM starts it."""
        command = [*self.within, "bash", str(self.script)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def run(self, *ends: str) -> tuple[int, str]:
        """One start of the job to its end; `ends`: how its searches end, an exit code, or a word of `SEARCH`."""
        (self.notes / "ends").write_text(" ".join(ends))
        job = self.start()
        output, _ = job.communicate(timeout=60)
        return job.returncode, output

    def note(self, name: str) -> list[str]:
        """What was written under a name, line by line."""
        path = self.notes / name
        return path.read_text().splitlines() if path.exists() else []


def make_slurm(folder: Path, job: int = 1234, nodes: int = 2, edits: dict[str, str] | None = None) -> Slurm:
    """A job of the real launch files in a project of stand-ins, all in `folder`."""
    project, commands, notes, shared = (folder / name for name in ("project", "commands", "notes", "shared"))
    for path in (project / ".venv" / "bin", commands, notes, shared):
        path.mkdir(parents=True)
    shutil.copytree(ROOT / "cluster", project / "cluster")
    (project / "run_search.py").write_text(SEARCH)
    _command(commands / "srun", SRUN)
    _command(commands / "scontrol", SCONTROL)
    _command(project / ".venv" / "bin" / "ray", RAY)
    _command(project / ".venv" / "bin" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    edits = {"project": str(project), "shared": str(shared), "file": "toy.yaml", "name": "toy"} | (edits or {})
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "NOTES": str(notes),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": ",".join(f"node{number}" for number in range(nodes)),
    }
    return Slurm(_edited(project / "cluster" / "slurm.sh", edits), notes, shared, environment)


def make_real(folder: Path, job: int, options: str) -> Slurm:
    """A job of one node with the real search and the real Ray, in a world of processes of its own.

    `ray symmetric-run` looks for any Ray on its node, and its `ray stop` ends them all: elsewhere on this machine, too.

    Args:
        folder: holds `toy.yaml`, and everything else afterwards.
        job: its id.
        options: of run_search.py, as the launch file has them.
    """
    slurm = make_slurm(folder, job, nodes=1, edits={"file": str(folder / "toy.yaml"), "options": options})
    project = folder / "project"
    shutil.copy(ROOT / "run_search.py", project)
    _command(project / ".venv" / "bin" / "ray", f'#!/bin/sh\nexec "{sys.executable}" -m ray.scripts.scripts "$@"\n')
    environment = slurm.environment | {"SLURM_JOB_NODELIST": "127.0.0.1"}
    return replace(slurm, environment=environment, within=OWN_PROCESSES)


def _edited(script: Path, edits: dict[str, str]) -> Path:
    text = script.read_text()
    for name, value in edits.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    # SLURM runs a copy, far from the project.
    copy = script.parents[2] / "slurm_script"
    copy.write_text(text)
    return copy


def _command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
