"""Hours: of devices, counted from a ledger's events over all launches, and what a launch may still use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kd_tune.config import ResourcesConfig, SchedulerConfig
from kd_tune.errors import ConfigError
from kd_tune.ledger import Run, read_events
from kd_tune.limits import Allowance, DeviceTime, Limits, device_time, devices_of_place, is_own_limit
from kd_tune.run_state import Event
from kd_tune.scheduler import Referee, replay_verdicts
from tests.searches import toy_manifest

ONE_CORE = ResourcesConfig()


def at(time: float, event: str, **fields: Any) -> Event:
    return {"event": event, "time": time, **fields}


def proposed(time: float, trial: int) -> Event:
    return at(time, "proposed", trial=trial)


def epoch(time: float, trial: int) -> Event:
    return at(time, "epoch", trial=trial)


def stopped(time: float, trial: int) -> Event:
    return at(time, "stopped", trial=trial)


LAUNCH = [at(100, "started", slots=2), proposed(100, 0), epoch(110, 0)]  # a trial, 10 s


@pytest.mark.parametrize(
    ("then", "seconds"),
    [
        ([], 10),
        ([stopped(110, 0), proposed(150, 1), epoch(160, 1)], 20),  # nothing ran from 110 to 150
        ([proposed(110, 1), epoch(120, 1)], 30),
        ([proposed(110, 1), proposed(110, 2), proposed(110, 3), epoch(120, 3)], 30),  # there are two places
        ([at(120, "paused"), at(500, "test_opened")], 20),
        ([at(120, "paused"), at(500, "started", slots=2), epoch(510, 0)], 30),  # the trial goes on
        ([at(500, "started", slots=2), epoch(510, 0)], 20),  # the launcher before was killed at 110
        (
            [stopped(500, 0), at(510, "started", slots=2), proposed(520, 1), epoch(530, 1)],
            20,
        ),  # a verdict was left open
        (
            [
                *(stopped(110, 0), at(120, "paused"), at(200, "reopened", trials=[0])),
                *(at(300, "started", slots=1), epoch(310, 0)),
            ],
            20,
        ),
        ([epoch(90, 0), epoch(95, 0)], 15),  # a clock set back
        ([proposed(110, 1), proposed(110, 2), at(120, "places", slots=3), epoch(130, 0)], 60),  # a node joined
        ([proposed(110, 1), at(120, "places", slots=1), epoch(130, 0)], 40),  # one was lost
    ],
)
def test_devices_are_held_while_trials_run(then: list[Event], seconds: float) -> None:
    assert device_time([*LAUNCH, *then], ONE_CORE).seconds(0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("resources", "devices"),
    [
        ({}, 1),
        ({"cpus_per_trial": 4}, 1),
        ({"gpus_per_trial": 0.25}, 0.25),
        ({"gpus_per_trial": 2, "cpus_per_trial": 8}, 2),
    ],
)
def test_a_place_is_one_of_a_cpu_or_its_share_of_gpus(resources: dict[str, Any], devices: float) -> None:
    config = ResourcesConfig(**resources)
    assert devices_of_place(config) == devices
    assert device_time(LAUNCH, config).seconds(0) == 10 * devices


def test_time_that_no_event_has_shown_yet_counts_while_a_launch_lasts() -> None:
    devices = device_time(LAUNCH, ONE_CORE)
    assert devices.seconds(117) == 17
    devices(at(117, "paused"))
    assert devices.seconds(200) == 17


def test_a_run_is_followed_live_and_from_its_ledger_alike(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "trial: {}\n", toy_manifest())
    live = DeviceTime(1)
    run.listeners.append(live)
    run.record("started", quota={"distil": 1}, slots=2)
    run.record("proposed", trial=0, arm="distil", draw={})
    for number in range(1, 4):
        time.sleep(0.02)
        run.record("epoch", trial=0, attempt=0, epoch=number, val_accuracy=0.5, diverged=False)
    run.record("paused")
    run.close()
    read = device_time(read_events(run.folder), ONE_CORE)
    assert 0.055 < live.seconds(0) < 10  # the ledger's times are rounded to a millisecond
    assert read.seconds(0) == live.seconds(0)


def test_a_verdict_that_a_killed_launcher_left_open_costs_no_device_time(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "trial: {}\n", toy_manifest())
    run.record("started", quota={"distil": 1}, slots=2)
    run.record("proposed", trial=0, arm="distil", draw={})
    run.record("epoch", trial=0, attempt=0, epoch=1, val_accuracy=None, diverged=True)
    run.close()
    time.sleep(0.05)
    run = Run(run.folder)
    past = list(read_events(run.folder))
    devices = device_time(past, ONE_CORE)
    run.listeners.append(devices)
    replay_verdicts(run, Referee(SchedulerConfig(), 9), past)
    run.close()
    assert run.state.trials[0].end == "diverged"
    assert devices.seconds(0) < 0.05
    assert device_time(read_events(run.folder), ONE_CORE).seconds(0) == devices.seconds(0)


@pytest.mark.parametrize(
    "event",
    [{"event": "epoch", "trial": 0}, at(5, "started"), at(5, "reopened"), at(5, "started", slots="two")],
)
def test_an_event_that_cannot_be_followed_is_named(event: Event) -> None:
    with pytest.raises(ConfigError, match=r"the ledger's event .* cannot be followed"):
        device_time([*LAUNCH, event, epoch(120, 0)], ONE_CORE)


HELD_FOR_AN_HOUR = [at(0, "started", slots=1), proposed(0, 0), at(3600, "paused")]


@pytest.mark.parametrize(
    ("limits", "seconds_ago", "reached"),
    [
        (Limits(), 1e9, None),
        (Limits(hours=1), 3599, None),
        (Limits(hours=1), 3601, "--max-hours 1"),
        (Limits(device_hours=1.5), 1e9, None),
        (Limits(device_hours=0.5), 0, "--max-device-hours 0.5"),
        (Limits(hours=1, device_hours=0.5), 3601, "--max-hours 1"),
    ],
)
def test_the_limit_that_is_reached_is_named(limits: Limits, seconds_ago: float, reached: str | None) -> None:
    devices = device_time(HELD_FOR_AN_HOUR, ONE_CORE)
    assert Allowance(limits, time.monotonic() - seconds_ago, devices).reached() == reached
    assert is_own_limit(reached) == (reached is not None)


def test_what_else_stops_a_search_is_no_limit_of_its_user() -> None:
    allowance = Allowance(Limits(hours=1e-9), 0, DeviceTime(1), lambda: "s3://bucket/runs: HTTP status 503")
    assert allowance.reached() == "s3://bucket/runs: HTTP status 503"
    assert not is_own_limit(allowance.reached())


def test_a_run_that_has_had_its_device_hours_is_not_started_again(tmp_path: Path) -> None:
    devices = device_time(HELD_FOR_AN_HOUR, ONE_CORE)
    with pytest.raises(ConfigError, match=r"--max-device-hours 0\.9: .*/run has held devices for 1\.00 hours"):
        Allowance(Limits(device_hours=0.9), 0, devices).check_devices(tmp_path / "run")
    Allowance(Limits(device_hours=1.1), 0, devices).check_devices(tmp_path / "run")


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_limits_are_hours_above_zero(hours: float) -> None:
    with pytest.raises(ConfigError) as error:
        Limits(hours, hours)
    assert [problem.split()[0] for problem in error.value.problems] == ["--max-hours", "--max-device-hours"]
