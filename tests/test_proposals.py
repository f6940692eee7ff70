"""Proposals, one suite over SAMPLERS: in the space, new, a function of seed and history; and what samplers are told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState as OptunaState

from kd_tune.config import SamplerConfig
from kd_tune.proposals import SAMPLERS, propose
from kd_tune.ranges import Choice, FloatRange, IntRange
from kd_tune.run_state import TrialState
from kd_tune.space import Draw, Space, contains
from kd_tune.studies import comparable_values, highest_rung, most_telling, study_of, told_as_they_ended, told_at
from tests.test_space import FINITE_TRIALS, TRIALS, count_cells, space_of

SPACE = Space(
    {
        "student": {"name": "studentnet", "width": Choice(options=[0.5, 1.0])},
        "objective": Choice(
            options=[{"name": "hinton", "alpha": FloatRange(bounds=[0.0, 1.0])}, {"name": "cross_entropy"}]
        ),
        "optimizer": {"name": "sgd", "lr": FloatRange(bounds=[1e-3, 1e-1], log=True)},
    }
)
# 2 x (5 + 1) cells, of which a float's step has no exact binary form.
FINITE = Space(
    {
        "student": {"name": "studentnet", "depth": IntRange(bounds=[1, 2])},
        "objective": Choice(
            options=[{"name": "hinton", "alpha": FloatRange(bounds=[0.1, 0.5], step=0.1)}, {"name": "cross_entropy"}]
        ),
    }
)
RANDOM, TPE = SamplerConfig(name="random"), SamplerConfig(num_startup_trials=3)
RUNG_TPE = SamplerConfig(name="rung_tpe", num_results=3)

every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def config_of(name: str, **settings: Any) -> SamplerConfig:
    """A sampler that learns from its third trial on."""
    return SamplerConfig(name=name, num_startup_trials=3, num_results=3, **settings)  # type: ignore[arg-type]


def trial(number: int, draw: Draw, values: list[float | None], end: Any, **facts: Any) -> TrialState:
    """A trial with these values from epoch 1 on."""
    rows = {epoch: {"val_accuracy": value, "epoch": epoch} for epoch, value in enumerate(values, start=1)}
    return TrialState(number, "distil", draw, rows=rows, end=end, **facts)


def drawn(space: Space, *arguments: Any, **options: Any) -> Draw:
    draw = propose(space, *arguments, **options)
    assert draw is not None
    return draw


def history(space: Space, length: int, goodness: Callable[[Draw], float] = lambda draw: 0.5) -> list[TrialState]:
    """Trials of two epochs, of which the fourth is still running."""
    trials: list[TrialState] = []
    for index in range(length):
        draw = propose(space, trials, RANDOM, seed=index)
        if draw is None:
            break
        value = goodness(draw)
        trials.append(trial(index, draw, [value, value], None if index == 3 else ["completed", "pruned"][index % 2]))
    return trials


def small_rates(length: int) -> list[TrialState]:
    """Trials of which small rates did well."""
    return history(SPACE, length, lambda draw: 1 + math.log10(draw["optimizer.lr"]) / -4)


def test_every_sampler_can_be_named_in_a_file() -> None:
    assert set(SAMPLERS) == set(get_args(SamplerConfig.model_fields["name"].annotation))


@every_sampler
def test_a_proposal_follows_from_seed_and_history_alone(name: str) -> None:
    space = FINITE if name == "grid" else SPACE
    past = history(space, 8)
    first = drawn(space, past, config_of(name), seed=5)
    assert first == propose(space, past, config_of(name), seed=5)
    assert name == "grid" or first != propose(space, past, config_of(name), seed=6)


@given(trial=TRIALS, seed=st.integers(0, 2**31), length=st.integers(0, 5), multivariate=st.booleans())
@pytest.mark.parametrize("name", ["tpe", "rung_tpe", "random"])
def test_every_proposal_lies_in_its_space(
    name: str, trial: dict[str, Any], seed: int, length: int, multivariate: bool
) -> None:
    space = space_of(trial)
    config = config_of(name, multivariate=multivariate, constant_liar=multivariate)
    draw = propose(space, history(space, length), config, seed)
    if draw is not None:
        assert space.problems_of(draw) == []
        assert list(space.active(draw)) == list(draw)
        assert all(contains(leaf, draw[parameter]) for parameter, leaf in space.active(draw).items())


@settings(max_examples=15)
@given(trial=FINITE_TRIALS, seed=st.integers(0, 2**31))
@every_sampler
def test_a_finite_space_is_tried_whole_without_a_repetition(name: str, trial: dict[str, Any], seed: int) -> None:
    space = space_of(trial)
    size = count_cells(space.template)
    assume(size <= 6)
    trials: list[TrialState] = []
    while (draw := propose(space, trials, config_of(name), seed)) is not None:
        trials.append(TrialState(len(trials), "distil", draw, rows={1: {"val_accuracy": 0.5}}, end="completed"))
    assert len(trials) == len({repr(sorted(done.draw.items())) for done in trials}) == size


@every_sampler
def test_the_last_cell_is_found_and_a_step_is_the_same_number_however_it_was_drawn(name: str) -> None:
    cells = FINITE.grid()
    for left in (4, 11):
        trials = [trial(i, cell, [0.5], "completed") for i, cell in enumerate(cells) if i != left]
        assert propose(FINITE, trials, config_of(name), seed=0) == cells[left]


@every_sampler
def test_a_draw_may_be_repeated_after_a_failure_only(name: str) -> None:
    space = Space({"a": Choice(options=[1])})
    for end in ("completed", "pruned", "diverged", None):
        assert propose(space, [trial(0, {"a": 1}, [0.5], end)], config_of(name), seed=0) is None
    assert propose(space, [trial(0, {"a": 1}, [0.5], "failed")], config_of(name), seed=0) == {"a": 1}


def test_options_that_python_calls_equal_are_different_draws() -> None:
    space = Space({"a": Choice(options=[1, 1.0, True])})
    assert repr(propose(space, [trial(0, {"a": 1}, [], None), trial(1, {"a": 1.0}, [], None)], RANDOM, 0)) == (
        "{'a': True}"
    )


def test_draws_of_one_canonical_form_are_one() -> None:
    def canonical(draw: Draw) -> Draw:
        return draw | {"b": 1} if draw["a"] == 0 else draw

    space = Space({"a": Choice(options=[0, 1]), "b": Choice(options=[1, 2])})
    trials: list[TrialState] = []
    while (draw := propose(space, trials, RANDOM, len(trials), canonical=canonical)) is not None:
        trials.append(trial(len(trials), draw, [], None))
    assert sorted(tuple(done.draw.values()) for done in trials) == [(0, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize("name", ["tpe", "rung_tpe", "random"])
def test_given_parameters_are_kept_and_the_rest_is_drawn(name: str) -> None:
    given = {"optimizer.lr": 0.0123, "objective": "hinton"}
    for seed in range(5):
        past = history(SPACE, 6)
        draw = drawn(
            SPACE, past, config_of(name), seed, accept=lambda draw: draw["optimizer.lr"] == 0.0123, given=given
        )
        assert draw.items() >= given.items()
        assert "objective[hinton].alpha" in draw


def test_a_model_draws_the_rest_of_what_is_given() -> None:
    """The objective's first option is accepted alone, and never proposed: it was bad. Its rate is where it was best."""
    rates = [10.0 ** (-3 + index / 10) for index in range(30)]
    draws = [{"objective": option, "lr": rate} for rate in rates for option in ("a", "b")]
    space = Space({"objective": Choice(options=["a", "b"]), "lr": FloatRange(bounds=[1e-3, 1.0], log=True)})

    def value(draw: Draw) -> float:
        return (draw["objective"] == "b") - abs(math.log10(draw["lr"] / 0.01)) / 10

    past = [trial(number, draw, [value(draw)], "completed") for number, draw in enumerate(draws)]
    accepted = [
        drawn(space, past, TPE, seed, accept=lambda draw: draw["objective"] == "a", given={"objective": "a"})
        for seed in range(20)
    ]
    near = [draw for draw in accepted if 0.003 < draw["lr"] < 0.03]
    assert len(near) >= 16, "a third of the range: at random, 7 of 20"


