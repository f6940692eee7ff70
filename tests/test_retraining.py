"""What a confirmation trains: a choice first, then figures on other seeds; the same whoever ends first or is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from kd_tune.confirm import retraining_file
from kd_tune.confirmation import Plan
from kd_tune.replay import MemoryRun
from kd_tune.retraining import (
    RetrainingProposer,
    best_candidate,
    groups_of,
    in_words,
    num_choosing,
    reported,
    trainings_of,
)
from kd_tune.run_state import Event
from kd_tune.search_file import Source, parse_search_file
from kd_tune.searcher import RunSearcher
from tests.confirmations import SPACE, candidate, toy_plan
from tests.searches import toy_search

DISTIL, CONTROL = (0, "distil"), (0, "cross_entropy")
PLAN = toy_plan(candidate("distil", 10), candidate("distil", 11), candidate("cross_entropy", 12))
End = tuple[str, float]


def begun(plan: Plan, past: Sequence[Event] = ()) -> MemoryRun:
    """A confirmation's run after these events, at its next launch."""
    run = MemoryRun()
    for event in past:
        run.record(**event)
    counts = {arm: sum(one.group[1] == arm for one in trainings_of(plan)) for _, arm in groups_of(plan)}
    run.record("started", quota=counts)
    return run


def searcher_of(run: MemoryRun, plan: Plan) -> RunSearcher:
    return RunSearcher(run, RetrainingProposer(run, plan, dict.fromkeys(run.state.quota, SPACE)))


def end(run: MemoryRun, number: int, outcome: End) -> None:
    reason, value = outcome
    row = {"val_accuracy": value, "num_parameters": 1000, "diverged": False}
    run.record("epoch", trial=number, attempt=0, epoch=6, **row)
    run.record("stopped", trial=number, reason=reason)


def train(run: MemoryRun, plan: Plan, outcome: Callable[[int], End], slots: int = 2, last: int = 0) -> None:
    """Trains all that is left on so many slots; of those that run, the one at `last` ends next."""
    searcher, running = searcher_of(run, plan), []
    while True:
        found: Any = searcher.suggest("") if len(running) < slots else None
        if isinstance(found, dict):
            running.append(found["number"])
        elif running:
            end(run, number := running.pop(last), outcome(number))
        else:
            assert found == Searcher.FINISHED, "it waits for nothing"
            return


def completed(number: int) -> End:
    return "completed", 0.5 + (37 * number % 11) / 100


# What is trained.


@pytest.mark.parametrize(("num_seeds", "expected"), [(2, 2), (3, 2), (4, 2), (5, 3), (10, 5)])
def test_a_choice_is_made_by_half_as_many_seeds_as_are_reported(num_seeds: int, expected: int) -> None:
    assert num_choosing(num_seeds) == expected


def test_no_training_that_chooses_is_reported_and_each_has_its_own_number() -> None:
    plan = toy_plan(*(candidate("distil", number) for number in range(3)), candidate("cross_entropy", 3), num_seeds=5)
    trainings = trainings_of(plan)
    assert [one.number for one in trainings] == list(range(3 * 3 + 5 + 5))
    assert [one.candidate for one in trainings[:9]] == [0, 1, 2] * 3
    assert reported(plan, DISTIL) == [9, 11, 13, 15, 17]
    assert reported(plan, CONTROL) == [10, 12, 14, 16, 18], "one that is alone has nothing to be chosen from"


def test_arms_are_chosen_and_reported_student_by_student() -> None:
    plan = toy_plan(*(candidate(arm, 0, student) for student in (0, 1) for arm in ("distil", "distil", "control")))
    assert groups_of(plan) == {(0, "distil"): [0, 1], (0, "control"): [2], (1, "distil"): [3, 4], (1, "control"): [5]}
    numbers = [number for group in groups_of(plan) for number in reported(plan, group)]
    assert sorted(numbers) == list(range(4 * num_choosing(3), 4 * num_choosing(3) + 4 * 3))


def test_the_run_of_a_confirmation_has_as_many_trials_as_trainings() -> None:
    file = retraining_file(parse_search_file(toy_search(), Source(Path("x.yaml"), {})), PLAN)
    assert file.search.trials_by_arm() == {"distil": 2 * 2 + 3, "cross_entropy": 3}
    assert file.search.seed == PLAN.seed


def test_a_person_is_told_of_both_rounds() -> None:
    figures = "2 configurations, one a model and student, are trained on 3 seeds for the figures"
    assert in_words(PLAN) == f"2 candidates are trained on 2 seeds for the choice; then {figures}"
    assert in_words(toy_plan(candidate("distil", 0), candidate("cross_entropy", 1))) == figures


# What is chosen.


