"""From answers on test images to figures: each arm's chosen configuration, its interval, and how it compares.

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
from kd_tune.retraining import Group, best_candidate, groups_of, reported
from kd_tune.space import Space


@dataclass(frozen=True)
class Chosen:
    """A configuration that was chosen for its arm at a student, or is its only one.

    Attributes:
        candidate: what it was in the search.
        trainings: those that are reported, as the retrainings' ledger has them, one a seed.
    """

    candidate: Candidate
    trainings: list[TrialState]

    @property
    def is_whole(self) -> bool:
        """Whether every training came to its end."""
        return all(trial.end == "completed" for trial in self.trainings)

    @property
    def median(self) -> TrialState:
        """The training with the median validation accuracy; of two in the middle the lower."""
        return sorted(self.trainings, key=lambda trial: (trial.value, trial.number))[(len(self.trainings) - 1) // 2]


def collect(plan: Plan, state: RunState) -> tuple[list[Chosen], list[str]]:
    """The chosen configuration of every arm and student, with its trainings.

    Only one whose every training came to its end has a figure. A student at which the leading arm has none has nothing
    to compare its controls with, so it is left out.

    Returns:
        Them by student and arm, and what there is no figure for, in words.
    """
    chosen, left_out = [], []
    for index, (section, counts) in enumerate(zip(plan.students, plan.trials, strict=True)):
        student, leader = candidates.describe(section), candidates.leading_arm(counts)
        found = {arm: _retrained(plan, state, (index, arm)) for arm in counts}
        if isinstance(found[leader], str):
            left_out.append(f"{student}, all arms: {leader} has {found[leader]}")
            continue
        chosen += [one for one in found.values() if isinstance(one, Chosen)]
        left_out += [f"{student}: {arm} has {lack}" for arm, lack in found.items() if isinstance(lack, str)]
    return chosen, left_out


def _retrained(plan: Plan, state: RunState, group: Group) -> Chosen | str:
    """A group's choice with its trainings, or what it lacks."""
    if group not in groups_of(plan):
        return "no usable trial in the search"
    place = best_candidate(plan, state, group)
    if place is None:
        return "no configuration that was trained to the end with every seed"
    one = Chosen(plan.candidates[place], [state.trials[number] for number in reported(plan, group)])
    if not one.is_whole:
        trial = one.candidate.trial
        return f"no figure, because the configuration of trial {trial} did not reach the end with every fresh seed"
    return one


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
