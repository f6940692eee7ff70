"""Whether `kd-tune confirm`'s intervals hold the truth, and how often it calls identical arms different.

Three identical arms answer the same new test images, each with seeds of its own; a run is a whole confirmation: an
arm's accuracy with its interval, the first arm's differences from the other two, Holm's adjustment. Counted over runs:

- how often the interval of an accuracy holds the accuracy expected over all seeds and images (promised: 93 to 97 %);
- how often that of a difference holds 0 (the same);
- how often at least one of the two differences is called real, adjusted p below 5 % (promised: at most 5 %).

Beside it the plain crossed bootstrap: seeds and images drawn again, percentiles of 1,000 draws.

An image has a difficulty for everybody and one for an arm's configuration, a seed an effect on all images, each normal
in log odds; the spread of difficulties leaves most images nearly always or nearly never right, as real ones are.
"""

from __future__ import annotations

import argparse
import itertools
from functools import lru_cache
from typing import Any

import common
import numpy as np
from scipy import optimize, special

from kd_tune import statistics

DEVIATIONS = {0.65: (0.002, 0.01), 0.85: (0.002, 0.01), 0.98: (0.002, 0.005)}  # over seeds, by accuracy
SEEDS = (3, 5, 10)
IMAGES = (1000, 10_000)
COMMON = (1.0, 0.8)  # share of the variance of difficulties that all arms have in common
SPREAD = 3.0  # standard deviation of difficulties, log odds
NUM_ARMS = 3
BOOTSTRAPS = 1000
BOOTSTRAPPED_RUNS = 10  # one in so many


def main() -> None:
    arguments = _arguments()
    made = common.conditions(arguments)
    pairs = [(accuracy, deviation) for accuracy, found in DEVIATIONS.items() for deviation in found]
    settings = [
        {"accuracy": accuracy, "deviation": deviation, "seeds": seeds, "images": images, "common": share}
        for share, images, (accuracy, deviation), seeds in itertools.product(COMMON, IMAGES, pairs, SEEDS)
    ]
    rows = []
    for number, setting in enumerate(settings):
        rows.append(setting | _simulate(setting, arguments.runs, np.random.default_rng([arguments.seed, number])))
        print(f"{number + 1}/{len(settings)} {rows[-1]}", flush=True)
    result = {"conditions": made, "settings": rows}
    common.write_result("confirm_statistics", result, _markdown(result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def expected(log_odds: float, deviation: float) -> float:
    """The mean of the logistic function of a normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return float(special.expit(log_odds + deviation * nodes) @ weights / weights.sum())


def _simulate(setting: dict[str, Any], runs: int, random: np.random.Generator) -> dict[str, float]:
    """Shares of runs, by what is counted."""
    centre = optimize.brentq(lambda value: expected(value, SPREAD) - setting["accuracy"], -20, 20)
    slope = (expected(centre + 1e-3, SPREAD) - expected(centre - 1e-3, SPREAD)) / 2e-3
    seed_effect = setting["deviation"] / slope
    truth = expected(centre, float(np.hypot(SPREAD, seed_effect)))
    counts = dict.fromkeys(("accuracy_held", "difference_held", "called_different"), 0)
    plain = dict.fromkeys(("bootstrap_accuracy_held", "bootstrap_difference_held"), 0)
    for run in range(runs):
        arms = _answers(random, setting, centre, seed_effect)
        for name, seen in _judge(arms, truth).items():
            counts[name] += seen
        if run % BOOTSTRAPPED_RUNS == 0:
            for name, seen in _bootstrap(random, arms, truth).items():
                plain[name] += seen
    bootstrapped = len(range(0, runs, BOOTSTRAPPED_RUNS))
    return {name: count / runs for name, count in counts.items()} | {
        name: count / bootstrapped for name, count in plain.items()
    }


def _answers(random: np.random.Generator, setting: dict[str, Any], centre: float, seed_effect: float) -> np.ndarray:
    """`[arms, S, N]`: whether each training of each arm got each image right."""
    images, seeds = setting["images"], setting["seeds"]
    everybody = np.sqrt(setting["common"]) * random.standard_normal(images, dtype=np.float32)
    own = np.sqrt(1 - setting["common"]) * random.standard_normal((NUM_ARMS, 1, images), dtype=np.float32)
    log_odds = centre + SPREAD * (everybody + own) + seed_effect * random.standard_normal((NUM_ARMS, seeds, 1))
    right: np.ndarray = random.random(log_odds.shape, dtype=np.float32) < special.expit(log_odds.astype(np.float32))
    return right


def _judge(arms: np.ndarray, truth: float) -> dict[str, bool]:
    """What a confirmation says of these answers, against what is true."""
    interval = statistics.accuracy(arms[0])
    differences = [statistics.difference(arms[0], other) for other in arms[1:]]
    return {
        "accuracy_held": interval.low <= truth <= interval.high,
        "difference_held": differences[0].low <= 0 <= differences[0].high,
        "called_different": min(statistics.holm([found.p_value for found in differences])) < 0.05,
    }


@lru_cache(maxsize=1)
def _draws(images: int) -> np.ndarray:
    """`[draws, N]`: how often each image is drawn; the same for all runs, because drawing takes longest."""
    counts = np.random.default_rng(images).multinomial(images, np.full(images, 1 / images), BOOTSTRAPS)
    return counts.astype(np.float32)


def _bootstrap(random: np.random.Generator, arms: np.ndarray, truth: float) -> dict[str, bool]:
    """The plain crossed bootstrap of the first arm's accuracy, and of its difference from the second."""
    _, seeds, images = arms.shape
    by_seed = np.einsum("bn,asn->bas", _draws(images), arms[:2].astype(np.float32), optimize=True) / images
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), (BOOTSTRAPS, 2))
    means = (by_seed * drawn_seeds).sum(-1) / seeds  # [draws, arms]
    low, high = np.quantile(np.stack([means[:, 0], means[:, 0] - means[:, 1]]), [0.025, 0.975], axis=1)
    return {
        "bootstrap_accuracy_held": bool(low[0] <= truth <= high[0]),
        "bootstrap_difference_held": bool(low[1] <= 0 <= high[1]),
    }


