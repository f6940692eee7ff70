"""Which configurations of a search are worth training again: pure functions of a run's state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kd_tune import ledger
from kd_tune.confirmation import Candidate, Plan
from kd_tune.ledger import RunState, TrialState
from kd_tune.records import DISTIL
from kd_tune.selection import Selection, is_of_student
from kd_tune.space import Space
from kd_tune.statistics import shrunken_maximum


def make_plan(state: RunState, spaces: Mapping[str, Space], selection: Selection, num_seeds: int, seed: int) -> Plan:
    """What a confirmation of a search trains.

    Models are compared at the same student: that of the leading arm's best trial, or every student that all arms have
    usable trials of. An arm that never tried the best one's student, as happens where widths are a continuous range,
    takes part with its best configurations of other students, moved to this one.

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
    trials = {
        arm: [trial for trial in ranked(state.of_arm(arm)) if selection.admits(trial, spaces[arm])]
        for arm in state.quota
    }
    students = _students(trials, spaces, selection.all_students)
    candidates, counts = [], []
    for index, student in enumerate(students):
        mine = {arm: trials_of_student(trials[arm], spaces[arm], student) for arm in trials}
        own = {arm: [_candidate(index, trial, selection) for trial in found] for arm, found in mine.items()}
        leading_draw = mine[leading_arm(trials)][0].draw
        found: dict[str, list[Candidate]] = {name: [] for name in selection.models(trials, spaces)}
        for arm in trials:
            moved = [_moved(_candidate(index, trial, selection), leading_draw) for trial in trials[arm] if not own[arm]]
            for candidate in _distinct(own[arm] or moved, spaces[arm]):
                found[candidate.model].append(candidate)
        counts.append({name: _count(own, name) for name in found})
        candidates += [candidate for rivals in found.values() for candidate in rivals[: selection.top]]
    return Plan(
        seed=seed,
        by=selection.by,
        where=dict(selection.where),
        top=selection.top,
        num_seeds=num_seeds,
        students=students,
        trials=counts,
        candidates=candidates,
    )


def leading_arm(arms: Iterable[str]) -> str:
    """The arm that the others are compared with: the distilled one, or the first where none learns from a teacher."""
    names = list(arms)
    return DISTIL if DISTIL in names else names[0]


def ranked(trials: Sequence[TrialState]) -> list[TrialState]:
    """Usable trials that have ended, best first (`ledger.ranked`)."""
    return ledger.ranked(trial for trial in trials if trial.end is not None)


def trials_of_student(trials: Sequence[TrialState], space: Space, student: Mapping[str, Any]) -> list[TrialState]:
    """Those whose `student` section is equal, in the same order."""
    return [trial for trial in trials if space.fill(trial.draw)["student"] == student]


def rivals(state: RunState, space: Space, plan: Plan, candidate: Candidate) -> list[TrialState]:
    """The search's trials that a candidate was best of: those of its model and student, best first."""
    selection = Selection(plan.top, by=plan.by, where=plan.where)
    mine = [trial for trial in ranked(state.of_arm(candidate.arm)) if selection.admits(trial, space)]
    mine = [trial for trial in mine if selection.model(trial) == candidate.model]
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


def _count(candidates: Mapping[str, Sequence[Candidate]], model: str) -> int:
    return sum(candidate.model == model for mine in candidates.values() for candidate in mine)


def _candidate(student: int, trial: TrialState, selection: Selection) -> Candidate:
    return Candidate(
        student=student,
        arm=trial.arm,
        model=selection.model(trial),
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


def _distinct(candidates: Sequence[Candidate], space: Space) -> list[Candidate]:
    """The first of every configuration: a search may have drawn one twice, and moving makes some equal."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(_key(space.fill(candidate.draw)), candidate)
    return list(first.values())


def _key(section: Mapping[str, Any]) -> str:
    return json.dumps(section, sort_keys=True)
