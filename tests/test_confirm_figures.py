"""What a confirmation has figures of, and what it says: pure functions of the search's and the retrainings' trials."""

from __future__ import annotations

import numpy as np
import pytest

from kd_tune import confirmation, plots
from kd_tune.confirm_figures import Answers, collect, make_figures
from kd_tune.confirmation import Plan
from kd_tune.manifest import versions
from kd_tune.retraining import trainings_of
from kd_tune.run_state import RunState
from tests.confirmations import SPACE, candidate, search_state, toy_confirmation, toy_plan
from tests.searches import toy_manifest


def retrained(plan: Plan, *ends: tuple[str, float]) -> RunState:
    """Trainings that ended so, in the order of their numbers; what is not said came to the end."""
    state = search_state(distil=[(0.5, 6, 0.8)] * len(trainings_of(plan)))
    for trial, (end, value) in zip(state.trials.values(), ends, strict=False):
        trial.end = end  # type: ignore[assignment]
        trial.rows[6]["val_accuracy"] = value
    return state


PLAN = toy_plan(candidate("distil", 10), candidate("distil", 11), candidate("cross_entropy", 12))
NO_CHOICE = "no configuration that was trained to the end with every seed"


def test_the_trainings_of_the_chosen_one_are_those_that_did_not_choose() -> None:
    values = [0.8, 0.9, 0.8, 0.9]
    chosen, left_out = collect(PLAN, retrained(PLAN, *(("completed", value) for value in values)))
    assert [one.candidate.trial for one in chosen] == [11, 12]
    assert [[trial.number for trial in one.trainings] for one in chosen] == [[4, 6, 8], [5, 7, 9]]
    assert left_out == []


def test_an_arm_whose_chosen_one_is_not_trained_to_the_end_with_every_seed_has_no_figure() -> None:
    """It would be the mean of the seeds that went well."""
    state = retrained(PLAN)
    state.trials[7].end = "diverged"
    chosen, left_out = collect(PLAN, state)
    assert [one.candidate.trial for one in chosen] == [10]
    assert left_out == [
        "studentnet width=0.5: cross_entropy has no figure, because the configuration of trial 12 did not reach "
        "the end with every fresh seed"
    ]


def test_an_arm_without_a_trial_in_the_search_is_said_to_have_none() -> None:
    plan = toy_plan(candidate("distil", 10))
    plan.trials[0]["cross_entropy"] = 0
    assert collect(plan, retrained(plan))[1] == [
        "studentnet width=0.5: cross_entropy has no usable trial in the search"
    ]


def test_a_student_that_the_leading_arm_cannot_be_trained_at_is_left_out_with_its_controls() -> None:
    """Test images would be opened for a control that nothing can be compared with."""
    first = [candidate("distil", 0), candidate("distil", 1), candidate("cross_entropy", 2)]
    plan = toy_plan(*first, candidate("distil", 3, 1), candidate("cross_entropy", 4, 1))
    chosen, left_out = collect(plan, retrained(plan, ("diverged", 0.8), ("diverged", 0.8)))
    assert [(one.candidate.arm, one.candidate.student) for one in chosen] == [("distil", 1), ("cross_entropy", 1)]
    assert left_out == [f"studentnet width=0.5, all arms: distil has {NO_CHOICE}"]


@pytest.mark.parametrize(("values", "median"), [([0.7, 0.9, 0.8], 2), ([0.9, 0.7, 0.8, 0.6], 1), ([0.8, 0.8, 0.8], 1)])
def test_the_exported_seed_is_the_lower_median(values: list[float], median: int) -> None:
    plan = toy_plan(candidate("distil", 0), num_seeds=len(values))
    ((one,), _) = collect(plan, retrained(plan, *(("completed", value) for value in values)))
    assert one.median.number == median


def test_figures_compare_distillation_with_every_control_at_the_same_student() -> None:
    arms = [("distil", 0), ("cross_entropy", 0), ("label_smoothing", 0), ("distil", 1), ("cross_entropy", 1)]
    plan = toy_plan(*(candidate(arm, number, student) for number, (arm, student) in enumerate(arms)))
    search = search_state(**{arm: [(0.5, 6, 0.9), (0.25, 6, 0.8)] for arm in dict(arms)})
    chosen, left_out = collect(plan, retrained(plan))
    answers = answers_of(0.95, 0.6, 0.95, 0.9, 0.9)
    spaces = dict.fromkeys(search.quota, SPACE)
    found = make_figures(search, spaces, toy_manifest(), plan, chosen, left_out, answers, {"all": ["no", "yes"]})
    assert [(one.student, one.second) for one in found.comparisons] == [
        ("studentnet width=0.5", "cross_entropy"),
        ("studentnet width=0.5", "label_smoothing"),
        ("studentnet width=0.25", "cross_entropy"),
    ]
    beaten, equal, _ = found.comparisons
    assert beaten.sentence(3).startswith("distil beats cross_entropy by 3")
    assert equal.sentence(3).startswith("not decidable whether distil or label_smoothing is better")
    assert [arm.search_maximum for arm in found.arms] == [0.9, 0.9, 0.9, 0.8, 0.8]
    assert found.arms[0].test_accuracies == answers.right[0].mean(1).tolist()
    assert (found.teacher, found.class_groups) == ("sage", {"all": ["no", "yes"]})
    assert found.versions == versions(), "the search may have been made by other ones"