@every_sampler
def test_a_condition_is_met_or_nothing_is_proposed(name: str) -> None:
    space = FINITE if name == "grid" else SPACE
    past = history(space, 3)
    accepted = drawn(space, past, config_of(name), 0, accept=lambda draw: draw["objective"] == "cross_entropy")
    assert accepted["objective"] == "cross_entropy"
    assert propose(space, past, config_of(name), 0, accept=lambda draw: False) is None


def test_a_start_is_tried_once_and_what_it_leaves_out_is_drawn() -> None:
    whole = {"student.width": 0.5, "optimizer.lr": 0.01, "objective": "cross_entropy"}
    assert drawn(SPACE, [], TPE, 0, start=whole) == whole
    other = drawn(SPACE, [trial(0, whole, [0.5], "completed")], TPE, 0, start=whole)
    assert other["optimizer.lr"] != 0.01
    part = drawn(SPACE, [], TPE, 0, start={"optimizer.lr": 0.01, "objective": "hinton"})
    assert part["optimizer.lr"] == 0.01
    assert 0 <= part["objective[hinton].alpha"] <= 1


def test_a_condition_goes_before_a_wish() -> None:
    wish = {"student.width": 0.5, "optimizer.lr": 0.01}
    refused = drawn(SPACE, [], TPE, 0, start=wish, accept=lambda draw: draw["student.width"] == 1.0)
    assert refused["optimizer.lr"] != 0.01