def _markdown(result: dict[str, Any]) -> str:
    rows, runs = result["settings"], result["conditions"]["arguments"]["runs"]
    fields = ("accuracy_held", "difference_held", "called_different")
    fields += ("bootstrap_accuracy_held", "bootstrap_difference_held")
    extremes = {name: (min(row[name] for row in rows), max(row[name] for row in rows)) for name in fields}
    lines = [
        [f"{row['accuracy']:.0%}", f"{100 * row['deviation']:g}", row["seeds"], row["images"], f"{row['common']:.0%}"]
        + [f"{row[name]:.1%}" for name in fields]
        for row in rows
    ]
    shown = {name: f"{low:.1%} to {high:.1%}" for name, (low, high) in extremes.items()}
    errors = {share: 100 * (share * (1 - share) / runs) ** 0.5 for share in (0.95, 0.05)}
    header = ["accuracy", "sd over seeds, points", "seeds", "test images", "difficulty in common"]
    header += ["accuracy's interval holds it", "difference's holds 0", "identical arms called different"]
    header += ["bootstrap: accuracy", "bootstrap: difference"]
    return f"""
# Intervals that hold what they promise

Over {len(rows)} settings, an accuracy's 95 % interval holds the truth in {shown["accuracy_held"]} of runs, a
difference's in {shown["difference_held"]}; of three identical arms one is called different from another in
{shown["called_different"]}. {runs} runs a setting: standard errors of {errors[0.95]:.1f} points. The plain crossed
bootstrap's percentiles hold the truth in {shown["bootstrap_accuracy_held"]} (accuracy) and
{shown["bootstrap_difference_held"]} (difference), one run in {BOOTSTRAPPED_RUNS}.

`difficulty in common`: the share of the variance of the images' difficulties that does not depend on the arm; 100 %
for arms that are the same configuration.

{common.table(header, lines)}

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
