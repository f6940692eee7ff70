"""How good searches are, from their replays: the time to a target, and the accuracy in hand along the way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd

from kd_tune.config import SearchConfig
from kd_tune.curve_table import CurveTable
from kd_tune.errors import ConfigError
from kd_tune.records import derive_seed
from kd_tune.replay import Clock, Contender, Trace, replay_seed

SHARES = (0.25, 0.5, 1.0)  # of the full budget, at which searches are compared
RESAMPLES = 10_000

REFERENCE = "random, not pruned"  # sets the target
RIVAL = "random + ASHA"  # what a search must not be worse than
PEERS: dict[str, Contender] = {
    REFERENCE: SearchConfig.model_validate({"sampler": {"name": "random"}, "scheduler": {"name": "none"}}),
    RIVAL: SearchConfig.model_validate({"sampler": {"name": "random"}, "scheduler": {"never_pruned": 0.0}}),
    "Ray's OptunaSearch + ASHAScheduler": "ray",
}


def replay_all(
    table: CurveTable,
    contenders: Mapping[str, Contender],
    clock: Clock,
    seeds: Sequence[int],
    jobs: int = 1,
    advance: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, list[Trace]]:
    """Every contender over the same seeds, in `jobs` processes."""
    traces: dict[str, list[Trace]] = {}
    total = len(contenders) * len(seeds)
    with _mapper(jobs) as run_all:
        for name, contender in contenders.items():
            traces[name] = []
            for trace in run_all(partial(replay_seed, table, contender, clock), seeds):
                traces[name].append(trace)
                advance(sum(map(len, traces.values())), total, name)
    return traces


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterable[Trace]]]:
    """`map` over so many processes, or in this one."""
    if jobs == 1:
        yield map
        return
    # Spawned, not forked: this process has the threads of torch, and maybe of Ray.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def compare(traces: Mapping[str, Sequence[Trace]], clock: Clock) -> pd.DataFrame:
    """A row a contender.

    The target is what REFERENCE has in hand at the end, the median over seeds. Each half of the validation images has
    its own, because one may be easier than the other.

    Returns:
        `time`: the first time at which a search has the target in hand, as a share of the full budget, median over
        seeds; `reach`: the share of seeds in which that happens at all; `keep`: in which it has it at the end;
        `at_0.25` and so on: mean scores; `minus_rival_0.25`: their mean differences from RIVAL, seed by seed, with
        `low_0.25` and `high_0.25`, intervals that hold for all times at once; `trials`: started, on average;
        `target`: the mean of both halves'.
    """
    targets = {
        seen: float(np.median([trace.at(clock.seconds) for trace in traces[REFERENCE] if trace.seen == seen]))
        for seen in {trace.seen for trace in traces[REFERENCE]}
    }
    rival = scores_at(traces[RIVAL], clock)
    rows = []
    for name, runs in traces.items():
        scores = scores_at(runs, clock)
        wanted = np.array([targets[trace.seen] for trace in runs])
        times = np.array([trace.time_to(target) for trace, target in zip(runs, wanted, strict=True)]) / clock.seconds
        row: dict[str, object] = {
            "search": name,
            "seeds": len(runs),
            "time": float(np.median(times)),
            "reach": float((times <= 1).mean()),
            "keep": float((scores[:, -1] >= wanted).mean()),
            "trials": float(np.mean([trace.trials for trace in runs])),
        }
        mean, low, high = simultaneous_interval(scores - rival, derive_seed(0, "compare", name))
        for index, share in enumerate(SHARES):
            row[f"at_{share:g}"] = float(scores[:, index].mean())
            row |= {f"minus_rival_{share:g}": mean[index], f"low_{share:g}": low[index], f"high_{share:g}": high[index]}
        rows.append(row)
    return pd.DataFrame(rows).assign(target=float(np.mean(list(targets.values()))))


def compare_fronts(front: Sequence[Trace], best: Sequence[Trace]) -> pd.DataFrame:
    """What `goal: front` gives at every size of student, beside `goal: best` with the same budget and seeds.

    Scores are of the seeds in which both searches have a figure at every size. Leaving the others out is in favour of
    the search that lacks one; to count it as an accuracy of 0 would be in favour of the other, without measure.

    Returns:
        A row a size, and one for their mean (`num_parameters` 0): `seeds` that are compared; `front` and `best`, mean
        scores over these; `difference` with `low` and `high`, an interval that holds for all rows at once;
        `least_completed_front` and `least_completed_best`, the fewest trials of that size that reached the end in any
        seed at all.

    Raises:
        ConfigError: fewer than two seeds can be compared.
    """
    sizes = sorted({size for trace in (*front, *best) for size in trace.sizes})
    pairs = [
        (one, other) for one, other in zip(front, best, strict=True) if set(sizes) <= one.sizes.keys() & other.sizes
    ]
    if len(pairs) < 2:
        raise ConfigError(
            f"in {len(pairs)} of {len(front)} seeds both searches have a student of every size; 2 are needed"
        )
    scores = [np.array([[trace.sizes[size] for size in sizes] for trace in runs]) for runs in zip(*pairs, strict=True)]
    of_front, of_best = (np.column_stack([score, score.mean(1)]) for score in scores)
    mean, low, high = simultaneous_interval(of_front - of_best, derive_seed(0, "fronts"))
    completed = [[min(trace.completed.get(size, 0) for trace in runs) for size in sizes] for runs in (front, best)]
    return pd.DataFrame(
        {
            "num_parameters": [*sizes, 0],
            "seeds": len(pairs),
            "front": of_front.mean(0),
            "best": of_best.mean(0),
            "difference": mean,
            "low": low,
            "high": high,
            "least_completed_front": [*completed[0], min(completed[0])],
            "least_completed_best": [*completed[1], min(completed[1])],
        }
    )


def scores_at(runs: Sequence[Trace], clock: Clock) -> np.ndarray:
    """`[seeds, len(SHARES)]` scores in hand."""
    return np.array([[trace.at(share * clock.seconds) for share in SHARES] for trace in runs])


def simultaneous_interval(
    differences: np.ndarray, seed: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of columns with intervals that hold for all columns at once.

    Bootstrap over rows of the largest absolute t over columns (Romano and Wolf 2005, studentised max-T).

    Args:
        differences: `[n, k]` paired differences, a row a seed.
        seed: of the resampling.
        level: of all intervals together.

    Returns:
        Means, lower and upper ends, `[k]` each; zero width where all differences of a column are equal.
    """
    random = np.random.default_rng(seed)
    count = len(differences)
    mean = differences.mean(0)
    error = differences.std(0, ddof=1) / count**0.5
    weights = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count  # [resamples, n]
    resampled = weights @ differences
    spread = np.sqrt(np.maximum(weights @ differences**2 - resampled**2, 0) / (count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.nan_to_num(np.abs(resampled - mean) / spread, nan=0.0, posinf=0.0)
    factor = np.quantile(statistic.max(1), level)
    return mean, mean - factor * error, mean + factor * error
