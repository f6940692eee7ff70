"""What the study claims, what its own figures say of that, and what becomes of it. See `seed_study.py`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr
from seed_study_runs import BOTH, HARD, OWN, SOFT, STUDENTS, Part

from kd_tune.class_profiles import closeness, closeness_differences
from kd_tune.confirmation import SIGNIFICANT, Confirmation
from kd_tune.confusions import inside_groups

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Accuracy by class, read off the study's confusion matrices: 10,000 test images of CIFAR-10, one training each, in %.
PUBLISHED_BY_CLASS = {
    HARD: (71.9, 70.6, 50.4, 48.3, 50.3, 45.7, 75.6, 68.7, 79.4, 63.4),
    BOTH: (74.2, 70.4, 45.9, 42.0, 66.3, 52.9, 77.5, 71.2, 75.8, 83.1),
    SOFT: (75.0, 75.5, 61.3, 46.2, 51.8, 51.5, 67.8, 71.3, 82.9, 69.5),
    "teacher": (96.0, 96.8, 91.7, 87.9, 95.5, 90.0, 95.5, 96.1, 96.7, 95.9),
}
PUBLISHED = {model: round(float(np.mean(row)), 2) for model, row in PUBLISHED_BY_CLASS.items()}
FAR = 0.05  # below its accuracy at its own rate a student was not trained as it could be
CLAIMS = (
    "Soft targets beat hard ones.",
    "The student of the teacher alone has the class profile closest to the teacher's.",
    "Confusions stay among like classes.",
)


class Judgement(NamedTuple):
    """What becomes of a claim.

    Attributes:
        about: by which confirmation.
        verdict: in words.
        figures: what it rests on; empty where a table shows it.
    """

    about: str
    verdict: str
    figures: str


def judged(part: Part) -> list[list[Judgement]]:
    """What becomes of each of CLAIMS, by each confirmation that says something of it."""
    return [
        [beats(found, about) for about, found in part.found.items()],
        [closest(closeness(told), closeness_differences(told), about) for about, told in part.told.items()],
        [stay_inside(inside_groups(told) if told.groups else None, about) for about, told in part.told.items()],
    ]


def beats(found: Confirmation, about: str) -> Judgement:
    """Soft targets against hard ones, in test accuracy."""
    pairs = {}
    for one in found.comparisons:
        if HARD in (one.first, one.second):
            soft, gain = (one.first, one.difference) if one.second == HARD else (one.second, -one.difference)
            pairs[soft] = gain, one.p_value, one.sentence(len(found.comparisons))
    return _judgement(about, {soft: pairs.get(soft) for soft in (BOTH, SOFT)}, "for")


def closest(profiles: pd.DataFrame, differences: pd.DataFrame, about: str) -> Judgement:
    """The correlation of the class profile of the teacher's own student against those of the others.

    Args:
        profiles: `class_profiles.closeness`.
        differences: `class_profiles.closeness_differences`.
        about: by which confirmation.
    """
    pairs = {}
    for row in differences.to_dict("records"):
        if SOFT in (row["first"], row["second"]):
            sign = 1 if row["first"] == SOFT else -1
            low, high = sorted((sign * row["low"], sign * row["high"]))
            text = f"{SOFT} less {row['second'] if sign == 1 else row['first']} {sign * row['difference']:+.3f} "
            text += f"({low:+.3f} to {high:+.3f}; p {row['p_holm']:.2g})"
            pairs[row["second"] if sign == 1 else row["first"]] = sign * row["difference"], row["p_holm"], text
    known = profiles.dropna(subset="correlation").to_dict("records")  # noise can be all that there is
    shown = ", ".join(f"{row['model']} {row['correlation']:.2f}" for row in known)
    judgement = _judgement(about, {other: pairs.get(other) for other in (HARD, BOTH)}, "against")
    return judgement._replace(figures=f"correlations, corrected for noise: {shown}; {judgement.figures}")


def stay_inside(shares: pd.DataFrame | None, about: str) -> Judgement:
    """Wrong answers in the right group, against as many spread evenly; in each group and over all.

    Args:
        shares: `confusions.inside_groups`; None without groups.
        about: by which confirmation.
    """
    if shares is None:
        return Judgement(about, "these data have no groups of like classes", "")
    rows = [row for row in shares.to_dict("records") if row["model"] in STUDENTS]
    return Judgement(
        about, "it holds" if all(row["low"] > row["evenly"] for row in rows) else "it does not hold for all", ""
    )


def _judgement(about: str, pairs: dict[str, tuple[float, float, str] | None], word: str) -> Judgement:
    """One verdict of a claim's pairs, or each pair's own.

    Args:
        about: by which confirmation.
        pairs: by the other student: by how much the claim is right, the adjusted p-value, and both in words; None
            where one of the two has no figure.
        word: what joins a verdict to its student.
    """
    verdicts = {}
    for other, found in pairs.items():
        if found is None:
            verdicts[other] = "it cannot be judged"
        elif found[1] >= SIGNIFICANT:
            verdicts[other] = "it is open"
        else:
            verdicts[other] = "it holds" if found[0] > 0 else "the opposite holds"
    if len(set(verdicts.values())) == 1:
        verdict = next(iter(verdicts.values()))
    else:
        verdict = ", ".join(f"{verdict} {word} {STUDENTS[other]}" for other, verdict in verdicts.items())
    return Judgement(about, verdict, "; ".join(found[2] for found in pairs.values() if found))


def of_published_figures() -> str:
    """What the study's own figures by class say of its second claim: a sentence."""
    teacher = PUBLISHED_BY_CLASS["teacher"]
    rows = [(STUDENTS[model], PUBLISHED_BY_CLASS[model]) for model in STUDENTS]
    pearson = ", ".join(f"{name} {pearsonr(row, teacher).statistic:.2f}" for name, row in rows)
    ranks = ", ".join(f"{name} {spearmanr(row, teacher).statistic:.2f}" for name, row in rows)
    return (
        f"The study's own accuracies by class, of one training each, correlate with its teacher's by {pearson}; their "
        f"ranks by {ranks}. So by ranks its second claim is true of its figures, and by the values it is not."
    )


def accuracy_of(found: Confirmation) -> dict[str, float]:
    """Mean test accuracy of every student."""
    return {arm.model: float(np.mean(arm.test_accuracies)) for arm in found.arms}


def not_learnt(part: Part, about: str) -> str:
    """Which students are far below what they reach at their own rate: a sentence, or nothing."""
    here, own = accuracy_of(part.found[about]), accuracy_of(part.found[OWN])
    far = [
        f"{STUDENTS[model]} has {here[model]:.1%} here and {own[model]:.1%} at its own rate"
        for model in STUDENTS
        if model in here and model in own and here[model] < own[model] - FAR
    ]
    return f"{'; '.join(far)}: so far below, a comparison is of rates, not of targets." if far else ""
