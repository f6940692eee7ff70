"""A trial whose host is an actor: it hands over its proposal, and reports what it is given. Loads next to nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError
from ray.util import list_named_actors

from kd_tune.failures import LOST_HOST

PATIENCE = 10.0  # seconds after the first host has answered; hosts that start together differ by less
PAUSE = 1.0  # seconds before hosts that are started again are asked once more


def follow_trial(config: dict[str, Any], hosts: Sequence[ActorHandle[Any]], name: str, stack: int) -> None:
    """One Ray Tune trial: reports a row an epoch.

    Args:
        config: the proposal.
        hosts: actors of `trainable.Host`, as the search began.
        name: what the names of all that there are now begin with: nodes come and go.
        stack: trials that one of them should hold.
    """
    number = config["number"]
    try:
        there = find_hosts(name) or hosts
        host = there[choose_host(there, number, stack, config.get("repeat"))]
        try:
            ray.get(host.open.remote(config))
            answered = 0
            while rows := ray.get(host.rows.remote(number, answered)):
                for row in rows:
                    tune.report(row.to_metrics())
                    answered = row.epoch
        finally:
            host.leave.remote(number)
    except (RayActorError, OutOfMemoryError) as error:
        if _never_began(error):
            raise RuntimeError(str(error)) from None
        raise RuntimeError(LOST_HOST) from error


def find_hosts(name: str) -> list[ActorHandle[Any]]:
    """The actors whose names begin so, in the order of these, also those that wait for a place; not those lost."""
    names = sorted(str(found) for found in list_named_actors() if str(found).startswith(name))
    return [ray.get_actor(found) for found in names]


def choose_host(hosts: Sequence[ActorHandle[Any]], number: int, stack: int, repeat: int | None = None) -> int:
    """The place of the host that a trial goes to, among those that answer.

    The one that has it still, from a client that died, so that no two train it; else for a confirmation's trainings,
    which share images with those of their repeat, the one where these are, unless that is full; else one with the
    fewest trials, of equals any.

    Raises:
        RayActorError: all hosts are lost.
    """
    loads = ask_loads(hosts, number)
    if (here := next((place for place, (has_it, _) in loads.items() if has_it), None)) is not None:
        return here
    meeting = None if repeat is None else repeat % len(hosts)
    if meeting is not None and meeting in loads and loads[meeting][1] < stack:
        return meeting
    return min(loads, key=lambda place: (loads[place][1], random.Random(f"{number}/{place}").random()))


def ask_loads(hosts: Sequence[ActorHandle[Any]], number: int) -> dict[int, tuple[bool, int]]:
    """What hosts that answer say of themselves, by place: whether they have this trial, and how many they have.

    One may wait for a core that somebody else has, or be started again, so that nobody can say how long it takes.

    Where all of them are, they are asked until one is there.

    Raises:
        RayActorError: all hosts are lost.
    """
    while True:
        loads, lost = _ask_once(hosts, number)
        if loads:
            return loads
        if not any(isinstance(error, ActorUnavailableError) for error in lost):
            raise next(filter(_never_began, lost), lost[0])
        time.sleep(PAUSE)


def _never_began(error: Exception) -> bool:
    """Whether an actor is lost because it could not be made, which its error says and another try does not mend."""
    return isinstance(error, RayActorError) and error.actor_init_failed


def _ask_once(
    hosts: Sequence[ActorHandle[Any]], number: int
) -> tuple[dict[int, tuple[bool, int]], list[RayActorError]]:
    """What hosts say that answer, and what Ray says of others."""
    asked: dict[Any, int] = {host.load.remote(number): place for place, host in enumerate(hosts)}
    loads: dict[int, tuple[bool, int]] = {}
    lost: list[RayActorError] = []
    waiting = list(asked)
    while waiting and not loads:
        answers, waiting = ray.wait(waiting, num_returns=1)
        late, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE) if waiting else ([], [])
        for answer in [*answers, *late]:
            try:
                loads[asked[answer]] = ray.get(answer)
            except RayActorError as error:
                lost.append(error)
    return loads, lost
