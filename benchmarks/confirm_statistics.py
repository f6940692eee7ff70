"""Whether `kd-tune confirm`'s intervals hold the truth, and how often it calls identical arms different.

A run is a whole confirmation of three identical arms. Each has K candidates, identical too. Of several each is trained
on C seeds, half of S, and the one with the best mean accuracy on the validation images is chosen. Then the chosen one,
or the only one, is trained on S other seeds, and these trainings answer the test images, which are the same for all
arms: an arm's accuracy with its interval, the first arm's differences from the other two, and Holm's adjustment.
Counted over runs:

- how often the interval of an accuracy holds the accuracy expected over all seeds and images (promised: 93 to 97 %);
- how often that of a difference holds 0 (the same);
- how often at least one of the two differences is called real, adjusted p below 5 % (promised: at most 5 %);
- by how much the accuracy is too high on average. A good seed is good on validation and on test images alike, so a
  choice would choose that luck if it chose among the trainings that are reported. Identical candidates are the worst
  case: nothing but luck can be chosen.

Arms that differ are simulated too, in expected accuracy and in their spread over seeds: there the interval of the
difference must hold the true difference.

Beside it, where there is nothing to choose, the plain crossed bootstrap: seeds and images drawn again, percentiles of
1,000 draws.

An image has a difficulty for everybody and one for an arm's configuration, a seed an effect on all images, each normal
in log odds; the spread of difficulties leaves most images nearly always or nearly never right, as real ones are.

Shapes: A arms, K candidates, C seeds to choose by, S seeds that are reported, N images.
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
from kd_tune.retraining import num_choosing

ACCURACIES = ((0.65, 0.01), (0.85, 0.002), (0.85, 0.01), (0.98, 0.005))  # with their standard deviation over seeds
SEEDS = (3, 5, 10)
USUAL = {"accuracy": 0.85, "deviation": 0.01, "seeds": 5, "images": 10_000, "common": 1.0, "candidates": 1}
# Arms that differ from the first: their accuracy and its standard deviation; seeds, difficulty in common.
UNEQUAL = ((0.83, 0.01, 5, 1.0), (0.83, 0.002, 3, 0.8), (0.83, 0.03, 5, 0.8))
VALIDATION_IMAGES = 5000  # CIFAR-10's; of fewer the choice sees less of the seeds' luck
SPREAD = 3.0  # standard deviation of difficulties, log odds
NUM_ARMS = 3
BOOTSTRAPS = 1000
BOOTSTRAPPED_RUNS = 10  # one in so many
INTERVALS = ("accuracy_held", "difference_held")
PROMISED = (0.93, 0.97)  # of these
MOST_CALLED = 0.05
NAMES = {
    "accuracy_held": "accuracy's interval",
    "difference_held": "difference's interval",
    "called_different": "identical arms called different",
}


def main() -> None:
    arguments = _arguments()
    made = common.conditions(arguments)
    rows = []
    for number, setting in enumerate(settings()):
        rows.append(setting | _simulate(setting, arguments.runs, np.random.default_rng([arguments.seed, number])))
        print(f"{number + 1}/{len(settings())} {rows[-1]}", flush=True)
    result = {"conditions": made, "settings": rows}
    common.write_result("confirm_statistics", result, _markdown(result), arguments.out)


def settings() -> list[dict[str, Any]]:
    """What is simulated: a grid with and without a choice, and what else may matter, varied alone."""
    grid = itertools.product((1, 3), ACCURACIES, SEEDS)
    found = [
        USUAL | {"accuracy": accuracy, "deviation": deviation, "seeds": seeds, "candidates": candidates}
        for candidates, (accuracy, deviation), seeds in grid
    ]
    found += [USUAL | {"images": 1000, "seeds": seeds, "candidates": k} for k in (1, 3) for seeds in SEEDS]
    found += [USUAL | {"common": 0.8, "candidates": candidates} for candidates in (1, 3)]
    found += [USUAL | {"candidates": candidates} for candidates in (2, 5, 10)]
    names = ("other_accuracy", "other_deviation", "seeds", "common")
    return found + [USUAL | dict(zip(names, setting, strict=True)) for setting in UNEQUAL]


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
    """Shares of runs, by what is counted; and the bias."""
    first = setting["accuracy"], setting["deviation"]
    others = setting.get("other_accuracy", first[0]), setting.get("other_deviation", first[1])
    centres, seed_effects, truths = np.array([_arm(*first)] + [_arm(*others)] * (NUM_ARMS - 1)).T
    found: list[dict[str, float]] = []
    bootstrapped: list[dict[str, bool]] = []
    for run in range(runs):
        effects = _train(random, setting, centres, seed_effects)
        arms = _answers(random, setting["images"], setting["common"], centres, effects)
        found.append(_judge(arms, truths))
        if setting["candidates"] == 1 and run % BOOTSTRAPPED_RUNS == 0:
            bootstrapped.append(_bootstrap(random, arms, truths))
    return _means(found) | _means(bootstrapped)


def _arm(accuracy: float, deviation: float) -> tuple[float, float, float]:
    """An arm's log odds of an image of middling difficulty, its seeds' effect on them, and its expected accuracy.

    Args:
        accuracy: of a seed without effect.
        deviation: of accuracies over seeds.
    """
    centre = optimize.brentq(lambda value: expected(value, SPREAD) - accuracy, -20, 20)
    slope = (expected(centre + 1e-3, SPREAD) - expected(centre - 1e-3, SPREAD)) / 2e-3
    seed_effect = deviation / slope
    return centre, seed_effect, expected(centre, float(np.hypot(SPREAD, seed_effect)))


def _means(found: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in (found[0] if found else ())}


def _train(
    random: np.random.Generator, setting: dict[str, Any], centres: np.ndarray, seed_effects: np.ndarray
) -> np.ndarray:
    """`[A, S]`: the effects of the trainings that are reported, of every arm's chosen candidate."""
    by_arm = seed_effects[:, None, None]
    num_candidates, seeds = setting["candidates"], setting["seeds"]
    reported = by_arm * random.standard_normal((NUM_ARMS, num_candidates, seeds))
    if num_candidates == 1:
        return reported[:, 0]
    choosing = by_arm * random.standard_normal((NUM_ARMS, num_candidates, num_choosing(seeds)))
    best = _choose(random, setting, centres, choosing)
    chosen: np.ndarray = reported[np.arange(NUM_ARMS), best]
    return chosen


