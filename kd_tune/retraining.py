"""What a confirmation trains, in what order, and what it chooses: functions of its plan and of what came out so far.

A model (an arm, or a value of the parameter that is compared) at a student is a group. Where it has several candidates,
each is trained on a few seeds and the best by validation images is chosen; then the chosen one, or the only one, is
trained on seeds that had no part in the choice. Only these trainings answer the test images. The best of several is
best by luck too, and in training that luck is the same on both kinds of images: figures of the trainings that chose
would be too high.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_tune import records
from kd_tune.confirmation import Plan
from kd_tune.ledger import Recorder
from kd_tune.run_state import RunState, TrialState
from kd_tune.space import Space

Group = tuple[int, str]  # the student's place in the plan, and the model


@dataclass(frozen=True)
class Training:
    """One training of a confirmation.

    Attributes:
        number: its trial's; its seed follows from it.
        group: that it belongs to.
        candidate: its place in the plan; None for one that is reported, whose configuration is the chosen one.
        repeat: trainings of one repeat see the images in the same order, so that what this brings is common to them.
    """

    number: int
    group: Group
    candidate: int | None
    repeat: int


def num_choosing(num_seeds: int) -> int:
    """On how many seeds each of several candidates is trained before one of them is trained on `num_seeds`.

    Half as many: from three seeds on, three candidates then cost no more than if all were trained on `num_seeds`.
    """
    return max(2, math.ceil(num_seeds / 2))


def groups_of(plan: Plan) -> dict[Group, list[int]]:
    """The candidates of every group, by their places in the plan."""
    found: dict[Group, list[int]] = {}
    for place, candidate in enumerate(plan.candidates):
        found.setdefault((candidate.student, candidate.model), []).append(place)
    return found


def trainings_of(plan: Plan) -> list[Training]:
    """All trainings of a confirmation, by number: those that choose, then those that are reported, seed by seed.

    Numbers are given before anything is trained, so that a training's seed does not depend on who ended first.
    """
    groups, choosing = groups_of(plan), num_choosing(plan.num_seeds)
    rivals = [(group, place) for group, places in groups.items() if len(places) > 1 for place in places]
    to_choose = [(group, place, repeat) for repeat in range(choosing) for group, place in rivals]
    to_report = [(group, None, choosing + repeat) for repeat in range(plan.num_seeds) for group in groups]
    return [Training(number, *what) for number, what in enumerate([*to_choose, *to_report])]


def in_words(plan: Plan) -> str:
    """What is going to be trained, on a line."""
    chosen, rivals = len(groups_of(plan)), {one.candidate for one in trainings_of(plan)} - {None}
    figures = f"{chosen} configurations, one a model and student, are trained on {plan.num_seeds} seeds for the figures"
    if not rivals:
        return figures
    return (
        f"{len(rivals)} candidates are trained on {num_choosing(plan.num_seeds)} seeds for the choice; then {figures}"
    )


def trainings_by_arm(plan: Plan) -> dict[str, int]:
    """How many trainings every arm has."""
    arms = {(candidate.student, candidate.model): candidate.arm for candidate in plan.candidates}
    return dict(Counter(arms[one.group] for one in trainings_of(plan)))


def reported(plan: Plan, group: Group) -> list[int]:
    """Numbers of a group's trainings that are reported, a seed each."""
    return [one.number for one in trainings_of(plan) if one.group == group and one.candidate is None]


def best_candidate(plan: Plan, state: RunState, group: Group) -> int | None:
    """The candidate with the best mean validation accuracy, of equals the first; one that is alone needs none.

    Only candidates whose every training came to its end take part: one that diverges on some seeds has no mean. One of
    which a training failed is waited for, because that says nothing about it.

    Returns:
        Its place in the plan; None if there is none, or as long as a training that chooses has not ended, or failed.
    """
    places = groups_of(plan)[group]
    if len(places) == 1:
        return places[0]
    tried: dict[int, list[TrialState | None]] = {place: [] for place in places}
    for one in trainings_of(plan):
        if one.group == group and one.candidate is not None:
            tried[one.candidate].append(state.trials.get(one.number))
    if any(trial is None or trial.end in (None, "failed") for trials in tried.values() for trial in trials):
        return None
    means = {
        place: float(np.mean([trial.value for trial in trials if trial]))
        for place, trials in tried.items()
        if all(trial and trial.end == "completed" for trial in trials)
    }
    return max(means, key=lambda place: means[place], default=None)


class RetrainingProposer:
    """Proposes a confirmation's trainings (`searcher.Proposer`).

    A group's choice waits for its own trainings only, and is made again in the same way by whoever goes on.

    Args:
        run: records every proposal.
        plan: what is trained.
        spaces: by arm.
    """

    def __init__(self, run: Recorder, plan: Plan, spaces: Mapping[str, Space]) -> None:
        self._run = run
        self._plan = plan
        self._spaces = spaces

    def propose(self) -> TrialState | None:
        """The first training that was not proposed and whose configuration is known; None while there is none."""
        state = self._run.state
        for one in trainings_of(self._plan):
            if one.number in state.trials:
                continue
            place = best_candidate(self._plan, state, one.group) if one.candidate is None else one.candidate
            if place is not None:
                return self._record(one, place)
        self._end_arms()
        return None

    def _record(self, one: Training, place: int) -> TrialState:
        candidate = self._plan.candidates[place]
        self._run.record(
            records.PROPOSED,
            trial=one.number,
            arm=candidate.arm,
            draw=candidate.draw,
            config=self._spaces[candidate.arm].fill(candidate.draw),
            repeat=one.repeat,
            confirms=candidate.trial,
            purpose="report" if one.candidate is None else "choose",
        )
        return self._run.state.trials[one.number]

    def _end_arms(self) -> None:
        """Where all that was proposed has ended and trainings are missing, they miss a choice that cannot be made."""
        state = self._run.state
        for arm, quota in list(state.quota.items()):
            trials = state.of_arm(arm)
            if len(trials) < quota and all(trial.end for trial in trials):
                why = "at a student, no candidate was trained to the end with every seed"
                if any(trial.end == "failed" for trial in trials):
                    why = "a training that is needed for a choice failed; it is trained again at the next launch"
                self._run.record(records.EXHAUSTED, arm=arm, trials=len(trials), why=why)
