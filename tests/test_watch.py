"""What a person is told of how long it will take."""

from __future__ import annotations

import pytest

from kd_tune.ledger import RunState, TrialState
from kd_tune.watch import epochs_left


@pytest.mark.parametrize(
    ("ended", "running", "expected"),
    [
        ([], [0], 45 + 9 * 45),
        ([], [50], 40 + 9 * 45),  # past half of the way, and nothing stopped it
        ([10, 20], [5], 10 + 7 * 15),
        ([10, 20], [15], 75 + 7 * 15),  # further than most: it goes to the end
        ([10, 20] * 5, [], 0),
    ],
)
def test_the_epochs_that_are_left_follow_from_the_trials_that_ended(
    ended: list[int], running: list[int], expected: float
) -> None:
    trials = [TrialState(0, "distil", {}, rows={epoch: {}}, end="pruned") for epoch in ended]
    trials += [TrialState(0, "distil", {}, rows={epoch: {}}) for epoch in running]
    state = RunState(dict(enumerate(trials)), {"distil": 10})
    assert epochs_left(state, 90, prunes=True) == expected


def test_where_nothing_is_pruned_a_trial_is_trained_to_the_end() -> None:
    state = RunState({0: TrialState(0, "distil", {}, rows={30: {}})}, {"distil": 10})
    assert epochs_left(state, 90, prunes=False) == 60 + 9 * 90
