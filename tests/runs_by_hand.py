"""Runs that tests write as ledgers, epoch by epoch, without training anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kd_tune import results
from kd_tune.ledger import Run
from kd_tune.manifest import Manifest
from kd_tune.records import StopReason
from kd_tune.results import RunTables
from tests.searches import toy_manifest, toy_search


@dataclass(frozen=True)
class Trained:
    """A trial as it is written.

    Attributes:
        values: validation accuracy by epoch, from the first.
        end: why it ended; None: it goes on.
        arm: its arm.
        draw: its parameters.
        stratum: its size.
        spared_at: where it would have been pruned; only for trials that are never pruned.
        never_pruned: whether it is one of those.
        costs: num_parameters and multiply_adds; a ledger from before these were recorded has no multiply_adds.
    """

    values: Sequence[float]
    end: StopReason | None = "completed"
    arm: str = "distil"
    draw: dict[str, Any] = field(default_factory=dict)
    stratum: int = 0
    spared_at: int | None = None
    never_pruned: bool = False
    costs: dict[str, int] = field(default_factory=lambda: {"num_parameters": 100, "multiply_adds": 1000})


def write_run(folder: Path, trials: Iterable[Trained], manifest: Manifest | None = None, **changes: Any) -> RunTables:
    """Writes a run of `toy_search(**changes)`, every epoch of a second, and reads it."""
    search = toy_search(**changes)
    run = Run.create(folder, yaml.safe_dump(search), manifest or toy_manifest())
    run.record("started", quota=dict.fromkeys(search["search"]["arms"], 50))
    for number, trial in enumerate(trials):
        run.record(
            "proposed",
            trial=number,
            arm=trial.arm,
            draw=trial.draw,
            stratum=trial.stratum,
            never_pruned=trial.never_pruned,
        )
        for epoch, value in enumerate(trial.values, start=1):
            row = {"epoch": epoch, "val_accuracy": value, "seconds": 1.0, "diverged": trial.end == "diverged"}
            run.record("epoch", trial=number, attempt=0, **row, **trial.costs)
            if epoch == trial.spared_at:
                run.record("spared", trial=number, epoch=epoch)
        if trial.end is not None:
            run.record("stopped", trial=number, reason=trial.end, epoch=len(trial.values))
    run.close()
    return results.read(folder)
