"""The scripts under `tests/faults/`, a few rounds of each; docs/reliability.md has what their full counts found."""

from __future__ import annotations

import importlib
import os
import random
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from kd_tune.paths import CACHE_VARIABLE

FAULTS = Path(__file__).resolve().parent / "faults"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The folder of the scripts is where they find each other."""
    monkeypatch.syspath_prepend(str(FAULTS))
    return importlib.import_module("trials_by_fault")


MALFORMED = ("search file", "npz", "weights", "teacher", "ledger", "manifest")
WRITERS = ("ledger", "checkpoint", "bank", "teacher", "confirmation's folder")
DAMAGED = ("checkpoint", "checkpoint, as exports read it", "bank", "ledger", "teacher", "manifest")


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_with_a_message_or_read_right(
    name: str, faults: ModuleType, tmp_path: Path
) -> None:
    malformed = importlib.import_module("malformed")
    kind = malformed.KINDS[name](tmp_path / "files")
    tally = faults.Tally()
    for number in range(40):
        kind.spoil(random.Random(f"0/{number}"))
        tally.count(number, lambda: malformed.refused_or_read(kind))
    assert not tally.wrong
    assert tally.outcomes["refused"] >= 20


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_by_the_files_name(name: str, faults: ModuleType, tmp_path: Path) -> None:
    damaged = importlib.import_module("damaged")
    tally = damaged.damage(damaged.KINDS[name](tmp_path / "stored"), 12, seed=0)
    assert not tally.wrong
    assert tally.outcomes["told by its name"] >= 6


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_nothing_is_named_and_gone_on_with(
    name: str, faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room = importlib.import_module("no_room")
    if not no_room.may_mount():
        pytest.skip("this process may not mount a file system, or not be another user")
    monkeypatch.setenv(CACHE_VARIABLE, os.environ[CACHE_VARIABLE])  # which the script changes
    with tempfile.TemporaryDirectory() as folder:  # pytest's are for their owner alone
        Path(folder).chmod(0o755)
        tallies = no_room.play(name, Path(folder), 3, seed=0)
    assert [tally.wrong for tally in tallies.values()] == [[], [], []]
    assert all(tally.outcomes.total() > tally.outcomes["there was room"] for tally in tallies.values())
