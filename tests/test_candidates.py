"""Which configurations are trained again, and where arms are compared."""

from __future__ import annotations

from typing import Any

import pytest

from kd_tune.candidates import describe, make_plan, ranked, rivals, search_maxima, trials_of_student
from kd_tune.ranges import Choice, FloatRange
from kd_tune.run_state import RunState
from kd_tune.selection import Selection
from kd_tune.space import Space
from tests.confirmations import SPACE, search_state

HINTON = {"name": "hinton", "alpha": Choice(options=[0.0, 0.5]), "temperature": Choice(options=[1.0, 4.0])}
SPACES = dict.fromkeys(("distil", "cross_entropy"), SPACE)


def plan_of(state: RunState, top: int = 2, all_students: bool = False, **spaces: Space) -> Any:
    return make_plan(state, SPACES | spaces, Selection(top, all_students), 3, seed=7)


def test_candidates_are_the_best_by_their_last_value_whatever_their_epochs() -> None:
    state = search_state(distil=[(0.5, 6, 0.80), (0.5, 2, 0.82), (0.5, 6, 0.85)])
    assert [trial.number for trial in ranked(list(state.trials.values()))] == [2, 1, 0]
    assert [candidate.trial for candidate in plan_of(state).candidates] == [2, 1]


def test_failed_diverged_and_running_trials_are_no_candidates() -> None:
    state = search_state(distil=[(0.5, 6, 0.9), (0.5, 6, 0.8), (0.5, 3, 0.7), (0.5, 6, 0.6)])
    for number, end in enumerate(("failed", "diverged", None)):
        state.trials[number].end = end  # type: ignore[assignment]
    assert [candidate.trial for candidate in plan_of(state).candidates] == [3]


def test_arms_are_compared_at_the_student_of_the_distilled_arms_best() -> None:
    state = search_state(
        distil=[(0.5, 6, 0.8), (0.25, 6, 0.9)], cross_entropy=[(0.5, 6, 0.99), (0.25, 6, 0.5), (0.25, 6, 0.6)]
    )
    plan = plan_of(state)
    assert [section["width"] for section in plan.students] == [0.25]
    assert [(one.arm, one.trial) for one in plan.candidates if not one.moved] == [
        ("distil", 1),
        ("cross_entropy", 4),
    ]
    assert plan.trials == [{"distil": 1, "cross_entropy": 2}]


@pytest.mark.parametrize(("top", "expected"), [(9, [0, 1, 2, 3, 4]), (2, [0, 1, 3, 4]), (1, [0, 3])])
def test_every_arm_has_its_best_few_candidates_as_far_as_it_has_them(top: int, expected: list[int]) -> None:
    """An arm may choose among more than another: what chooses is not reported, so it gains nothing by luck."""
    state = search_state(
        distil=[(0.5, 6, 0.9), (0.5, 6, 0.8), (0.5, 6, 0.7)], cross_entropy=[(0.5, 6, 0.8), (0.5, 6, 0.7)]
    )
    assert [candidate.trial for candidate in plan_of(state, top).candidates] == expected


def test_an_arm_that_never_tried_the_student_has_its_best_configurations_moved_to_it() -> None:
    state = search_state(
        distil=[(0.5, 6, 0.9), (0.5, 6, 0.8)], cross_entropy=[(0.25, 6, 0.7), (1.0, 2, 0.95), (0.25, 6, 0.6)]
    )
    plan = plan_of(state)
    assert [(one.arm, one.trial, one.moved) for one in plan.candidates] == [
        ("distil", 0, False),
        ("distil", 1, False),
        ("cross_entropy", 3, True),
        ("cross_entropy", 2, True),
    ]
    assert [one.draw for one in plan.candidates[2:]] == [
        {"student.width": 0.5, "optimizer.lr": 0.04},
        {"student.width": 0.5, "optimizer.lr": 0.03},
    ]
    assert plan.trials == [{"distil": 2, "cross_entropy": 0}]
    assert state.trials[3].draw["student.width"] == 1.0