@pytest.mark.parametrize("multivariate", [False, True])
@pytest.mark.parametrize("name", ["tpe", "rung_tpe"])
def test_a_model_learns_from_history(name: str, multivariate: bool) -> None:
    past, config = small_rates(30), config_of(name, multivariate=multivariate)
    proposed = [drawn(SPACE, past, config, seed)["optimizer.lr"] for seed in range(20)]
    blind = [drawn(SPACE, [], config, seed)["optimizer.lr"] for seed in range(20)]
    # Small rates were best; the medians of 20 draws differ by far more than chance allows (a factor above 2).
    assert sorted(proposed)[10] * 2 < sorted(blind)[10]


@pytest.mark.parametrize("name", ["tpe", "rung_tpe"])
def test_what_earlier_runs_tried_is_learnt_from_and_may_be_tried_again(name: str) -> None:
    past = small_rates(12)
    assert propose(SPACE, [], config_of(name), 1, known=past) == propose(SPACE, past, config_of(name), 1)
    space = Space({"a": Choice(options=[1])})
    assert propose(space, [], config_of(name), 0, known=[trial(0, {"a": 1}, [0.5], "completed")]) == {"a": 1}


@pytest.mark.parametrize("name", ["tpe", "rung_tpe"])
def test_failed_trials_teach_nothing(name: str) -> None:
    past = small_rates(8)
    failed = [*past, trial(8, {**past[0].draw, "optimizer.lr": 0.1}, [0.9, 0.9], "failed")]
    assert propose(SPACE, failed, config_of(name), seed=1) == propose(SPACE, past, config_of(name), seed=1)


@pytest.mark.parametrize("name", ["tpe", "rung_tpe"])
def test_running_trials_are_shown_to_a_liar_alone(name: str) -> None:
    past = small_rates(12)
    near = drawn(SPACE, past, config_of(name), seed=1)
    running = [
        *past,
        *(trial(12 + i, {**near, "optimizer.lr": near["optimizer.lr"] * (1 + i / 99)}, [], None) for i in range(1, 9)),
    ]
    assert propose(SPACE, running, config_of(name), seed=1) == near
    assert propose(SPACE, running, config_of(name, constant_liar=True), seed=1) != near


def test_pruned_completed_and_running_trials_are_told_as_such() -> None:
    trials = [
        trial(0, {}, [0.1, 0.2], "pruned"),
        trial(1, {}, [0.3, 0.4], "completed"),
        trial(2, {}, [0.5], None),
        trial(3, {}, [0.6], "failed"),
    ]
    pruned, completed, running = told_as_they_ended(trials, with_running=True)
    assert (pruned.state, pruned.value, pruned.values) == (OptunaState.PRUNED, None, {1: 0.1, 2: 0.2})
    assert (completed.state, completed.value) == (OptunaState.COMPLETE, 0.4)
    assert running.state == OptunaState.RUNNING
    assert told_as_they_ended(trials, with_running=False) == [pruned, completed]


def test_a_trial_that_was_spared_is_told_as_pruned_where_it_would_have_been() -> None:
    """Else it would rank above better trials, which had to stop."""
    for end in ("completed", None):
        spared = trial(0, {}, [0.1, 0.2, 0.3], end, never_pruned=True, spared_at=2)
        (told,) = told_as_they_ended([spared], with_running=False)
        assert (told.state, told.values) == (OptunaState.PRUNED, {1: 0.1, 2: 0.2})
    (told,) = told_as_they_ended([trial(0, {}, [0.1, 0.2], "completed", never_pruned=True)], with_running=False)
    assert told.state == OptunaState.COMPLETE


