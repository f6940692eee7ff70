"""Which trials' students are exported: the best of every arm, under a limit or not, or those that were named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kd_tune import analysis, results
from kd_tune.errors import ConfigError
from kd_tune.ledger import KEPT_CHECKPOINTS
from kd_tune.mirror import newest_checkpoint
from kd_tune.paths import file_name
from kd_tune.progress import short
from kd_tune.run_state import TrialState

Latencies = Callable[[Mapping[int, Path]], Mapping[int, float]]  # milliseconds by trial, of checkpoints by trial


@dataclass(frozen=True)
class Wanted:
    """Which students to export.

    Attributes:
        top: the best so many of every arm; of every size too where the search wanted the best at each and no limit is
            given.
        trials: these, in place of the best.
        max_params: parameters, at most.
        max_macs: multiply-adds of an image, at most.
        max_latency_ms: milliseconds for one image, at most.
    """

    top: int = 1
    trials: tuple[int, ...] = ()
    max_params: int | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None

    @property
    def limits(self) -> dict[str, tuple[str, float]]:
        """Limits of what the ledger knows: column and value by option."""
        given = {"--max-params": ("num_parameters", self.max_params), "--max-macs": ("multiply_adds", self.max_macs)}
        return {option: (column, value) for option, (column, value) in given.items() if value is not None}

    @property
    def in_words(self) -> str:
        """The limits, as a person typed them."""
        texts = [f"{option} {value}" for option, (_, value) in self.limits.items()]
        texts += [] if self.max_latency_ms is None else [f"--max-latency-ms {self.max_latency_ms:g}"]
        return " ".join(texts)


@dataclass(frozen=True)
class Choice:
    """What is exported.

    Attributes:
        checkpoints: by what the student will be called.
        notes: what was not, and why, a sentence each.
    """

    checkpoints: dict[str, Path]
    notes: list[str] = field(default_factory=list)


def choose(tables: results.RunTables, wanted: Wanted, latencies: Latencies) -> Choice:
    """Finds the students that are wanted.

    Args:
        tables: the run.
        wanted: what was asked for.
        latencies: measures; asked only if there is a limit of latency.

    Raises:
        ConfigError: there is none, or its checkpoint is gone.
    """
    if wanted.top > KEPT_CHECKPOINTS:
        raise ConfigError(
            f"--top {wanted.top}: a run keeps the checkpoints of each arm's best {KEPT_CHECKPOINTS} trials"
        )
    if wanted.trials:
        return Choice({f"trial_{number}": _named(tables, number) for number in dict.fromkeys(wanted.trials)})
    if not tables.ranking:
        raise ConfigError(f"{tables.folder}: no trial has a figure yet; there is nothing to export")
    return _under_limits(tables, wanted, latencies) if wanted.in_words else _best(tables, wanted.top)


def _named(tables: results.RunTables, number: int) -> Path:
    """The checkpoint of a trial that a person named."""
    trial = tables.state.trials.get(number)
    if trial is None:
        raise ConfigError(f"--trial {number}: {tables.folder} has trials 0 to {max(tables.state.trials, default=0)}")
    if trial.end is None:
        raise ConfigError(f"--trial {number}: this trial has not ended; a resumed search goes on with it")
    if not trial.usable:
        raise ConfigError(f"--trial {number}: this trial gave no figure ({trial.end})")
    found = newest_checkpoint(tables.folder, number)
    if found is None:
        raise ConfigError(
            f"--trial {number}: its checkpoint is gone; {_kept(tables)}. A search whose search.points begin with its "
            f"parameters trains it again: {trial.draw}"
        )
    return found


def _kept(tables: results.RunTables) -> str:
    return f"a run keeps those of each arm's best {KEPT_CHECKPOINTS} trials" + (
        " at every size" if tables.state.strata else ""
    )


def _best(tables: results.RunTables, top: int) -> Choice:
    """The best trials, called `distil_1`, or `distil_15738_1` by size."""
    found = {}
    strata = bool(tables.state.strata)
    for _, trials in analysis.best(tables, top, ended=True).groupby(["arm", "stratum"][: 1 + strata], sort=False):
        for rank, trial in enumerate(trials.to_dict("records"), start=1):
            size = [str(trial["num_parameters"])] if strata else []
            name = "_".join([file_name(str(trial["arm"])), *size, str(rank)])
            checkpoint = newest_checkpoint(tables.folder, int(trial["number"]))
            if checkpoint is None:
                raise ConfigError(f"{tables.folder}: trial {trial['number']} has no checkpoint")
            found[name] = checkpoint
    if not found:
        raise ConfigError(f"{tables.folder}: no trial that gave a figure has ended; there is nothing to export")
    return Choice(found)


def _under_limits(tables: results.RunTables, wanted: Wanted, latencies: Latencies) -> Choice:
    """The best trials of every arm that keep to the limits and have a checkpoint, of all sizes together."""
    trials = [tables.state.trials[number] for number in tables.ranking]
    meeting = _meeting(tables, [trial for trial in trials if trial.end is not None], wanted)
    numbers = [trial.number for trial in meeting]
    kept = {number: found for number in numbers if (found := newest_checkpoint(tables.folder, number))}
    if not kept:
        raise ConfigError(f"{_described(meeting[0], wanted)}, but its checkpoint is gone; {_kept(tables)}")
    if wanted.max_latency_ms is not None:
        taken = latencies(kept)
        meeting = [trial for trial in meeting if taken.get(trial.number, math.inf) <= wanted.max_latency_ms]
        if not meeting:
            raise ConfigError(_too_slow(taken, wanted.max_latency_ms))
    checkpoints: dict[str, Path] = {}
    notes: list[str] = []
    for arm in tables.state.quota:
        of_arm = [trial for trial in meeting if trial.arm == arm]
        there = [trial.number for trial in of_arm if trial.number in kept][: wanted.top]
        checkpoints |= {f"{file_name(arm)}_{rank}": kept[number] for rank, number in enumerate(there, start=1)}
        if not of_arm:
            notes.append(f"{arm}: no student within {wanted.in_words}")
        elif there[:1] != [of_arm[0].number]:
            notes.append(f"{arm}: {_described(of_arm[0], wanted)}, but its checkpoint is gone; {_kept(tables)}")
    return Choice(checkpoints, notes)


def _meeting(tables: results.RunTables, trials: list[TrialState], wanted: Wanted) -> list[TrialState]:
    """Trials that keep to the limits that the ledger can judge; some do."""
    if not trials:
        raise ConfigError(f"{tables.folder}: no trial that gave a figure has ended; there is nothing to export")
    for option, (key, limit) in wanted.limits.items():
        counts = {trial.number: trial.rows[trial.epoch].get(key) for trial in trials}
        known = {number: int(count) for number, count in counts.items() if count is not None}
        if len(known) < len(counts):
            raise ConfigError(f"{option}: the ledger of {tables.folder} does not have {key} of every trial")
        trials = [trial for trial in trials if known[trial.number] <= limit]
        if not trials:
            smallest = min(known, key=lambda number: known[number])
            what = key.replace("num_", "").replace("_", "-")
            raise ConfigError(
                f"{wanted.in_words}: no student of {tables.folder} is so small; the smallest has "
                f"{known[smallest]:,} {what} (trial {smallest})"
            )
    return trials


def _too_slow(taken: Mapping[int, float], limit: float) -> str:
    if not taken:
        return "--max-latency-ms: none of the students can be run by onnxruntime, so none was measured"
    fastest = min(taken, key=lambda number: taken[number])
    return (
        f"--max-latency-ms {limit:g}: no student is so fast on this machine; the fastest takes "
        f"{short(taken[fastest])} ms (trial {fastest})"
    )


def _described(trial: TrialState, wanted: Wanted) -> str:
    size = trial.rows[trial.epoch]["num_parameters"]
    accuracy = f"validation accuracy {trial.value:.2%}, {size:,} parameters"
    return f"the best within {wanted.in_words} is trial {trial.number} ({accuracy})"
