"""A trial whose host is an actor: it hands over its proposal, and reports what it is given. Loads next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError


def follow_trial(config: dict[str, Any], hosts: Sequence[ActorHandle[Any]]) -> None:
    """One Ray Tune trial: reports a row an epoch, with `epoch` as TensorBoard's step.

    Args:
        config: the proposal.
        hosts: actors of `trainable.Host`.
    """
    number = config["number"]
    repeat = config.get("repeat")
    host = least_loaded(hosts, number) if repeat is None else hosts[repeat % len(hosts)]  # beside those of its repeat
    for other in hosts:  # one may have it still, from a client that died
        if other is not host:
            other.leave.remote(number)
    ray.get(host.open.remote(config))
    try:
        answered = 0
        while rows := ray.get(host.rows.remote(number, answered)):
            for row in rows:
                tune.report(row.to_metrics() | {"timesteps_total": row.epoch})
                answered = row.epoch
    finally:
        host.leave.remote(number)


def least_loaded(hosts: Sequence[ActorHandle[Any]], number: int) -> ActorHandle[Any]:
    """The host with the fewest trials; trials that ask at once take different ones of equals.

    Raises:
        RayActorError: no host answers.
    """
    loads: dict[int, tuple[int, int]] = {}
    for place, host in enumerate(hosts):
        try:
            loads[place] = _residents(host), (place + number) % len(hosts)
        except RayActorError as error:  # it is being started again; others can be asked
            lost = error
    if not loads:
        raise lost
    return hosts[min(loads, key=loads.__getitem__)]


def _residents(host: ActorHandle[Any]) -> int:
    """How many trials a host has."""
    return cast(int, ray.get(host.num_residents.remote()))