def chosen_after(*outcomes: End | None) -> int | None:
    """The choice of the distilled arm when its four trainings that choose, by seed, ended so; None: runs on."""
    run = begun(PLAN)
    searcher = searcher_of(run, PLAN)
    for number, outcome in enumerate(outcomes):
        searcher.suggest("")
        if outcome:
            end(run, number, outcome)
    return best_candidate(PLAN, run.state, DISTIL)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (
            [("completed", 0.99), ("completed", 0.90), ("completed", 0.70), ("completed", 0.85)],
            1,
        ),  # the mean, not the best
        ([("completed", 0.8)] * 4, 0),
        ([("diverged", 0.9), ("completed", 0.8), ("completed", 0.9), ("completed", 0.8)], 1),
        ([("completed", 0.8), ("completed", 0.9), ("completed", 0.8), ("diverged", 0.9)], 0),
        ([("diverged", 0.9), ("completed", 0.9), ("completed", 0.9), ("diverged", 0.9)], None),
        ([("completed", 0.8), ("completed", 0.9), ("completed", 0.8), ("failed", 0.9)], None),  # nothing about it
        ([("completed", 0.9), ("completed", 0.8), ("completed", 0.9), None], None),
        ([("completed", 0.9), ("completed", 0.8), ("completed", 0.9)], None),
    ],
)
def test_the_best_mean_of_those_that_always_reached_the_end_is_chosen(
    outcomes: list[End | None], expected: int | None
) -> None:
    assert chosen_after(*outcomes) == expected


def test_one_that_is_alone_needs_no_choice() -> None:
    assert best_candidate(PLAN, begun(PLAN).state, CONTROL) == 2


# How it is proposed.


def test_what_needs_no_choice_is_trained_while_others_choose_and_then_the_chosen_one() -> None:
    run = begun(PLAN)
    searcher = searcher_of(run, PLAN)
    assert [searcher.suggest("")["number"] for _ in range(7)] == [0, 1, 2, 3, *reported(PLAN, CONTROL)]
    assert searcher.suggest("") is None, "Ray is to ask again"
    for number, value in enumerate((0.8, 0.9, 0.8, 0.9)):
        end(run, number, ("completed", value))
    assert [searcher.suggest("")["number"] for _ in range(3)] == reported(PLAN, DISTIL)
    assert searcher.suggest("") is None, "one that runs may break"
    proposed = [event for event in run.events if event["event"] == "proposed"]
    assert {event["confirms"] for event in proposed if event["trial"] in reported(PLAN, DISTIL)} == {11}
    assert [event["purpose"] for event in proposed] == ["choose"] * 4 + ["report"] * 6


@pytest.mark.parametrize(("slots", "last"), [(1, 0), (2, -1), (5, -1)])
def test_numbers_and_draws_do_not_depend_on_who_ends_first(slots: int, last: int) -> None:
    expected, other = begun(PLAN), begun(PLAN)
    train(expected, PLAN, completed)
    train(other, PLAN, completed, slots, last)
    assert other.state.trials == expected.state.trials


def test_a_confirmation_killed_at_any_moment_ends_as_if_it_had_not_been() -> None:
    whole = begun(PLAN)
    train(whole, PLAN, completed)
    assert len(whole.events) > 25
    for count in range(len(whole.events) + 1):
        going_on = begun(PLAN, whole.events[:count])
        train(going_on, PLAN, completed)
        assert going_on.state.trials == whole.state.trials
        assert going_on.state.num_missing() == 0


def test_an_arm_without_anything_to_choose_ends_early_and_the_others_go_on() -> None:
    """At one student no candidate of the arm comes through; the arm's other student is trained all the same."""
    of_first = [candidate("distil", 0), candidate("distil", 1), candidate("cross_entropy", 2)]
    plan = toy_plan(*of_first, candidate("distil", 3, 1), candidate("cross_entropy", 4, 1), top=2)
    run = begun(plan)
    train(run, plan, lambda number: ("diverged" if number < 2 else "completed", 0.8))
    assert run.state.quota == {"distil": 4 + 3, "cross_entropy": 6}
    assert not run.state.num_missing()
    assert not set(reported(plan, DISTIL)) & set(run.state.trials)
    (said,) = [event for event in run.events if event["event"] == "exhausted"]
    assert said["why"] == "at a student, no candidate was trained to the end with every seed"
    assert searcher_of(begun(plan, run.events), plan).suggest("") == Searcher.FINISHED


def test_what_failed_is_trained_again_under_its_number_before_the_choice_is_made() -> None:
    """The disk was full: the choice waits, the launch ends, and the next one comes to what had been without it."""
    undisturbed, run = begun(PLAN), begun(PLAN)
    train(undisturbed, PLAN, completed)
    train(run, PLAN, lambda number: ("failed", 0.1) if number in (1, 9) else completed(number))
    assert [trial.number for trial in run.state.failed()] == [1, 9]
    assert not set(reported(PLAN, DISTIL)) & set(run.state.trials), "one that needs number 1 is not proposed"
    (said,) = [event for event in run.events if event["event"] == "exhausted"]
    assert said["why"].startswith("a training that is needed for a choice failed")
    run = begun(PLAN, run.events)
    quota = {arm: sum(one.group[1] == arm for one in trainings_of(PLAN)) for _, arm in groups_of(PLAN)}
    run.record("reopened", trials=[1, 9], quota=quota)
    assert run.state.num_missing() == len(reported(PLAN, DISTIL)), "or Ray would be told that nothing is to come"
    train(run, PLAN, completed)
    ends = {number: (trial.draw, trial.end, trial.value) for number, trial in run.state.trials.items()}
    assert ends == {number: (trial.draw, trial.end, trial.value) for number, trial in undisturbed.state.trials.items()}
    assert not run.state.num_missing()