def _choose(
    random: np.random.Generator, setting: dict[str, Any], centres: np.ndarray, effects: np.ndarray
) -> np.ndarray:
    """`[A]`: of every arm's candidates `[A, K, C]` the one that is best on validation images."""
    right = _answers(random, VALIDATION_IMAGES, setting["common"], centres, effects.reshape(len(effects), -1))
    best: np.ndarray = right.mean(-1).reshape(effects.shape).mean(-1).argmax(-1)
    return best


def _answers(
    random: np.random.Generator, images: int, common_share: float, centres: np.ndarray, effects: np.ndarray
) -> np.ndarray:
    """`[A, S, N]`: whether each training, by its effect `[A, S]`, gets each of new images right."""
    everybody = np.sqrt(common_share) * random.standard_normal(images, dtype=np.float32)
    own = np.sqrt(1 - common_share) * random.standard_normal((NUM_ARMS, 1, images), dtype=np.float32)
    odds = np.exp((centres.astype(np.float32)[:, None, None] + SPREAD * (everybody + own)).astype(np.float32))
    drawn = random.random((*effects.shape, images), dtype=np.float32)
    # drawn < odds / (1 + odds), of the odds with the training's effect: an exponential an image, not one an answer
    right: np.ndarray = drawn < (1 - drawn) * odds * np.exp(effects)[..., None].astype(np.float32)
    return right


def _judge(arms: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """What a confirmation says of these answers, against what is true; equal arms may be called different, too."""
    interval = statistics.accuracy(arms[0])
    differences = [statistics.difference(arms[0], other) for other in arms[1:]]
    said = {
        "accuracy_held": interval.low <= truths[0] <= interval.high,
        "difference_held": differences[0].low <= truths[0] - truths[1] <= differences[0].high,
        "bias": interval.value - truths[0],
    }
    if truths[0] == truths[1]:
        said["called_different"] = min(statistics.holm([found.p_value for found in differences])) < 0.05
    return said


@lru_cache(maxsize=1)
def _draws(images: int) -> np.ndarray:
    """`[draws, N]`: how often each image is drawn; the same for all runs, because drawing takes longest."""
    counts = np.random.default_rng(images).multinomial(images, np.full(images, 1 / images), BOOTSTRAPS)
    return counts.astype(np.float32)


def _bootstrap(random: np.random.Generator, arms: np.ndarray, truths: np.ndarray) -> dict[str, bool]:
    """The plain crossed bootstrap of the first arm's accuracy, and of its difference from the second."""
    _, seeds, images = arms.shape
    by_seed = np.einsum("bn,asn->bas", _draws(images), arms[:2].astype(np.float32), optimize=True) / images
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), (BOOTSTRAPS, 2))
    means = (by_seed * drawn_seeds).sum(-1) / seeds  # [draws, arms]
    low, high = np.quantile(np.stack([means[:, 0], means[:, 0] - means[:, 1]]), [0.025, 0.975], axis=1)
    return {
        "bootstrap_accuracy_held": bool(low[0] <= truths[0] <= high[0]),
        "bootstrap_difference_held": bool(low[1] <= truths[0] - truths[1] <= high[1]),
    }