def test_a_diverged_trial_ranks_below_all_others_however_late_it_diverged() -> None:
    """Optuna ranks pruned trials by their last epoch first: told at its own, the diverged one would be the best."""
    diverged = trial(0, {"x": 0.1}, [0.9] * 8 + [None], "diverged")
    pruned = [trial(i, {"x": 0.9}, [0.1], "pruned") for i in range(1, 4)]
    space = Space({"x": FloatRange(bounds=[0.0, 1.0])})
    for told in (told_as_they_ended([diverged, *pruned], False), told_at(1, [diverged, *pruned], False)):
        study = study_of(space, told, TPESampler(seed=0))
        below, _ = _split_trials(study, study.trials, 3)
        assert [kept.params["x"] for kept in below] == [0.9] * 3


@given(
    ends=st.lists(
        st.tuples(
            st.sampled_from(["completed", "pruned", "diverged", None]),
            st.lists(st.floats(0, 1), min_size=1, max_size=4),
        ),
        max_size=40,
    ),
    most=st.integers(1, 40),
)
def test_of_a_long_history_the_best_and_the_newest_are_told(
    ends: list[tuple[str | None, list[float]]], most: int
) -> None:
    """Those that Optuna itself takes for the best are in it."""
    trials = [trial(number, {"x": number}, [*values], end) for number, (end, values) in enumerate(ends)]
    told = told_as_they_ended(trials, with_running=True)
    kept = most_telling(told, most)
    assert len(kept) == min(most, len(told))
    assert [one for one in told if one in kept] == kept
    study = study_of(Space({"x": IntRange(bounds=[0, 40])}), told, TPESampler(seed=0))
    finished = [one for one in study.trials if one.state.is_finished()]
    best, _ = _split_trials(study, finished, min(most // 4, len(finished)))
    assert {one.params["x"] for one in best} <= {one.draw["x"] for one in kept}
    assert not told or told[-1] in kept


def test_a_rung_is_told_at_its_own_epoch() -> None:
    trials = [
        trial(0, {}, [0.1, 0.2, 0.3], "completed"),
        trial(1, {}, [0.4, 0.5], None),
        trial(2, {}, [0.6], "pruned"),
        trial(3, {}, [0.7], None),
        trial(4, {}, [0.8, 0.8, None], "diverged"),
        trial(5, {}, [0.9, 0.9], "failed"),
    ]
    assert [highest_rung(trials, count) for count in (1, 2, 3, 4, 5)] == [3, 2, 1, 1, None]
    told = told_at(2, trials, with_running=True)
    assert [(one.state.name, one.value) for one in told] == [
        ("COMPLETE", 0.2),
        ("COMPLETE", 0.5),
        ("RUNNING", None),
        ("PRUNED", None),
    ]
    assert len(told_at(2, trials, with_running=False)) == 3


def test_without_enough_results_at_a_rung_proposals_are_random() -> None:
    past = small_rates(2)
    assert propose(SPACE, past, RUNG_TPE, seed=4) == propose(SPACE, past, RANDOM, seed=4)
    assert propose(SPACE, small_rates(9), RUNG_TPE, seed=4) != propose(SPACE, small_rates(9), RANDOM, seed=4)


def test_values_are_standardised_within_stratum_and_epoch() -> None:
    trials = [
        trial(0, {}, [0.1, 0.5], None),
        trial(1, {}, [0.3], None),
        trial(2, {}, [0.7, 0.9], None, stratum=1),
        trial(3, {}, [0.7, None], None, stratum=1),
    ]
    assert comparable_values(trials) == [
        {1: pytest.approx(-1.0), 2: 0.0},  # mean 0.2, deviation 0.1; alone at epoch 2
        {1: pytest.approx(1.0)},
        {1: 0.0, 2: 0.0},  # no spread
        {1: 0.0},
    ]
    for one in trials:
        one.stratum = 1
    assert comparable_values(trials)[0] == {1: 0.1, 2: 0.5}, "one stratum needs no scale"


@pytest.mark.parametrize("name", ["tpe", "rung_tpe"])
def test_no_stratum_is_preferred_for_what_all_its_trials_have_in_common(name: str) -> None:
    """It is without effect; in a single stratum the same shift is not."""

    def proposals(gain: float, num_strata: int) -> list[Draw]:
        past = small_rates(20)
        for one in past:
            small = one.draw["student.width"] == 0.5
            one.stratum = int(small and num_strata == 2)
            for row in one.rows.values():
                row["val_accuracy"] += gain * small
        return [drawn(SPACE, past, config_of(name), seed) for seed in range(5)]

    assert proposals(0.0, num_strata=2) == proposals(4.0, num_strata=2)
    assert proposals(0.0, num_strata=1) != proposals(4.0, num_strata=1)
