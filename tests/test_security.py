"""A run from somebody else: nothing in it is run, and nothing is written outside the folders that were named."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_tune import export, report
from kd_tune.search import Launch, resume
from tests.searches import without_checksums


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a run that has ended, for one test to spoil."""
    return Path(shutil.copytree(finished_run, tmp_path / "a" / "run"))


def test_pickles_that_lie_in_a_run_are_never_opened(run: Path, tmp_path: Path, toy_npz: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    found = [path for path in (run / "ray").rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert found  # Ray's own, of the launch that is over
    for path in found:
        path.write_bytes(trap)
        planted = run / "ray" / "launch_02" / path.relative_to(run / "ray" / "launch_01")
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_bytes(trap)
    console = Console(quiet=True)
    report.write(run, console)
    export.export_best(run, tmp_path / "export", export.Wanted(), None)
    state = resume(run, Launch(source=toy_npz, extend=1), console)
    assert len(state.trials) > 3 * 8  # some arms have used up their space
    assert not (tmp_path / "sprung").exists()


def test_an_arm_of_a_ledger_is_no_path(run: Path, tmp_path: Path) -> None:
    without_checksums(run)
    for segment in (run / "ledger").iterdir():
        segment.write_text(segment.read_text().replace('"distil"', '"../../outside"'))
    before = {path for path in tmp_path.rglob("*") if run not in path.parents}
    export.export_best(run, tmp_path / "b" / "export", export.Wanted(), None)
    made = {path for path in tmp_path.rglob("*") if run not in path.parents} - before
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {"b"}
    assert (tmp_path / "b" / "export" / "______outside_1").is_dir()
