"""Which host a trial goes to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from kd_tune import client
from kd_tune.client import choose_host, find_hosts, follow_trial
from kd_tune.errors import EnvironmentProblem
from kd_tune.failures import environment_said

NO_PLACE = 64  # CPUs that this machine has not


@ray.remote(num_cpus=0)
class FullHost:
    """Says that it has some trials."""

    def __init__(self, trials: Sequence[int]) -> None:
        self._trials = trials

    def load(self, number: int) -> tuple[bool, int]:
        return number in self._trials, len(self._trials)


@ray.remote(num_cpus=0)
class Slow:
    """A host that takes its time to start."""

    def __init__(self) -> None:
        time.sleep(2)

    def load(self, number: int) -> tuple[bool, int]:
        return False, 0


@ray.remote(num_cpus=0)
class Unmade:
    """A host whose machine lacks something."""

    def __init__(self) -> None:
        raise EnvironmentProblem("runs/toy: not on the node spot")

    def load(self, number: int) -> tuple[bool, int]:
        return False, 0


@pytest.fixture
def hosts(ray_cluster: None) -> Iterator[Any]:
    """`hosts([1, 2], [])`: one with two trials, and an empty one."""
    made: list[Any] = []

    def make(*trials: Sequence[int]) -> list[Any]:
        made.extend(FullHost.remote(mine) for mine in trials)
        ray.get([host.load.remote(0) for host in made])
        return made

    yield make
    for host in made:
        ray.kill(host)


@pytest.mark.parametrize(
    ("trials", "repeat", "expected"),
    [
        (([1, 2], [3], [4, 5]), None, 1),  # the fewest
        (([1, 2], [9], [4, 5], []), None, 1),  # the one that has it still
        (([1, 2], [3], []), 3, 0),  # where those of its repeat are
        (([1, 2, 3], [4], [5, 6]), 3, 1),  # unless that is full
        (([1, 2, 3], [4], [9, 6]), 3, 2),
    ],
)
def test_a_trial_goes_where_it_is_or_where_it_is_trained_soonest(
    trials: tuple[list[int], ...], repeat: int | None, expected: int, hosts: Any
) -> None:
    assert choose_host(hosts(*trials), 9, 3, repeat) == expected


def test_trials_that_ask_at_once_do_not_all_go_to_one_of_equals(hosts: Any) -> None:
    """Whatever their numbers have in common."""
    empty = hosts([], [])
    for numbers in (range(0, 40, 2), range(1, 41, 2), range(20)):
        assert {choose_host(empty, number, 4) for number in numbers} == {0, 1}


@pytest.mark.parametrize("repeat", [None, 0])
def test_a_host_without_a_place_is_not_waited_for(
    repeat: int | None, hosts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    there = hosts([1, 2])
    pending = FullHost.options(num_cpus=NO_PLACE).remote([])  # type: ignore[attr-defined]
    try:
        assert choose_host([pending, *there], 9, 4, repeat) == 1
    finally:
        ray.kill(pending)


def test_a_lost_host_is_passed_over_until_there_is_no_other(hosts: Any) -> None:
    lost, there = hosts([], [1, 2])
    kill(lost)
    assert choose_host([lost, there], 9, 4) == 1
    kill(there)
    with pytest.raises(RayActorError):
        choose_host([lost, there], 9, 4)


def test_why_no_host_could_be_made_is_what_a_trial_breaks_of(hosts: Any) -> None:
    """It would be tried again for ever as one whose host was lost; on a machine that is at fault, the search ends."""
    (lost,) = hosts([])
    kill(lost)
    broken = Unmade.remote()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError) as caught:
        follow_trial({"number": 9}, [lost, broken], "none_", 4)
    assert environment_said(f"RuntimeError: {caught.value}") == "runs/toy: not on the node spot"


def test_hosts_that_were_started_later_are_found(hosts: Any) -> None:
    named = {name: FullHost.options(name=name).remote([]) for name in ("late_0001", "late_0000", "other_0000")}  # type: ignore[attr-defined]
    try:
        assert find_hosts("late_") == [named["late_0000"], named["late_0001"]]
        kill(named["late_0000"])
        assert find_hosts("late_") == [named["late_0001"]]
        assert find_hosts("none_") == []
    finally:
        for host in named.values():
            ray.kill(host)


def test_a_host_that_is_started_again_is_waited_for(ray_cluster: None) -> None:
    """Its trials come back before it does; that it is not there yet is no fault of theirs."""
    host = Slow.options(max_restarts=1).remote()  # type: ignore[attr-defined]
    try:
        assert choose_host([host], 9, 4) == 0
        kill(host, no_restart=False)
        assert choose_host([host], 9, 4) == 0
    finally:
        ray.kill(host)


def kill(host: Any, no_restart: bool = True) -> None:
    """Ends a host, and comes back when it has ended: until then it may answer."""
    ray.kill(host, no_restart=no_restart)
    while True:
        try:
            ray.get(host.load.remote(0))
        except RayActorError:
            return
