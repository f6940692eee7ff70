"""Whether the intervals of a class profile's correlation with the teacher's hold the truth.

Teacher and student have accuracies by class that correlate so much in log odds; images have difficulties that both
share, and every training scatters on every class. Two sets of trainings of the same student answer the same new test
images. Counted over runs, each with new classes, seeds and images:

- how often the interval holds the correlation of the expected accuracies (promised: 95 %), and what is known of it:
  the plain estimate's bias and the corrected one's;
- how often the plain interval does, which is computed alike but not corrected for noise;
- how often the percentiles of a crossed bootstrap do, which draws seeds, and images of each class, again;
- how often the two sets are called different (promised: at most 5 %).
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
from scipy import special

from kd_tune import class_profiles, influence
from kd_tune.predictions import Model, Predictions

SETTINGS = [  # classes, test images of each, seeds, correlation in log odds, teacher's spread over classes in log odds
    (10, 1000, 5, 0.8, 0.6),
    (10, 1000, 3, 0.8, 0.6),
    (10, 1000, 5, 0.97, 0.6),
    (10, 1000, 5, 0.3, 0.6),
    (10, 200, 5, 0.8, 0.6),
    (10, 100, 3, 0.8, 0.6),
    (10, 200, 5, 0.8, 0.2),
    (4, 500, 5, 0.8, 0.6),
    (50, 100, 5, 0.8, 0.6),
]
TEACHER, STUDENT = 4.5, 0.8  # log odds of an average image of an average class
SPREAD = 0.6  # of the student over classes, log odds
SCATTER = 0.25  # of a training on a class, log odds: three points of accuracy
DIFFICULTY = 2.0  # of images, log odds
BOOTSTRAPS = 300
BOOTSTRAPPED_RUNS = 5  # one in so many


def main() -> None:
    parser = common.arguments_parser(__doc__)
    parser.add_argument("--runs", type=int, default=500, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = common.conditions(arguments)
    rows = []
    for number, (classes, images, seeds, likeness, spread) in enumerate(SETTINGS):
        setting = {"classes": classes, "images": images, "seeds": seeds, "likeness": likeness, "teacher_spread": spread}
        rows.append(setting | _simulate(setting, arguments.runs, np.random.default_rng([arguments.seed, number])))
        print(f"{number + 1}/{len(SETTINGS)} {rows[-1]}", flush=True)
    result = {"conditions": made, "settings": rows}
    common.write_result("class_profiles", result, _markdown(result), arguments.out)


def _simulate(setting: dict[str, Any], runs: int, random: np.random.Generator) -> dict[str, float]:
    """Shares and means over runs."""
    found: dict[str, list[float]] = {}
    for number in range(runs):
        answers, truth = _answers(random, setting)
        row = class_profiles.closeness(answers).iloc[0]
        pair = class_profiles.closeness_differences(answers)
        counted = {
            "held": row["low"] <= truth <= row["high"],
            "plain_held": _plain_holds(answers, truth),
            "unknown": np.isnan(row["correlation"]),
            "bias": row["correlation"] - truth,
            "plain_bias": row["observed"] - truth,
            "called_different": bool(len(pair)) and pair["p_value"][0] < 0.05,
        }
        if number % BOOTSTRAPPED_RUNS == 0:
            counted["bootstrap_held"] = _bootstrap_holds(random, answers, truth)
        for name, value in counted.items():
            found.setdefault(name, []).append(float(value))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def _answers(random: np.random.Generator, setting: dict[str, Any]) -> tuple[Predictions, float]:
    """Answers of two sets of trainings and the teacher, and the correlation of their expected accuracies by class."""
    classes, images, likeness = setting["classes"], setting["images"], setting["likeness"]
    of_teacher, own = random.standard_normal((2, classes))
    teacher = TEACHER + setting["teacher_spread"] * of_teacher
    student = STUDENT + SPREAD * (likeness * of_teacher + np.sqrt(1 - likeness**2) * own)
    labels = np.repeat(np.arange(classes), images)
    difficulties = DIFFICULTY * random.standard_normal(len(labels))

    def model(name: str, odds: np.ndarray) -> Model:
        wrong = random.random((len(odds), len(labels))) > special.expit(odds[:, labels] + difficulties)
        return Model(name, np.eye(classes, dtype=np.int8)[(labels + wrong) % classes])

    scattered = student + SCATTER * random.standard_normal((2, setting["seeds"], classes))
    models = [model(name, odds) for name, odds in zip(("one", "other"), scattered, strict=True)]
    names = [str(number) for number in range(classes)]
    expected = _expected(teacher, DIFFICULTY), _expected(student, float(np.hypot(DIFFICULTY, SCATTER)))
    truth = float(np.corrcoef(*expected)[0, 1])
    return Predictions(labels, names, models, model("teacher", teacher[None])), truth


def _expected(odds: np.ndarray, spread: float) -> np.ndarray:
    """`[C]` accuracies over normal deviations of log odds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return np.asarray(special.expit(odds[:, None] + spread * nodes) @ weights / weights.sum())