def _markdown(result: dict[str, Any]) -> str:
    rows, runs = result["settings"], result["conditions"]["arguments"]["runs"]
    unequal = [row for row in rows if "other_accuracy" in row]
    plain = [row for row in rows if row["candidates"] == 1 and row not in unequal]
    counts = sorted({row["candidates"] for row in rows} - {1})
    by_count = [f"- {k}: {_summary([row for row in rows if row['candidates'] == k])}." for k in counts]
    seeds = USUAL["seeds"]
    work = [f"{k * num_choosing(seeds) + seeds} trainings an arm for {k} candidates" for k in counts]
    broken = [f"- {line}" for row in rows for line in _broken(row, runs)]
    wide = [row for row in rows if max(row[name] for name in INTERVALS) > PROMISED[1]]
    header = ["candidates", "accuracy", "sd over seeds, points", "seeds", "test images", "difficulty in common"]
    header += ["other arms", "accuracy's interval holds it", "difference's holds it", "identical arms called different"]
    header += ["bias, points", "bootstrap: accuracy", "bootstrap: difference"]
    return f"""
# Intervals that hold what they promise

Without a choice, over {len(plain)} settings: {_summary(plain)}. The plain crossed bootstrap's percentiles hold the
truth in {_extremes(plain, "bootstrap_accuracy_held")} (accuracy) and {_extremes(plain, "bootstrap_difference_held")}
(difference), one run in {BOOTSTRAPPED_RUNS}. {runs} runs a setting: standard errors of {_error(0.95, runs):.1f} points.

## With a choice

With so many candidates an arm, all identical, so that nothing but luck can be chosen: each is trained on half as many
seeds, one is chosen by its mean on {VALIDATION_IMAGES:,} validation images, and other trainings of it are reported:

{chr(10).join(by_count)}

What is reported had no part in the choice, so the choice is paid with trainings instead of a bias: with {seeds} seeds,
{", ".join(work)}, and {seeds} where there is nothing to choose.

## Arms that differ

Over {len(unequal)} settings in which the other arms have another expected accuracy or spread over seeds, a difference's
interval holds the true difference in {_extremes(unequal, "difference_held")} of runs, an accuracy's the accuracy in
{_extremes(unequal, "accuracy_held")}.

## Outside of the promise

Promised are intervals that hold in 93 to 97 % of runs, and at most 5 % of identical arms called different. What
misleads beyond that, with two standard errors:

{chr(10).join(broken) or "- nothing"}

In {len(wide)} of {len(rows)} settings an interval holds in more than 97 %: it is wider than it need be.

## All settings

`difficulty in common`: the share of the variance of the images' difficulties that does not depend on the arm; 100 %
for arms that are the same configuration. `other arms`: their accuracy and its sd over seeds in points, where they
differ from the first arm's.

{common.table(header, [_cells(row) for row in rows])}

{common.conditions_markdown(result["conditions"])}
"""


def _summary(rows: list[dict[str, Any]]) -> str:
    return (
        f"an accuracy's 95 % interval holds the truth in {_extremes(rows, 'accuracy_held')} of runs, a difference's in "
        f"{_extremes(rows, 'difference_held')}; of three identical arms one is called different from another in "
        f"{_extremes(rows, 'called_different')}; accuracies are too high by {_points(rows)} points"
    )


def _extremes(rows: list[dict[str, Any]], name: str) -> str:
    low, high = (end(row[name] for row in rows) for end in (min, max))
    return f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"


def _points(rows: list[dict[str, Any]]) -> str:
    low, high = (f"{100 * end(row['bias'] for row in rows):.2f}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _error(share: float, runs: int) -> float:
    """The standard error of a share, in points."""
    return 100 * float((share * (1 - share) / runs) ** 0.5)


def _broken(row: dict[str, Any], runs: int) -> list[str]:
    """What a setting promises and does not hold, on the side that misleads."""
    where = f"{row['candidates']} candidates, accuracy {row['accuracy']:.0%}, sd {100 * row['deviation']:g} points, "
    where += f"{row['seeds']} seeds, {row['images']:,} images, {row['common']:.0%} in common"
    where += f", other arms {_other(row)}" if _other(row) else ""
    wrong = [name for name in INTERVALS if row[name] < PROMISED[0]]
    wrong += ["called_different"] if row.get("called_different", 0) > MOST_CALLED else []
    return [f"{where}: {NAMES[name]} {row[name]:.1%} (+- {2 * _error(row[name], runs):.1f} points)" for name in wrong]


def _other(row: dict[str, Any]) -> str:
    return f"{row['other_accuracy']:.0%}, {100 * row['other_deviation']:g}" if "other_accuracy" in row else ""


def _cells(row: dict[str, Any]) -> list[str]:
    shares = ("accuracy_held", "difference_held", "called_different")
    plain = ("bootstrap_accuracy_held", "bootstrap_difference_held")
    return [
        *(str(row["candidates"]), f"{row['accuracy']:.0%}", f"{100 * row['deviation']:g}", str(row["seeds"])),
        *(str(row["images"]), f"{row['common']:.0%}", _other(row), *(_share(row, name) for name in shares)),
        *(f"{100 * row['bias']:+.2f}", *(_share(row, name) for name in plain)),
    ]


def _share(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1%}" if name in row else ""


if __name__ == "__main__":
    main()