@pytest.mark.parametrize(
    ("top", "own", "moved", "expected"),
    [
        (3, [0.5], [0.7, 0.9, 0.6], [(1, False), (3, True), (2, True)]),  # one trial, with bad luck, is not all it has
        (3, [0.5, 0.4, 0.3], [0.7, 0.9], [(1, False), (2, False), (5, True)]),  # wider students look better
        (3, [0.9, 0.6, 0.8], [0.7], [(1, False), (3, False), (4, True)]),
        (3, [0.9, 0.6, 0.8], [0.5], [(1, False), (3, False), (2, False)]),
        (2, [0.9, 0.8], [0.8], [(1, False), (2, False)]),  # of equals its own
        (2, [0.5, 0.4], [0.9, 0.8], [(1, False), (3, True)]),
        (1, [0.5, 0.6], [0.9, 0.8], [(2, False), (3, True)]),  # one place would be a guess
        (1, [0.5], [0.4], [(1, False)]),
        (1, [], [0.4, 0.5], [(2, True)]),
    ],
)
def test_the_best_of_other_students_compete_and_never_take_more_than_half_of_the_places(
    top: int, own: list[float], moved: list[float], expected: list[tuple[int, bool]]
) -> None:
    control = [(0.5, 6, value) for value in own] + [(1.0, 6, value) for value in moved]
    plan = plan_of(search_state(distil=[(0.5, 6, 0.9)], cross_entropy=control), top)
    assert [(one.trial, one.moved) for one in plan.candidates if one.arm == "cross_entropy"] == expected
    assert {one.draw["student.width"] for one in plan.candidates} == {0.5}
    assert plan.trials == [{"distil": 1, "cross_entropy": len(own)}]


def test_the_leading_arm_may_borrow_too() -> None:
    """Where widths are a continuous range it has its best one's student once; one candidate against three is unfair."""
    state = search_state(distil=[(0.5, 6, 0.9), (0.25, 6, 0.8), (1.0, 6, 0.7)])
    assert [(one.trial, one.moved) for one in plan_of(state).candidates] == [(0, False), (1, True)]


def test_a_configuration_that_an_arm_has_at_the_student_is_not_moved_there_too() -> None:
    state = search_state(distil=[(0.5, 6, 0.9)], cross_entropy=[(0.5, 6, 0.7), (1.0, 6, 0.9), (1.0, 6, 0.8)])
    state.trials[2].draw["optimizer.lr"] = state.trials[1].draw["optimizer.lr"]
    candidates = plan_of(state, 3).candidates
    assert [(one.trial, one.moved) for one in candidates[1:]] == [(1, False), (3, True)]


def test_configurations_that_differ_in_what_is_inert_are_one() -> None:
    space = Space(SPACE.template | {"objective": HINTON})
    state = search_state(distil=[(0.5, 6, 0.9), (0.5, 6, 0.8), (0.5, 6, 0.7)])
    for trial, (alpha, temperature) in zip(state.trials.values(), [(0.0, 1.0), (0.0, 4.0), (0.5, 4.0)], strict=True):
        trial.draw |= {"objective.alpha": alpha, "objective.temperature": temperature, "optimizer.lr": 0.1}
    assert [one.trial for one in plan_of(state, distil=space).candidates] == [0, 2]


def test_configurations_that_moving_makes_equal_are_one() -> None:
    state = search_state(distil=[(0.5, 6, 0.9)] * 2, cross_entropy=[(0.25, 6, 0.7), (1.0, 6, 0.6), (1.0, 6, 0.5)])
    state.trials[3].draw["optimizer.lr"] = state.trials[2].draw["optimizer.lr"]
    assert [one.trial for one in plan_of(state).candidates] == [0, 1, 2, 4]