def _plain_holds(answers: Predictions, truth: float) -> bool:
    found = class_profiles._of_models(answers)["one"]
    half = influence.take_apart([found.student, found.teacher], found.unit).half_width(1 - influence.LEVEL)
    return bool(abs(np.arctanh(truth) - np.arctanh(found.observed)) <= half / (1 - found.observed**2))


def _bootstrap_holds(random: np.random.Generator, answers: Predictions, truth: float) -> bool:
    assert answers.teacher
    shape = (len(answers.class_names), -1)
    student = answers.right(answers.models[0]).reshape(-1, *np.reshape(answers.labels, shape).shape)
    teacher = answers.right(answers.teacher).reshape(shape)
    seeds, classes, images = student.shape
    drawn = []
    for _ in range(BOOTSTRAPS):
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
        of_images = random.multinomial(images, np.full(images, 1 / images), classes)
        by_image = np.tensordot(of_seeds, student, 1)
        drawn.append(np.corrcoef((by_image * of_images).sum(1), (teacher * of_images).sum(1))[0, 1])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return bool(low <= truth <= high)


def _markdown(result: dict[str, Any]) -> str:
    rows, arguments = result["settings"], result["conditions"]["arguments"]
    shares = ("held", "plain_held", "bootstrap_held", "unknown", "called_different")
    lines = [
        [row["classes"], row["images"], row["seeds"], row["likeness"], row["teacher_spread"]]
        + [f"{row[name]:.1%}" for name in shares]
        + [f"{row['plain_bias']:+.3f}", f"{row['bias']:+.3f}"]
        for row in rows
    ]
    extremes = {
        name: f"{min(row[name] for row in rows):.1%} to {max(row[name] for row in rows):.1%}" for name in shares
    }
    header = ["classes", "images of each", "seeds", "correlation, log odds", "teacher's spread"]
    header += ["interval holds it", "plain interval", "bootstrap", "unknown", "equal students called different"]
    header += ["plain bias", "bias"]
    return f"""
# Correlations of class profiles

Over {len(rows)} settings, the interval of a student's correlation with its teacher's accuracies by class holds the
truth in {extremes["held"]} of runs; without the correction for noise in {extremes["plain_held"]}, a crossed bootstrap's
percentiles in {extremes["bootstrap_held"]} (one run in {BOOTSTRAPPED_RUNS}). Two sets of trainings of one student are
called different in {extremes["called_different"]}. {arguments["runs"]} runs a setting: standard errors of
{100 * (0.05 * 0.95 / arguments["runs"]) ** 0.5:.1f} points.

`unknown`: noise is as large as what classes differ by, and no correlation is given; its interval is -1 to 1.

{common.table(header, lines)}

{common.conditions_markdown(result["conditions"])}
"""


if __name__ == "__main__":
    main()
