"""Whole searches on Ray, for the benchmarks that time them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from kd_tune import cluster, search
from kd_tune.run_state import RunState
from kd_tune.search_file import SearchFile, Source, parse_search_file


def as_search_file(raw: dict[str, Any]) -> SearchFile:
    """A search given as a dict, checked like a file."""
    return parse_search_file(raw, Source("benchmark", {}))


def run_search(raw: dict[str, Any], folder: Path, source: Path | None, num_slots: int) -> RunState:
    """A whole search on Ray with room for `num_slots` trials of one CPU; Ray is started and stopped here."""
    with _ray(num_slots):
        state = search.start(as_search_file(raw), folder, search.Launch(source), Console(quiet=True))
    failed = [f"trial {trial.number}: {trial.end} {trial.error}" for trial in state.trials.values() if not trial.rows]
    if failed or not state.trials:
        raise SystemExit("the search gave no figures: " + "; ".join(failed))
    return state


def epoch_seconds(state: RunState) -> list[list[float]]:
    """What every epoch of every trial says it took: training and validation."""
    return [[round(row["seconds"], 4) for row in trial.rows.values()] for trial in state.trials.values()]


def steady(trials: Sequence[Sequence[float]]) -> list[float]:
    """All epochs but the first of every trial, in which a process warms up; where there is only one, that."""
    return [value for seconds in trials for value in (seconds[1:] or seconds)]


def row_intervals(times: Sequence[float]) -> list[float]:
    """Seconds between rows that follow each other."""
    return [later - earlier for earlier, later in pairwise(times)]


@contextmanager
def _ray(num_slots: int) -> Iterator[None]:
    """Ray as `kd_tune.cluster` starts it, but with a given number of CPUs: the concurrency is part of a comparison."""
    import ray

    cluster.start_here(num_cpus=num_slots, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
