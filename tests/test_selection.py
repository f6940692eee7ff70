"""Which trials take part in a confirmation, and what they are compared as."""

from __future__ import annotations

from typing import Any

import pytest

from kd_tune.candidates import make_plan, rivals
from kd_tune.cli import parse_values
from kd_tune.confirm import Request
from kd_tune.errors import ConfigError
from kd_tune.ranges import Choice, FloatRange
from kd_tune.retraining import trainings_by_arm
from kd_tune.run_state import RunState, TrialState
from kd_tune.selection import Selection
from kd_tune.space import Space
from tests.confirmations import search_state

STUDENT = {"name": "studentnet", "width": Choice(options=[0.25, 0.5])}
OPTIMIZER = {"name": "sgd", "lr": Choice(options=[0.1, 0.01])}
DISTIL = Space(
    {
        "student": STUDENT,
        "objective": {
            "name": "hinton",
            "alpha": Choice(options=[0.5, 0.0, 1.0]),
            "temperature": Choice(options=[1.0, 4.0]),
        },
        "optimizer": OPTIMIZER | {"weight_decay": FloatRange(bounds=[0.0, 1.0])},
    }
)
CONTROL = Space({"student": STUDENT, "objective": {"name": "cross_entropy"}, "optimizer": OPTIMIZER})
SPACES = {"distil": DISTIL, "cross_entropy": CONTROL}


def drawn(alpha: float, temperature: float = 4.0, lr: float = 0.1, width: float = 0.5) -> dict[str, Any]:
    return {
        "student.width": width,
        "objective.alpha": alpha,
        "objective.temperature": temperature,
        "optimizer.lr": lr,
        "optimizer.weight_decay": 0.1,
    }


def state_of(*draws: dict[str, Any], controls: int = 0) -> RunState:
    """A search whose distilled trials have these draws, each better than the one before; controls have lr 0.01."""
    values = [(0.5, 6, 0.5 + number / 100) for number in range(len(draws))]
    state = search_state(distil=values, **({"cross_entropy": values[:controls]} if controls else {}))
    for trial, draw in zip(state.trials.values(), draws, strict=False):
        trial.draw = draw
    for trial in state.of_arm("cross_entropy"):
        trial.draw = {"student.width": 0.5, "optimizer.lr": 0.01}
    return state


def models_of(state: RunState, selection: Selection) -> list[tuple[str, int]]:
    plan = make_plan(state, SPACES, selection, 3, seed=0)
    return [(one.model, one.trial) for one in plan.candidates]


def test_values_are_compared_in_the_order_of_the_search_file() -> None:
    state = state_of(drawn(1.0), drawn(0.0, lr=0.01), drawn(0.5), drawn(0.0))
    assert models_of(state, Selection(1, by="objective.alpha")) == [("alpha=0.5", 2), ("alpha=0", 3), ("alpha=1", 0)]


def test_every_value_has_its_best_few_trials() -> None:
    state = state_of(drawn(1.0), drawn(0.0, lr=0.01), drawn(0.0), drawn(1.0, lr=0.01))
    expected = [("alpha=0", 2), ("alpha=0", 1), ("alpha=1", 3), ("alpha=1", 0)]
    assert models_of(state, Selection(2, by="objective.alpha")) == expected


def test_an_arm_without_the_parameter_takes_part_as_itself() -> None:
    state = state_of(drawn(1.0), drawn(0.5), controls=1)
    expected = [("alpha=0.5", 1), ("alpha=1", 0), ("cross_entropy", 2)]
    assert models_of(state, Selection(1, by="objective.alpha")) == expected