def test_a_student_of_another_kind_is_moved_with_all_its_parameters() -> None:
    """A choice of sections: the other kind's parameters have other names, and do not stay behind."""
    space = Space(
        {
            "student": Choice(
                options=[
                    {"name": "narrow", "width": FloatRange(bounds=[0.1, 1.0])},
                    {"name": "deep", "depth": FloatRange(bounds=[1.0, 9.0])},
                ]
            ),
            "objective": {"name": "cross_entropy"},
            "students_of": FloatRange(bounds=[0.0, 1.0]),  # only begins like it
        }
    )
    state = search_state(distil=[(0.5, 6, 0.9)], cross_entropy=[(0.5, 6, 0.8)])
    state.trials[0].draw = {"student": "narrow", "student[narrow].width": 0.3, "students_of": 0.1}
    state.trials[1].draw = {"student": "deep", "student[deep].depth": 4.0, "students_of": 0.2}
    plan = plan_of(state, distil=space, cross_entropy=space)
    assert plan.candidates[1].draw == {"student": "narrow", "student[narrow].width": 0.3, "students_of": 0.2}


def test_an_arm_without_any_figure_has_no_candidates() -> None:
    state = search_state(distil=[(0.5, 6, 0.9)], cross_entropy=[(0.25, 6, 0.8)])
    state.trials[1].end = "diverged"
    assert [(one.arm, one.trial) for one in plan_of(state).candidates] == [("distil", 0)]


def test_all_students_are_those_that_every_arm_has() -> None:
    state = search_state(
        distil=[(0.25, 6, 0.8), (0.5, 6, 0.9), (1.0, 6, 0.95)], cross_entropy=[(0.5, 6, 0.8), (0.25, 6, 0.7)]
    )
    plan = plan_of(state, all_students=True)
    assert [section["width"] for section in plan.students] == [0.5, 0.25]
    assert [(one.student, one.arm) for one in plan.candidates if not one.moved] == [
        (0, "distil"),
        (0, "cross_entropy"),
        (1, "distil"),
        (1, "cross_entropy"),
    ]


def test_without_a_distilled_arm_the_first_arm_leads() -> None:
    plan = plan_of(search_state(cross_entropy=[(0.5, 6, 0.8)]))
    assert [candidate.arm for candidate in plan.candidates] == ["cross_entropy"]


def test_without_a_figure_there_is_nothing_to_train() -> None:
    state = search_state(distil=[(0.5, 6, 0.8)])
    state.trials[0].end = "diverged"
    assert plan_of(state).candidates == []


def test_a_configuration_that_was_drawn_twice_is_trained_once() -> None:
    state = search_state(distil=[(0.5, 6, 0.9), (0.5, 6, 0.8), (0.5, 6, 0.7)])
    state.trials[1].draw = dict(state.trials[0].draw)
    assert [candidate.trial for candidate in plan_of(state).candidates] == [0, 2]


def test_the_searchs_maximum_is_shown_raw_and_shrunken() -> None:
    state = search_state(distil=[(0.5, 6, 0.9), (0.5, 6, 0.8), (0.5, 2, 0.5)])
    for number, (even, odd) in enumerate([(0.95, 0.85), (0.7, 0.9), (0.5, 0.5)]):
        state.trials[number].rows[state.trials[number].epoch] |= {"val_accuracy_even": even, "val_accuracy_odd": odd}
    trials = trials_of_student(ranked(state.of_arm("distil")), SPACE, {"name": "studentnet", "width": 0.5})
    assert search_maxima(trials) == (0.9, pytest.approx((0.85 + 0.7) / 2))
    assert search_maxima(ranked(search_state(distil=[(0.5, 6, 0.9)]).of_arm("distil"))) == (0.9, None)
    assert search_maxima([]) == (None, None)


def test_a_student_is_described_on_a_line() -> None:
    assert describe({"name": "studentnet", "width": 0.5}) == "studentnet width=0.5"
    assert describe({"name": "studentnet"}) == "studentnet"


def test_a_plan_says_of_which_search_it_is() -> None:
    plan = plan_of(search_state(distil=[(0.5, 6, 0.9)] * 3), all_students=True)
    assert (plan.search_trials, plan.all_students) == (3, True)


def test_trials_that_came_after_the_plan_are_no_rivals_of_its_candidates() -> None:
    plan = plan_of(search_state(distil=[(0.5, 6, 0.8), (0.5, 6, 0.9)]))
    later = search_state(distil=[(0.5, 6, 0.8), (0.5, 6, 0.9), (0.5, 6, 0.99)])
    assert [trial.number for trial in rivals(later, SPACE, plan, plan.candidates[0])] == [1, 0]
