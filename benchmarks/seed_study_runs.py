"""The runs of the study: for every search file a grid, and three confirmations of it. See `seed_study.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from kd_tune import answers, confirmation, results, search
from kd_tune.arms import resolved
from kd_tune.confirm import Request, confirm
from kd_tune.confirmation import Confirmation, Plan
from kd_tune.ledger import PLAN, SEARCH_FILE
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import read_record
from kd_tune.predictions import Predictions
from kd_tune.records import METRIC
from kd_tune.results import RunTables
from kd_tune.search import Launch
from kd_tune.search_file import load_search_file
from kd_tune.strict_yaml import dump_yaml

ALPHA, TEMPERATURE, RATE = "objective.alpha", "objective.temperature", "optimizer.lr"
OURS = 4.0  # the temperature; the study does not give its own
HARD, BOTH, SOFT = "alpha=0", "alpha=0.5", "alpha=1"
STUDENTS = {HARD: "hard labels", BOTH: "labels and teacher", SOFT: "teacher alone"}
ALPHAS = {0.0: HARD, 0.5: BOTH, 1.0: SOFT}
SAME, OWN = "temperature 4, the same rate for all", "temperature 4, each its own best rate"
FREE = "each its own best temperature and rate"


@dataclass(frozen=True)
class Part:
    """One search file's share of the study.

    Attributes:
        name: of the file, without its ending.
        tables: the grid.
        rate: best for alpha 0 on validation images.
        manifests: how the grid and its confirmations were made, by what these are about.
        found: the confirmations, by what they are about.
        told: their answers, likewise.
    """

    name: str
    tables: RunTables
    rate: float
    manifests: dict[str, Manifest]
    found: dict[str, Confirmation]
    told: dict[str, Predictions]


def study(file: Path, folder: Path, source: Path | None, num_seeds: int, console: Console) -> Part:
    """Does what is left to do of one search file."""
    launch, content = Launch(source), dump_yaml(resolved(load_search_file(file)))
    if (folder / SEARCH_FILE).exists():
        if (folder / SEARCH_FILE).read_text(encoding="utf-8") != content:
            raise SystemExit(f"{folder}: was made by another {file.name}; move it away, or take other --runs")
        state = results.read(folder).state
        if state.num_left():
            state = search.resume(folder, launch, console)
    else:
        state = search.start(load_search_file(file), folder, launch, console)
    if state.num_left():
        raise SystemExit(f"{folder}: the search was stopped; the same command goes on")
    tables = results.read(folder)
    rate = best_rate(tables.trials, 0.0, OURS)
    found = {
        SAME: _confirmed(
            folder, 1, Request(1, num_seeds, by=ALPHA, where={TEMPERATURE: OURS, RATE: rate}), launch, console
        ),
        OWN: _confirmed(folder, 2, Request(3, num_seeds, by=ALPHA, where={TEMPERATURE: OURS}), launch, console),
        FREE: _confirmed(folder, 3, Request(3, num_seeds, by=ALPHA), launch, console),
    }
    told = {
        about: answers.read(confirmation.folder_of(folder, number), one)[0][1]
        for number, (about, one) in enumerate(found.items(), start=1)
    }
    places = [confirmation.folder_of(folder, number) for number in range(1, len(found) + 1)]
    manifests = [read_record(place / MANIFEST, Manifest) for place in places]
    made = {"the grid": tables.manifest} | dict(zip(found, manifests, strict=True))
    return Part(file.stem, tables, rate, made, found, told)


def _confirmed(folder: Path, number: int, request: Request, launch: Launch, console: Console) -> Confirmation:
    """A run's confirmation of this number; made, if it is not there."""
    figures = confirmation.folder_of(folder, number) / confirmation.FIGURES
    if not figures.exists():
        request = replace(request, again=number > 1 and number not in confirmation.begun(folder))
        if confirm(folder, request, launch, console) is None:
            raise SystemExit(f"{figures.parent}: was stopped; the same command goes on")
    plan = read_record(figures.parent / PLAN, Plan)
    if (plan.top, plan.num_seeds, plan.by, plan.where) != (request.top, request.num_seeds, request.by, request.where):
        raise SystemExit(f"{figures.parent}: was made with other seeds or for another question; take other --runs")
    return read_record(figures, Confirmation)


def best_rate(trials: pd.DataFrame, alpha: float, temperature: float) -> float:
    """The learning rate with the best last validation accuracy among those of a grid."""
    cell = trials[(trials[ALPHA] == alpha) & (trials[TEMPERATURE] == temperature) & (trials["status"] == "completed")]
    if cell.empty:
        raise SystemExit(f"no training with alpha {alpha:g} and temperature {temperature:g} came through")
    return float(cell.loc[cell[METRIC].idxmax(), RATE])
