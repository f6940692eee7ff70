"""From answers on test images to figures: each arm's chosen configuration, its interval, and how it compares.

Pure functions of two runs, the search and the retrainings.

Shapes: S seeds, N test images, C classes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_tune import candidates, statistics
from kd_tune.confirmation import Candidate, Comparison, Confirmation, ConfirmedArm, Plan
from kd_tune.manifest import Manifest, versions
from kd_tune.paths import file_name
from kd_tune.ranges import branch_name
from kd_tune.records import DISTIL
from kd_tune.retraining import Group, best_candidate, groups_of, reported
from kd_tune.run_state import RunState, TrialState
from kd_tune.selection import leading_arm
from kd_tune.space import Space


@dataclass(frozen=True)
class Answers:
    """What was said to the test images, at temperature 1.

    Attributes:
        logits: `[chosen, S, N, C]` float32.
        labels: `[N]`, what would have been right.
        teacher: whose answers are kept beside them.
    """

    logits: np.ndarray
    labels: np.ndarray
    teacher: str | None

    @property
    def right(self) -> np.ndarray:
        """`[chosen, S, N]` bool, whether each training classified each image right."""
        return np.asarray(self.logits.argmax(-1) == self.labels)


@dataclass(frozen=True)
class Chosen:
    """A configuration that was chosen for its model at a student, or is its only one.

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
    """The chosen configuration of every model and student, with its trainings.

    Only one whose every training came to its end has a figure. Where arms are compared, a student at which the leading
    one has none has nothing to compare its controls with, so it is left out.

    Returns:
        Them by student and model, and what there is no figure for, in words.
    """
    chosen, left_out = [], []
    for index, (section, counts) in enumerate(zip(plan.students, plan.trials, strict=True)):
        student, leader = candidates.describe(section), leading_arm(counts)
        found = {model: _retrained(plan, state, (index, model)) for model in counts}
        if plan.by is None and isinstance(found[leader], str):
            left_out.append(f"{student}, all arms: {leader} has {found[leader]}")
            continue
        chosen += [one for one in found.values() if isinstance(one, Chosen)]
        left_out += [f"{student}: {model} has {lack}" for model, lack in found.items() if isinstance(lack, str)]
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


def common_teacher(chosen: Sequence[Chosen], spaces: Mapping[str, Space]) -> str | None:
    """The one that all chosen students that learnt from a teacher learnt from (`branch_name` of its section)."""
    configs = [spaces[DISTIL].fill(one.candidate.draw) for one in chosen if one.candidate.arm == DISTIL]
    names = {branch_name(config["teacher"]) for config in configs if "teacher" in config}
    return names.pop() if len(names) == 1 else None


def make_figures(
    search: RunState,
    spaces: Mapping[str, Space],
    manifest: Manifest,
    plan: Plan,
    chosen: Sequence[Chosen],
    left_out: list[str],
    answers: Answers,
    class_groups: Mapping[str, Sequence[str]] | None,
) -> Confirmation:
    """What a confirmation found.

    Args:
        search: the search's state, this opening of the test set included.
        spaces: of the search, by arm.
        manifest: of the search.
        plan: the confirmation's.
        chosen: the configurations that were asked.
        left_out: what was not, in words.
        answers: to the test images.
        class_groups: of the data set.
    """
    right = answers.right
    return Confirmation(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        num_seeds=plan.num_seeds,
        num_images=right.shape[2],
        opening=len(search.test_openings),
        search_arms=list(search.quota),
        by=plan.by,
        arms=[_figure(search, spaces, plan, one, mine) for one, mine in zip(chosen, right, strict=True)],
        comparisons=_compare(plan, chosen, right),
        left_out=left_out,
        knows_validation_images={name: facts.knows_validation_images for name, facts in manifest.teachers.items()},
        class_names=manifest.dataset["class_names"],
        class_groups=None if class_groups is None else {name: list(of) for name, of in class_groups.items()},
        teacher=answers.teacher,
        versions=versions(),
    )


def _figure(search: RunState, spaces: Mapping[str, Space], plan: Plan, one: Chosen, right: np.ndarray) -> ConfirmedArm:
    candidate, section = one.candidate, plan.students[one.candidate.student]
    interval = statistics.accuracy(right)
    maximum, shrunken = candidates.search_maxima(candidates.rivals(search, spaces[candidate.arm], plan, candidate))
    return ConfirmedArm(
        student=candidates.describe(section),
        num_parameters=one.median.rows[one.median.epoch]["num_parameters"],
        arm=candidate.arm,
        model=candidate.model,
        trial=candidate.trial,
        draw=candidate.draw,
        trainings=[trial.number for trial in one.trainings],
        val_accuracies=[trial.value or 0.0 for trial in one.trainings],
        test_accuracies=right.mean(1).tolist(),
        low=interval.low,
        high=interval.high,
        moved=candidate.moved,
        search_trials=plan.trials[candidate.student][candidate.model],
        search_maximum=maximum,
        search_shrunken=shrunken,
        exported=one.median.number,
        export=f"{file_name(candidate.model)}_{candidate.student + 1}",
    )


def _compare(plan: Plan, chosen: Sequence[Chosen], right: np.ndarray) -> list[Comparison]:
    """What is compared at the same student, adjusted for all of it together (Holm)."""
    pairs = list(_pairs(plan, chosen))
    differences = [statistics.difference(right[first], right[second]) for first, second in pairs]
    adjusted = statistics.holm([difference.p_value for difference in differences])
    return [
        Comparison(
            student=candidates.describe(plan.students[chosen[first].candidate.student]),
            first=chosen[first].candidate.model,
            second=chosen[second].candidate.model,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p_value=p_value,
        )
        for (first, second), difference, p_value in zip(pairs, differences, adjusted, strict=True)
    ]


def _pairs(plan: Plan, chosen: Sequence[Chosen]) -> Iterator[tuple[int, int]]:
    """Distillation and each control; of values of a parameter each and all before it."""
    for (first, one), (second, other) in itertools.permutations(enumerate(chosen), 2):
        if one.candidate.student == other.candidate.student and (
            one.candidate.arm == DISTIL != other.candidate.arm if plan.by is None else first > second
        ):
            yield first, second
