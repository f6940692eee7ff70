"""How long trials will last: kd_tune's own rungs, played before a search."""

from __future__ import annotations

import json

import pytest

from kd_tune.arms import space_of_arm
from kd_tune.config import SchedulerConfig
from kd_tune.expected import Lengths, expected_epochs, expected_lengths, lengths_of_arm, trials_of_arm
from kd_tune.judges import SCHEDULERS
from kd_tune.search_file import SearchFile, Source, load_search_file, parse_search_file
from tests.searches import ROOT, toy_search

HALVING = SchedulerConfig(name="asha", grace_period=1, reduction_factor=2, never_pruned=0)
SHIPPED = ROOT / "search_spaces" / "cifar10.yaml"


def epochs(lengths: Lengths) -> float:
    return sum(length * count for length, count in lengths.items())


def parsed(**changes: object) -> SearchFile:
    return parse_search_file(toy_search(**changes), Source("toy.yaml", {}))


def test_of_two_trials_the_second_goes_on_half_of_the_time() -> None:
    lengths = expected_lengths(HALVING, num_epochs=2, num_trials=2)
    assert lengths == pytest.approx({1: 0.5, 2: 1.5}, abs=0.07)  # three standard errors of 500 orders


def test_a_sampler_that_learns_sends_more_trials_on() -> None:
    # The second is the better of two, so better than the first in two of three orders.
    lengths = expected_lengths(HALVING, num_epochs=2, num_trials=2, learns_after=1)
    assert lengths == pytest.approx({1: 1 / 3, 2: 5 / 3}, abs=0.07)


def test_trials_that_are_never_pruned_reach_the_end() -> None:
    lengths = expected_lengths(HALVING, num_epochs=8, num_trials=5, never_pruned=[True] * 5)
    assert lengths == {8: 5}
    some = expected_lengths(HALVING, num_epochs=8, num_trials=20, never_pruned=[False, False, True])
    assert epochs(some) > epochs(expected_lengths(HALVING, num_epochs=8, num_trials=20))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_is_played(name: str) -> None:
    lengths = expected_lengths(SchedulerConfig.model_validate({"name": name}), num_epochs=9, num_trials=12)
    assert sum(lengths.values()) == pytest.approx(12)
    assert min(lengths) == (9 if name == "none" else 3)
    assert max(lengths) == 9


def test_the_recorded_bill_has_these_epochs() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "against_naive.json").read_text())
    file = load_search_file(SHIPPED)
    for arm, trials in file.search.trials_by_arm().items():
        known = recorded["shipped_search"]["expected_epochs_by_arm"][arm]
        assert expected_epochs(file, trials) == pytest.approx(known, rel=0.02)


def test_strata_share_an_arms_trials() -> None:
    file = parsed(**{"search.num_trials": 8})
    by_stratum = lengths_of_arm(file, "distil", 8, num_strata=3)
    assert [sum(lengths.values()) for lengths in by_stratum] == pytest.approx([3, 3, 2])
    assert [sum(lengths.values()) for lengths in lengths_of_arm(file, "distil", 2, 3)] == pytest.approx([1, 1, 0])


@pytest.mark.parametrize(
    ("changes", "trials"),
    [
        ({}, 50),
        ({"trial.objective.alpha": 0.5, "trial.optimizer.lr": 0.05}, 2),  # the two widths
        ({"trial.objective.alpha": {"choice": [0.0, 0.5]}, "trial.optimizer.lr": 0.05}, 4),
        (
            {
                "trial.objective.alpha": {"choice": [0.0, 0.5]},
                "trial.objective.temperature": {"choice": [1.0, 2.0]},  # inert at alpha 0
                "trial.optimizer.lr": 0.05,
            },
            6,
        ),
    ],
)
def test_an_arm_has_no_more_trials_than_its_space_draws(changes: dict[str, object], trials: int) -> None:
    assert trials_of_arm(space_of_arm(parsed(**changes).trial, "distil"), 50) == trials
