"""Ray that does not start: said in a line. A machine that cannot go on: no failure of its trials."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import ray_constants
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError

from kd_tune.cluster import connected, start_here
from kd_tune.doctor import check_cluster
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.findings import Verdict
from kd_tune.ledger import Run
from kd_tune.limits import NO_LIMITS, Allowance, DeviceTime
from kd_tune.ray_checks import TELEMETRY
from kd_tune.tune_callbacks import FailureRecorder, LaunchStopper, Losses, environment_behind
from tests.searches import toy_manifest


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "Ray cannot be started here: "), ("auto", "--address auto: no Ray cluster there: ")],
)
@pytest.mark.parametrize("kind", [Exception, OSError, RuntimeError])
def test_ray_that_does_not_start_is_a_config_error(
    kind: type[Exception],
    address: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where a token is made first
    cause = kind("The current node timed out during startup.")

    def fails(**options: Any) -> None:
        raise cause

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ConfigError) as caught, connected(address):
        pass
    assert str(caught.value) == f"{message}The current node timed out during startup."
    assert caught.value.__cause__ is cause


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_said_at_once(
    form: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked, which goes on trying for minutes"))
    address = form.format(closed_port)
    with pytest.raises(EnvironmentProblem, match=rf"--address {address}: no Ray cluster there: .*refused"):
        connected(address).__enter__()
    (finding,) = check_cluster(address, [], None)
    assert finding.verdict is Verdict.FAIL
    assert f"--address {address}: no Ray cluster there: " in finding.found


@pytest.mark.parametrize("address", ["auto", "local", "127.0.0.1", "[::1]", ":6379", "other://127.0.0.1:1"])
def test_what_names_no_host_and_port_is_left_to_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # another test's Ray may be running in this process
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    with connected(address):
        assert asked == [address]


def test_what_keeps_ray_on_loopback_is_undone_when_it_has_started_or_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(TELEMETRY, raising=False)
    variable, seen = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, []

    def fails(**_: Any) -> None:
        seen.append((ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable], os.environ[TELEMETRY]))
        raise OSError("no port is free")

    monkeypatch.setattr(ray, "init", fails)
    for given in (None, "1"):
        monkeypatch.delenv(variable, raising=False)
        if given is not None:
            monkeypatch.setenv(variable, given)
        with pytest.raises(OSError, match="no port is free"):
            start_here()
        assert (ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)) == (True, given)
        assert TELEMETRY not in os.environ
    assert seen == [(False, "0", "0")] * 2


def refuse() -> None:
    raise EnvironmentProblem("a/b: No space left on device; make room there")


def fail() -> None:
    raise ValueError("a/b: No space left on device; make room there")


@pytest.fixture
def broken(tmp_path: Path, ray_cluster: None) -> Callable[[Callable[[], None]], Any]:
    """A trial as Tune has it after Ray ran a function that raises, with Ray's own text of the error."""

    def run(function: Callable[[], None]) -> Any:
        with pytest.raises(RayTaskError) as caught:
            ray.get(ray.remote(function).remote())
        path = tmp_path / "error.txt"
        path.write_text(str(caught.value))
        return SimpleNamespace(config={"number": 0}, error_file=str(path))

    return run


ALONE = Losses(lambda: [{"NodeID": "head", "Alive": True}])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run with a trial."""
    with closing(Run.create(tmp_path / "run", "trial: {}\n", toy_manifest())) as made:
        made.record("started", quota={"distil": 1})
        made.record("proposed", trial=0, arm="distil", draw={})
        yield made


def stopper_of(failures: FailureRecorder) -> LaunchStopper:
    return LaunchStopper(Allowance(NO_LIMITS, 0.0, DeviceTime(1.0)), failures, lambda: 1)


@pytest.mark.parametrize("event", ["on_trial_error", "on_trial_recover"])
def test_a_trial_whose_machine_is_at_fault_has_not_failed(event: str, run: Run, broken: Callable[..., Any]) -> None:
    failures = FailureRecorder(run, 0, ALONE)
    getattr(failures, event)(0, [], broken(refuse))
    assert run.state.trials[0].end is None
    assert failures.problem == "a/b: No space left on device; make room there"
    assert stopper_of(failures).stop_all()


def test_a_trial_that_broke_by_itself_is_recorded(run: Run, broken: Callable[..., Any]) -> None:
    failures = FailureRecorder(run, 0, ALONE)
    failures.on_trial_error(0, [], broken(fail))
    assert (run.state.trials[0].end, failures.problem) == ("failed", None)
    assert not stopper_of(failures).stop_all()


UNAVAILABLE = "The actor bf80 is unavailable: RpcError: Socket closed"


def unreachable() -> None:
    raise RuntimeError(UNAVAILABLE)


def test_a_process_that_went_with_its_node_is_not_charged(run: Run, broken: Callable[..., Any]) -> None:
    """Ray knows of the node only some time after; of a process that died on its own, it never says more."""
    alive = dict.fromkeys(("head", "spot", "other"), True)
    looks = iter(range(1000))

    def nodes() -> list[dict[str, Any]]:
        alive["spot"] = alive["spot"] and next(looks) < 3
        return [{"NodeID": name, "Alive": there} for name, there in alive.items()]

    FailureRecorder(run, 0, Losses(nodes, patience=5)).on_trial_error(0, [], broken(unreachable))
    assert run.state.trials[0].end is None
    FailureRecorder(run, 0, Losses(nodes, patience=0.3)).on_trial_error(0, [], broken(unreachable))
    assert run.state.trials[0].end == "failed", "the node had gone long before"


def test_a_lost_node_explains_all_that_was_on_it() -> None:
    alive = {"head": True, "spot": True}
    losses = Losses(lambda: [{"NodeID": name, "Alive": there} for name, there in alive.items()], patience=0)
    assert not losses.just_now()
    alive["spot"] = False
    assert losses.just_now()
    assert losses.just_now(), "of another process on that node"


def test_a_machine_by_itself_is_not_waited_for() -> None:
    assert not Losses(lambda: [{"NodeID": "head", "Alive": True}], patience=math.inf).just_now()


def raise_as_tune_does(error: Exception) -> None:
    try:
        raise error
    except Exception:
        raise TuneError("a traceback as text")  # noqa: B904


@pytest.mark.parametrize("refused", [EnvironmentProblem("a/b: full"), OSError(errno.ENOSPC, "full", "a/b")])
def test_what_the_ledger_or_rays_files_are_refused_is_found_behind_what_tune_raises(refused: Exception) -> None:
    with pytest.raises(TuneError) as caught:
        raise_as_tune_does(refused)
    assert str(environment_behind(caught.value)).startswith("a/b: ")
    assert environment_behind(TuneError("something else")) is None