def test_an_arm_that_has_the_parameter_too_takes_part_as_itself() -> None:
    """Its values are no rivals of the leading arm's: their losses are others."""
    state = state_of(drawn(1.0), drawn(0.5, lr=0.01), controls=2)
    selection = Selection(2, by="optimizer.lr")
    assert models_of(state, selection) == [
        ("lr=0.1", 0),
        ("lr=0.01", 1),
        ("cross_entropy", 3),
    ]
    plan = make_plan(state, SPACES, selection, 3, seed=0)
    assert trainings_by_arm(plan) == {"distil": 6, "cross_entropy": 3}
    assert [len(rivals(state, SPACES[one.arm], plan, one)) for one in plan.candidates] == [1, 1, 2]


def test_only_trials_with_the_wanted_values_are_candidates() -> None:
    state = state_of(drawn(1.0), drawn(0.5, lr=0.01), drawn(0.5, temperature=1.0), drawn(0.5))
    assert models_of(state, Selection(9, where={"objective.alpha": 0.5})) == [
        ("distil", 3),
        ("distil", 2),
        ("distil", 1),
    ]
    wanted = {"objective.alpha": 0.5, "objective.temperature": 4.0, "optimizer.lr": 0.01}
    assert models_of(state, Selection(9, where=wanted)) == [("distil", 1)]


def test_an_arm_without_a_wanted_parameter_is_not_asked() -> None:
    state = state_of(drawn(0.5), drawn(1.0), controls=1)
    assert models_of(state, Selection(1, where={"objective.alpha": 0.5})) == [("distil", 0), ("cross_entropy", 2)]
    assert models_of(state, Selection(1, where={"optimizer.lr": 0.1})) == [("distil", 1)]


def test_a_parameter_without_effect_has_every_value() -> None:
    state = state_of(drawn(0.0, temperature=1.0), drawn(0.5, temperature=1.0), drawn(1.0, temperature=4.0))
    expected = [("alpha=0", 0), ("alpha=1", 2)]
    assert models_of(state, Selection(1, by="objective.alpha", where={"objective.temperature": 4.0})) == expected


def test_a_branch_without_the_parameter_takes_no_part() -> None:
    branches = [{"name": "hinton", "alpha": Choice(options=[0.0, 1.0]), "temperature": 4.0}, {"name": "cross_entropy"}]
    space = Space({"student": STUDENT, "objective": Choice(options=branches)})
    selection = Selection(1, by="objective[hinton].alpha")
    draws = [
        {"student.width": 0.5, "objective": "hinton", "objective[hinton].alpha": 1.0},
        {"student.width": 0.5, "objective": "cross_entropy"},
    ]
    assert [selection.admits(TrialState(0, "distil", draw), space, "distil") for draw in draws] == [True, False]
    assert selection.model(TrialState(0, "distil", draws[0]), "distil") == "alpha=1"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(1, by="objective.alfa"), "--by objective.alfa: no such parameter; known: student.width,"),
        (Selection(1, by="student.width"), "--by student.width: is the student's, .*see --students all"),
        (Selection(1, by="optimizer.weight_decay"), "--by optimizer.weight_decay: a range without steps"),
        (Selection(1, where={"optimizer.rate": 1.0}), "--where optimizer.rate: no such parameter"),
        (Selection(1, where={"objective.alpha": 0.7}), "--where objective.alpha: 0.7 is not in"),
    ],
)
def test_what_no_trial_can_have_is_refused(selection: Selection, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(state_of(drawn(0.5), controls=1), SPACES, selection, 3, seed=0)


def test_values_on_the_command_line_are_yaml() -> None:
    assert parse_values(["optimizer.lr=1e-3", "teacher=vgg13_bn"]) == {"optimizer.lr": 0.001, "teacher": "vgg13_bn"}


@pytest.mark.parametrize("text", ["optimizer.lr", "=1", "optimizer.lr=[1"])
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--where "):
        parse_values([text])


def test_the_command_is_recorded_as_it_was_typed(tmp_path: Any) -> None:
    request = Request(1, 5, by="objective.alpha", where={"optimizer.lr": 0.1}, again=True)
    expected = "kd-tune confirm run --top 1 --seeds 5 --by objective.alpha --where optimizer.lr=0.1 --again"
    assert request.command(tmp_path / "run") == expected
