"""From answers on test images to figures: one configuration an arm, its interval, and how it compares.

Pure functions of two runs, the search and the retrainings.

Shapes: S seeds, N test images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_tune import candidates, statistics
from kd_tune.confirmation import Candidate, Comparison, Confirmation, ConfirmedArm, Plan
from kd_tune.ledger import Manifest, RunState, TrialState
from kd_tune.records import DISTIL
from kd_tune.space import Space

TO_THE_END = "was trained to the end with every seed"


@dataclass(frozen=True)
class Chosen:
    """A configuration that was chosen for its arm at a student.

    Attributes:
        candidate: what it was in the search.
        trainings: as the retrainings' ledger has them, one a seed.
    """

    candidate: Candidate
    trainings: list[TrialState]

    @property
    def is_whole(self) -> bool:
        """Whether every training came to its end."""
        return all(trial.end == "completed" for trial in self.trainings)

    @property
    def val_accuracy(self) -> float:
        """The mean over seeds."""
        return float(np.mean([trial.value or 0.0 for trial in self.trainings]))

    @property
    def median(self) -> TrialState:
        """The training with the median validation accuracy; of two in the middle the lower."""
        return sorted(self.trainings, key=lambda trial: (trial.value, trial.number))[(len(self.trainings) - 1) // 2]


def choose(plan: Plan, state: RunState) -> tuple[list[Chosen], list[str]]:
    """One configuration for every arm and student: the best mean validation accuracy over seeds, of equals the first.

    Only configurations whose every training came to its end take part: one that diverges on some seeds has no mean.
    A student without such a one of the leading arm has nothing to compare its controls with, so it is left out.

    Returns:
        The choices by student and arm, and what there is no choice for, in words.
    """
    chosen, left_out = [], []
    for index, (section, counts) in enumerate(zip(plan.students, plan.trials, strict=True)):
        student, leader = candidates.describe(section), candidates.leading_arm(counts)
        tried = {arm: _tried(plan, state, index, arm) for arm in counts}
        whole = {arm: [one for one in found if one.is_whole] for arm, found in tried.items()}
        if not whole[leader]:
            left_out.append(f"{student}, all arms: no configuration of {leader} {TO_THE_END}")
            continue
        if (count := len(tried[leader])) < plan.top:
            left_out.append(
                f"{student}: configurations of every arm after the best {count}, because an arm has no more"
            )
        chosen += [max(found, key=lambda one: one.val_accuracy) for found in whole.values() if found]
        left_out += [
            f"{student}, {arm}: {f'no configuration {TO_THE_END}' if tried[arm] else 'the search has no usable trial'}"
            for arm, found in whole.items()
            if not found
        ]
    return chosen, left_out


def _tried(plan: Plan, state: RunState, student: int, arm: str) -> list[Chosen]:
    return [
        Chosen(candidate, [state.trials[number] for number in plan.trainings_of(place)])
        for place, candidate in enumerate(plan.candidates)
        if (candidate.student, candidate.arm) == (student, arm)
    ]


def make_figures(
    search: RunState,
    spaces: Mapping[str, Space],
    manifest: Manifest,
    plan: Plan,
    chosen: Sequence[Chosen],
    left_out: list[str],
    right: np.ndarray,
) -> Confirmation:
    """What a confirmation found.

    Args:
        search: the search's state, this opening of the test set included.
        spaces: of the search, by arm.
        manifest: of the search.
        plan: the confirmation's.
        chosen: the configurations that were asked.
        left_out: what was not, in words.
        right: `[chosen, S, N]` bool, whether each training classified each test image right.
    """
    arms = [_figure(search, spaces, plan, one, answers) for one, answers in zip(chosen, right, strict=True)]
    return Confirmation(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        num_seeds=plan.num_seeds,
        num_images=right.shape[2],
        opening=len(search.test_openings),
        search_arms=list(search.quota),
        arms=arms,
        comparisons=_compare(plan, chosen, right),
        left_out=left_out,
        knows_validation_images={name: facts.knows_validation_images for name, facts in manifest.teachers.items()},
    )


def _figure(search: RunState, spaces: Mapping[str, Space], plan: Plan, one: Chosen, right: np.ndarray) -> ConfirmedArm:
    candidate, section = one.candidate, plan.students[one.candidate.student]
    interval = statistics.accuracy(right)
    of_arm = candidates.ranked(search.of_arm(candidate.arm))
    maximum, shrunken = candidates.search_maxima(candidates.trials_of_student(of_arm, spaces[candidate.arm], section))
    return ConfirmedArm(
        student=candidates.describe(section),
        num_parameters=one.median.rows[one.median.epoch]["num_parameters"],
        arm=candidate.arm,
        trial=candidate.trial,
        draw=candidate.draw,
        trainings=[trial.number for trial in one.trainings],
        val_accuracies=[trial.value or 0.0 for trial in one.trainings],
        test_accuracies=right.mean(1).tolist(),
        low=interval.low,
        high=interval.high,
        search_trials=plan.trials[candidate.student][candidate.arm],
        search_maximum=maximum,
        search_shrunken=shrunken,
        exported=one.median.number,
        export=f"{candidate.arm}_{candidate.student + 1}",
    )


def _compare(plan: Plan, chosen: Sequence[Chosen], right: np.ndarray) -> list[Comparison]:
    """The distilled arm against every control at the same student, adjusted for all of them together."""
    pairs = [
        (first, second)
        for first, one in enumerate(chosen)
        for second, other in enumerate(chosen)
        if one.candidate.student == other.candidate.student and one.candidate.arm == DISTIL != other.candidate.arm
    ]
    differences = [statistics.difference(right[first], right[second]) for first, second in pairs]
    adjusted = statistics.holm([difference.p_value for difference in differences])
    return [
        Comparison(
            student=candidates.describe(plan.students[chosen[first].candidate.student]),
            arm=chosen[first].candidate.arm,
            control=chosen[second].candidate.arm,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p_value=p_value,
        )
        for (first, second), difference, p_value in zip(pairs, differences, adjusted, strict=True)
    ]
