"""Which search settings are the defaults, and how good they are: chosen on one table of curves, judged on another.

    python benchmarks/search_quality.py choose --table cifar10
    python benchmarks/search_quality.py judge --table mnist5k --first-seed 1000

Every search is kd_tune's own searcher and scheduler (or Ray's) over recorded learning curves, with a simulated clock of
8 workers and a budget of 64 whole trainings. `choose` tries all settings of `grid` on a quarter of the seeds, and its
best FINALISTS on the rest, all of which is kept in the result; the score that decides is the mean of the accuracy in
hand at 1/4, 1/2 and all of the budget, on the half of the validation images that the search did not see. `judge`
measures the defaults of `SearchConfig` on the other table.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import pandas as pd
from common import arguments_parser, conditions, conditions_markdown, table, write_result
from rich.console import Console

from kd_tune import curve_table, search_quality
from kd_tune.config import SearchConfig
from kd_tune.curve_table import CurveTable
from kd_tune.progress import progress
from kd_tune.replay import Clock, Trace
from kd_tune.search_quality import SHARES

TRIALS, WORKERS = 64, 8
FINALISTS = 8
DEFAULTS, FRONT = "the defaults", "the defaults, goal: front"

SAMPLERS: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "tpe": {"name": "tpe"},
    "tpe multivariate": {"name": "tpe", "multivariate": True},
    "rung_tpe": {"name": "rung_tpe"},
    "rung_tpe multivariate": {"name": "rung_tpe", "multivariate": True},
}
GRACE_PERIODS = (1, 2, 3, 6, 9)
REDUCTION_FACTORS = (2, 3, 4)


def grid() -> dict[str, SearchConfig]:
    """All settings that are tried: samplers by rungs, then the other settings, one at a time."""
    settings = {}
    for (name, sampler), grace in product(SAMPLERS.items(), GRACE_PERIODS):
        for factor in REDUCTION_FACTORS if "multivariate" not in sampler and grace in (1, 3) else (3,):
            settings[f"{name}, rungs {grace} x {factor}"] = _search(sampler, grace, factor)
    for name, grace in product(("tpe", "rung_tpe"), (1, 3)):
        sampler = SAMPLERS[name]
        others = {f"startup {count}": {"num_startup_trials": count, "num_results": count} for count in (5, 20)}
        others["constant liar"] = {"constant_liar": True}
        for about, change in others.items():
            settings[f"{name}, rungs {grace} x 3, {about}"] = _search(sampler | change, grace, 3)
        for share in (0.0, 0.1):
            settings[f"{name}, rungs {grace} x 3, never pruned {share:g}"] = _search(sampler, grace, 3, share)
    return settings


def main() -> None:
    parser = arguments_parser(__doc__)
    parser.add_argument("what", choices=["choose", "judge"])
    parser.add_argument("--table", required=True, help="a name in benchmarks/tables")
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--first-seed", type=int, default=0, help="settings are judged with other seeds than chosen")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    made = conditions(arguments)
    recorded = curve_table.read(arguments.out / "tables" / f"{arguments.table}.parquet")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    found, markdown = (_choose if arguments.what == "choose" else _judge)(recorded, seeds, arguments.jobs)
    result = {"conditions": made, "trials": TRIALS, "workers": WORKERS, **found}
    markdown = f"""# Search settings, {"tried" if arguments.what == "choose" else "judged"} on {arguments.table}

{len(recorded.draws)} recorded configurations of {recorded.num_epochs} epochs; {WORKERS} workers, budget {TRIALS} whole
trainings. Target: what random search without pruning has in hand at the end (median). Time to target: first time in
hand, as a share of the budget, median. Accuracies in %, on the half of the validation images that a search did not see;
differences in points, seed by seed, with intervals that hold for the three times at once (95 %).

{markdown}{conditions_markdown(made)}"""
    write_result(f"search_quality_{arguments.what}_{arguments.table}", result, markdown, arguments.out)


def _choose(recorded: CurveTable, seeds: range, jobs: int) -> tuple[dict[str, Any], str]:
    """All settings on a quarter of the seeds, then the best of them on the others."""
    first, second = seeds[: len(seeds) // 4], seeds[len(seeds) // 4 :]
    settings = grid()
    _, everything = _replay(recorded, settings, first, jobs)
    best = [name for name in everything["search"] if name in settings][:FINALISTS]
    _, finals = _replay(recorded, {name: settings[name] for name in best}, second, jobs)
    markdown = f"""## The best {FINALISTS}, on seeds that had no part in choosing them

