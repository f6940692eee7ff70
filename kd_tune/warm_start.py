"""Earlier runs of an equal space, whose trials a new search's samplers are shown before its own.

They are copied into the new run's ledger, which stays whole in itself: resuming needs no other folder. They belong to
no table, figure or quota of the new run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_tune import records
from kd_tune.config import SearchConfig
from kd_tune.errors import ConfigError
from kd_tune.ledger import SEARCH_FILE, Run, no_run, refuse_confirmation, replay
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import read_record
from kd_tune.records import METRIC
from kd_tune.run_state import TrialState
from kd_tune.search_file import load_search_file
from kd_tune.space import to_raw
from kd_tune.strata import Students, stratum_of

LEARNING = ("tpe", "rung_tpe")


@dataclass(frozen=True)
class EarlierRun:
    """A run that a new search learns from.

    Attributes:
        folder: where it lies.
        made_with: what a search that learns from it must share: `trial` (that section of its file, written out), `data`
            and `teachers` (their fingerprints).
        trials: those that have ended, without failures.
    """

    folder: Path
    made_with: dict[str, Any]
    trials: list[TrialState]


def read_earlier(folders: Sequence[Path], config: SearchConfig) -> list[EarlierRun]:
    """Reads the runs that a search is to learn from.

    Raises:
        ConfigError: no run there, a damaged one, or the search's sampler learns from nothing.
    """
    if folders and config.sampler.name not in LEARNING:
        raise ConfigError(f"--warm-start: the sampler {config.sampler.name} learns from no trial; leave it out")
    return [_read(folder) for folder in folders]


def check_equal(earlier: Sequence[EarlierRun], **now: Any) -> None:
    """Compares what is given of `EarlierRun.made_with`; ConfigError names every difference to every run."""
    problems = [
        f"--warm-start {run.folder}: {text}"
        for run in earlier
        for key, value in now.items()
        for text in _differences(value, run.made_with[key], key)
    ]
    if problems:
        raise ConfigError(problems)


def record_known(
    run: Run, earlier: Sequence[EarlierRun], arms: Sequence[str], students: Students | None = None
) -> list[str]:
    """Copies the earlier runs' trials of these arms into a new run's ledger.

    Their strata are those of the new run: an earlier one may have cut them elsewhere, or had none.

    Args:
        run: the new run.
        earlier: what it learns from.
        arms: of the new run.
        students: by their size, where the new run has strata.

    Returns:
        A line an arm that says how many it learns from.
    """
    edges = students.edges() if students else ()
    for source in earlier:
        for trial in source.trials:
            if trial.arm in arms:
                values = [[epoch, row[METRIC]] for epoch, row in sorted(trial.rows.items())]
                stratum = stratum_of(students.count(trial.draw), edges) if students else 0
                facts = {"reason": trial.end, "stratum": stratum, "spared_at": trial.spared_at}
                known = {"trial": trial.number, "arm": trial.arm, "draw": trial.draw, "values": values}
                run.record(records.KNOWN, run=str(source.folder), **known, **facts)
    counts = {arm: len(run.state.known.get(arm, ())) for arm in arms if earlier}
    return [
        f"{arm} learns from {count} earlier trials" if count else f"{arm} starts cold: no earlier run has trials of it"
        for arm, count in counts.items()
    ]


def _read(folder: Path) -> EarlierRun:
    if not (folder / SEARCH_FILE).exists():
        raise ConfigError(no_run(folder))
    refuse_confirmation(folder, "learn from its search: --warm-start")
    fingerprints = read_record(folder / MANIFEST, Manifest).fingerprints
    trial = to_raw(load_search_file(folder / SEARCH_FILE).trial)
    ended = [found for found in replay(folder).trials.values() if found.end not in (None, "failed")]
    return EarlierRun(folder, {"trial": trial, "data": fingerprints.data, "teachers": fingerprints.teachers}, ended)


def _differences(now: Any, then: Any, path: str) -> Iterator[str]:
    if isinstance(now, dict) and isinstance(then, dict):
        for key in dict.fromkeys([*now, *then]):
            if key not in then:
                yield f"{path}.{key} is {now[key]!r} here, but not there in that run"
            elif key not in now:
                yield f"{path}.{key} was {then[key]!r} in that run, but is not here"
            else:
                yield from _differences(now[key], then[key], f"{path}.{key}")
    elif now != then:
        yield f"{path} is {now!r} here, but was {then!r} in that run"