def test_values_of_a_parameter_are_compared_each_with_all_before_it() -> None:
    rivals = [candidate("distil", number).model_copy(update={"model": f"alpha={number}"}) for number in range(3)]
    plan = toy_plan(*rivals, top=1).model_copy(
        update={"by": "student.width", "trials": [{f"alpha={n}": 1 for n in range(3)}]}
    )
    search = search_state(distil=[(0.5, 6, 0.9)])
    chosen, _ = collect(plan, retrained(plan))
    answers = answers_of(0.6, 0.9, 0.9)
    found = make_figures(search, {"distil": SPACE}, toy_manifest(), plan, chosen, [], answers, None)
    assert [(one.first, one.second) for one in found.comparisons] == [
        ("alpha=1", "alpha=0"),
        ("alpha=2", "alpha=0"),
        ("alpha=2", "alpha=1"),
    ]
    assert found.comparisons[0].sentence(3).startswith("alpha=1 beats alpha=0 by ")
    assert [arm.export for arm in found.arms] == ["alpha_0_1", "alpha_1_1", "alpha_2_1"]
    assert confirmation.findings(found)[0] == f"{found.arms[0].student}: {found.comparisons[0].sentence(3)}"


def answers_of(*rates: float) -> Answers:
    """Of two classes: one configuration a rate, three seeds, 400 images whose right answer is the second class."""
    right = np.random.RandomState(0).random_sample((len(rates), 3, 400)) < np.reshape(rates, (-1, 1, 1))
    return Answers(np.stack([~right, right], -1).astype(np.float32), np.ones(400, int), "sage")


def test_what_no_control_was_compared_for_is_said() -> None:
    alone = toy_confirmation().model_copy(update={"comparisons": [], "search_arms": ["distil"]})
    assert confirmation.findings(alone) == ["no control: there is nothing to compare distillation with"]
    lost = alone.model_copy(update={"search_arms": ["distil", "cross_entropy"], "left_out": ["cross_entropy: why"]})
    assert confirmation.findings(lost) == ["left out: cross_entropy: why"]


def test_an_arm_that_the_search_never_had_at_the_student_has_empty_cells() -> None:
    found = toy_confirmation()
    moved = {"search_trials": 0, "search_maximum": None, "search_shrunken": None}
    found.arms[1] = found.arms[1].model_copy(update=moved)
    table = confirmation.shown_arms(found)
    assert table["trials in search"].tolist()[:2] == ["8", "0"]
    assert table[["maximum in search", "shrunken"]].to_numpy().tolist()[:2] == [["96.50%", "95.70%"], ["", ""]]
    (said,) = [line for line in confirmation.findings(found) if "moved" in line]
    assert said.startswith("studentnet width=0.5: the search has no trial of cross_entropy with it")
    assert plots.confirmed(confirmation.arms_table(found)).axes


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (9, []),
        (4, []),
        (3, ["3 trials of cross_entropy with it, but 9 of distil, so cross_entropy was tuned less there"]),
    ],
)
def test_a_control_that_was_tuned_far_less_than_its_rival_is_said_to_be(trials: int, expected: list[str]) -> None:
    """A handful of trials against many compares searches, not arms."""
    found = toy_confirmation()
    for place, count in enumerate((9, trials)):
        found.arms[place] = found.arms[place].model_copy(update={"search_trials": count})
    said = [line for line in confirmation.findings(found) if "tuned less" in line]
    assert [line.removeprefix("studentnet width=0.5: the search has ") for line in said] == expected


def test_a_configuration_that_another_student_lent_is_said_to_be_one() -> None:
    found = toy_confirmation()
    found.arms[1] = found.arms[1].model_copy(update={"moved": True})
    assert "studentnet width=0.5: cross_entropy did best with trial 1 of another student, moved to it" in (
        confirmation.findings(found)
    )


def test_a_control_that_wins_is_said_to_win() -> None:
    lost = toy_confirmation().comparisons[0].model_copy(update={"difference": -0.02, "low": -0.03, "high": -0.01})
    assert lost.sentence(3) == "cross_entropy beats distil by 2.00 points (1.00 to 3.00; p 0.01)"


def test_an_interval_without_0_beside_a_large_p_value_is_explained() -> None:
    """One is of this difference alone, the other adjusted for all of them: side by side they seem to disagree."""
    one = toy_confirmation().comparisons[0].model_copy(update={"low": 0.003, "high": 0.013, "p_value": 0.054})
    assert one.sentence(6) == (
        "not decidable whether distil or cross_entropy is better: the difference is +0.80 points (+0.30 to +1.30; "
        "p 0.054). The interval is of this difference alone, p is adjusted for 6 comparisons"
    )
    assert one.model_copy(update={"low": -0.001}).sentence(6).endswith("(-0.10 to +1.30; p 0.054)")
    found = toy_confirmation().model_copy(update={"comparisons": [one] * 2})
    assert confirmation.findings(found)[0].endswith("p is adjusted for 2 comparisons")


def test_trainings_that_came_to_nothing_are_told() -> None:
    found = toy_confirmation()
    assert not [line for line in confirmation.findings(found) if "trainings ended below" in line]
    fallen = found.arms[1].model_copy(update={"val_accuracies": [0.9, 0.1]})
    lines = confirmation.findings(found.model_copy(update={"arms": [found.arms[0], fallen]}))
    (line,) = [line for line in lines if "trainings ended below" in line]
    assert line.startswith(f"{fallen.student}, cross_entropy: 1 of 2 trainings ended below half of the best one's")
