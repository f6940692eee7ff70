"""The scripts under `tests/faults/`, a few rounds of each; docs/reliability.md has what their full counts found."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType

import pytest

FAULTS = Path(__file__).resolve().parent / "faults"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The folder of the scripts is where they find each other."""
    monkeypatch.syspath_prepend(str(FAULTS))
    return importlib.import_module("trials_by_fault")


MALFORMED = ("search file", "npz", "weights", "teacher", "ledger", "manifest")
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
