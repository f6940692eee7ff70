"""Which configurations of a search are worth training again: pure functions of a run's state."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_tune import run_state
from kd_tune.catalog import canonical_draw
from kd_tune.confirmation import Candidate, Plan
from kd_tune.run_state import RunState, TrialState
from kd_tune.selection import Selection, is_of_student, leading_arm
from kd_tune.space import Space
from kd_tune.statistics import shrunken_maximum


def make_plan(state: RunState, spaces: Mapping[str, Space], selection: Selection, num_seeds: int, seed: int) -> Plan:
    """What a confirmation of a search trains.

    Models are compared at the same student: that of the leading arm's best trial, or every student that all arms have
    usable trials of. Beside a model's trials of this student its best ones of others compete, moved to it: it may have
    tried this one a single time, with bad luck, or never, as happens where widths are a continuous range.

    Args:
        state: the search's.
        spaces: by arm.
        selection: which trials, compared as what.
        num_seeds: trainings that are reported, of every chosen one.
        seed: of the confirmation.

    Returns:
        The plan; without candidates where no student can be compared.

    Raises:
        ConfigError: no search of these spaces has what is selected.
    """
    selection.check(spaces)
    leader = leading_arm(state.quota)
    trials = {
        arm: [trial for trial in ranked(state.of_arm(arm)) if selection.admits(trial, spaces[arm], leader)]
        for arm in state.quota
    }
    students = _students(trials, spaces, selection.all_students)
    candidates, counts = [], []
    for index, student in enumerate(students):
        found = _by_model(index, student, trials, spaces, selection)
        counts.append({name: sum(not one.moved for one in mine) for name, mine in found.items()})
        candidates += [one for mine in found.values() for one in _most_promising(mine, spaces, selection.top)]
    return Plan(
        seed=seed,
        by=selection.by,
        where=dict(selection.where),
        top=selection.top,
        num_seeds=num_seeds,
        students=students,
        trials=counts,
        candidates=candidates,
        all_students=selection.all_students,
        search_trials=len(state.trials),
    )


def ranked(trials: Sequence[TrialState]) -> list[TrialState]:
    """Usable trials that have ended, best first (`run_state.ranked`)."""
    return run_state.ranked(trial for trial in trials if trial.end is not None)


def trials_of_student(trials: Sequence[TrialState], space: Space, student: Mapping[str, Any]) -> list[TrialState]:
    """Those whose `student` section is equal, in the same order."""
    return [trial for trial in trials if space.fill(trial.draw)["student"] == student]


def rivals(state: RunState, space: Space, plan: Plan, candidate: Candidate) -> list[TrialState]:
    """The search's trials of a candidate's model and student when the plan was made, best first."""
    selection, leader = Selection(plan.top, by=plan.by, where=plan.where), leading_arm(state.quota)
    mine = [trial for trial in ranked(state.of_arm(candidate.arm)) if selection.admits(trial, space, leader)]
    mine = [trial for trial in mine if selection.model(trial, leader) == candidate.model]
    if plan.search_trials is not None:
        mine = [trial for trial in mine if trial.number < plan.search_trials]
    return trials_of_student(mine, space, plan.students[candidate.student])


def search_maxima(trials: Sequence[TrialState]) -> tuple[float | None, float | None]:
    """The largest of the trials' last validation accuracies: as it is, and shrunken. None of what cannot be known.

    Args:
        trials: of one model and student, `ranked`.
    """
    if not trials:
        return None, None
    last = [trial.rows[trial.epoch] for trial in trials]
    halves = [(row.get("val_accuracy_even"), row.get("val_accuracy_odd")) for row in last]
    largest = max(float(row["val_accuracy"]) for row in last)
    if any(even is None or odd is None for even, odd in halves):
        return largest, None
    even, odd = np.array(halves, float).T
    return largest, shrunken_maximum(even, odd)


def describe(section: Mapping[str, Any]) -> str:
    """A student section on one line: `studentnet width=0.5`."""
    rest = " ".join(f"{key}={value}" for key, value in section.items() if key != "name")
    return f"{section['name']} {rest}".strip()


def _students(
    trials: Mapping[str, Sequence[TrialState]], spaces: Mapping[str, Space], all_students: bool
) -> list[dict[str, Any]]:
    found: dict[str, dict[str, dict[str, Any]]] = {arm: {} for arm in trials}
    for arm, ended in trials.items():
        for trial in ended:
            student = spaces[arm].fill(trial.draw)["student"]
            found[arm].setdefault(_key(student), student)
    leading = found[leading_arm(found)]
    if not all_students:
        return list(leading.values())[:1]
    return [student for key, student in leading.items() if all(key in students for students in found.values())]


def _by_model(
    index: int,
    student: Mapping[str, Any],
    trials: Mapping[str, Sequence[TrialState]],
    spaces: Mapping[str, Space],
    selection: Selection,
) -> dict[str, list[Candidate]]:
    """Every trial as a candidate at a student, by model; those of other students are moved to it."""
    leader = leading_arm(trials)
    leading_draw = trials_of_student(trials[leader], spaces[leader], student)[0].draw
    found: dict[str, list[Candidate]] = {name: [] for name in selection.models(trials, spaces)}
    for arm, ended in trials.items():
        for trial in ended:
            candidate = _candidate(index, trial, selection.model(trial, leader))
            is_own = spaces[arm].fill(trial.draw)["student"] == student
            found[candidate.model].append(candidate if is_own else _moved(candidate, leading_draw))
    return found


def _candidate(student: int, trial: TrialState, model: str) -> Candidate:
    return Candidate(
        student=student,
        arm=trial.arm,
        model=model,
        trial=trial.number,
        draw=trial.draw,
        moved=False,
        epoch=trial.epoch,
        val_accuracy=trial.value or 0.0,
    )


def _moved(candidate: Candidate, leading_draw: Mapping[str, Any]) -> Candidate:
    """A configuration with the student of another draw in place of its own."""
    kept = {name: value for name, value in candidate.draw.items() if not is_of_student(name)}
    taken = {name: value for name, value in leading_draw.items() if is_of_student(name)}
    return candidate.model_copy(update={"draw": kept | taken, "moved": True})


def _most_promising(rivals: Sequence[Candidate], spaces: Mapping[str, Space], top: int) -> list[Candidate]:
    """A model's candidates at a student, its own best first.

    Own trials have at least half of the places, as far as there are, for accuracies of other students are no measure of
    theirs: at a narrow one nearly all that were moved from wider ones would rank above them. The rest goes by accuracy.
    Of a single place that rule would make a guess, so there the best own one and a better one that was moved are both
    trained: the choice between them costs time, but no bias.

    Args:
        rivals: all of them.
        spaces: by arm.
        top: how many.
    """
    distinct = _distinct(sorted(rivals, key=lambda one: (one.moved, -one.val_accuracy)), spaces)
    kept = [one for one in distinct if not one.moved][: math.ceil(top / 2)]
    others = sorted(distinct[len(kept) :], key=lambda one: -one.val_accuracy)
    if top == 1 and kept:
        return kept + [one for one in others if one.val_accuracy > kept[0].val_accuracy][:1]
    return kept + others[: top - len(kept)]


def _distinct(candidates: Sequence[Candidate], spaces: Mapping[str, Space]) -> list[Candidate]:
    """The first of every configuration: a search may have drawn one twice, and moving makes some equal."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        space = spaces[candidate.arm]
        first.setdefault(_key(space.fill(canonical_draw(space, candidate.draw))), candidate)
    return list(first.values())


def _key(section: Mapping[str, Any]) -> str:
    return json.dumps(section, sort_keys=True)