{_markdown(finals)}
## All

{_markdown(everything)}
"""
    return {"finals": _plain(finals), "all": _plain(everything)}, markdown


def _judge(recorded: CurveTable, seeds: range, jobs: int) -> tuple[dict[str, Any], str]:
    traces, rows = _replay(recorded, {DEFAULTS: SearchConfig(), FRONT: SearchConfig(goal="front")}, seeds, jobs)
    fronts = search_quality.compare_fronts(traces[FRONT], traces[DEFAULTS])
    return {"rows": _plain(rows), "fronts": _plain(fronts)}, f"{_markdown(rows)}\n{_fronts_markdown(fronts)}"


def _replay(
    recorded: CurveTable, contenders: dict[str, SearchConfig], seeds: range, jobs: int
) -> tuple[dict[str, list[Trace]], pd.DataFrame]:
    """Traces of these and of their peers, and a row of each, the best mean score first."""
    clock = Clock.of_trials(recorded, TRIALS, WORKERS)
    with progress(Console(file=sys.stderr), "replay") as advance:
        traces = search_quality.replay_all(
            recorded, {**search_quality.PEERS, **contenders}, clock, seeds, jobs, advance
        )
    rows = search_quality.compare(traces, clock)
    rows["mean"] = rows[[f"at_{share:g}" for share in SHARES]].mean(axis=1)
    return traces, rows.sort_values("mean", ascending=False)


def _search(sampler: dict[str, Any], grace: int, factor: int, never_pruned: float = 0.05) -> SearchConfig:
    scheduler = {"name": "asha", "grace_period": grace, "reduction_factor": factor, "never_pruned": never_pruned}
    return SearchConfig.model_validate({"sampler": sampler, "scheduler": scheduler})


def _plain(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: infinite times (never reached) as null."""
    records = rows.round(5).to_dict("records")
    return [{str(key): None if value in (float("inf"),) else value for key, value in row.items()} for row in records]


def _fronts_markdown(fronts: pd.DataFrame) -> str:
    lines = [
        [
            f"{row['num_parameters']:,}" if row["num_parameters"] else "mean of all sizes",
            f"{100 * row['front']:.2f}",
            f"{100 * row['best']:.2f}",
            f"{100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})",
            row["least_completed_front"],
            row["least_completed_best"],
        ]
        for row in fronts.to_dict("records")
    ]
    header = ["parameters", "front", "best", "difference", "fewest completed, front", "fewest completed, best"]
    return f"""## The best student at every size: `goal: front` beside `goal: best`

The accuracy of what each would hand out at the end, by size, in %; the difference in points, with an interval that
holds for all rows at once (95 %); and the fewest trials of a size that reached the last epoch, over all seeds. Compared
are the {fronts["seeds"].iloc[0]} seeds in which both have a student of every size.

{table(header, lines)}

"""


def _markdown(rows: pd.DataFrame) -> str:
    header = ["search", "time to target", "reach", "keep", *(f"at {share:g}" for share in SHARES)]
    header += [f"minus random + ASHA at {share:g}" for share in SHARES]
    lines = []
    for row in rows.to_dict("records"):
        time = "never" if row["time"] > 1 else f"{row['time']:.3f}"
        scores = [f"{100 * row[f'at_{share:g}']:.2f}" for share in SHARES]
        names = [[f"{end}_{share:g}" for end in ("minus_rival", "low", "high")] for share in SHARES]
        gaps = [f"{100 * row[gap]:+.2f} ({100 * row[low]:+.2f} to {100 * row[high]:+.2f})" for gap, low, high in names]
        lines.append([row["search"], time, f"{row['reach']:.0%}", f"{row['keep']:.0%}", *scores, *gaps])
    return f"""{rows["seeds"].iloc[0]} searches each, {rows["trials"].mean():.0f} trials in one on average; target
{100 * rows["target"].iloc[0]:.2f} %.

{table(header, lines)}
"""


if __name__ == "__main__":
    main()
