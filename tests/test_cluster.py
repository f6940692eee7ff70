"""Ray that does not start: said in a line. A machine that cannot go on: no failure of its trials."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import ray_constants
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError

from kd_tune import cluster
from kd_tune.cluster import connected, start_here
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.limits import NO_LIMITS, Allowance, DeviceTime
from tests.driven import memory_run


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "Ray cannot be started here: "), ("10.0.0.1:6379", "--address 10.0.0.1:6379: no Ray cluster there: ")],
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


def test_what_keeps_ray_on_loopback_is_undone_when_it_has_started_or_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    variable, seen = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, []

    def fails(**_: Any) -> None:
        seen.append((ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable]))
        raise OSError("no port is free")

    monkeypatch.setattr(ray, "init", fails)
    for given in (None, "1"):
        monkeypatch.delenv(variable, raising=False)
        if given is not None:
            monkeypatch.setenv(variable, given)
        with pytest.raises(OSError, match="no port is free"):
            start_here()
        assert (ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)) == (True, given)
    assert seen == [(False, "0")] * 2


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


@pytest.mark.parametrize("event", ["on_trial_error", "on_trial_recover"])
def test_a_trial_whose_machine_is_at_fault_has_not_failed(event: str, broken: Callable[..., Any]) -> None:
    run = memory_run({"distil": 1})
    run.record("proposed", trial=0, arm="distil", draw={})
    allowance = Allowance(NO_LIMITS, 0.0, DeviceTime(1.0))
    failures = cluster._FailureRecorder(run)  # type: ignore[arg-type]
    stopper = cluster._Stopper(allowance, failures)
    getattr(failures, event)(0, [], broken(refuse))
    assert run.state.trials[0].end is None
    assert failures.problem == "a/b: No space left on device; make room there"
    assert stopper.stop_all()


def test_a_trial_that_broke_by_itself_is_recorded(broken: Callable[..., Any]) -> None:
    run = memory_run({"distil": 1})
    run.record("proposed", trial=0, arm="distil", draw={})
    failures = cluster._FailureRecorder(run)  # type: ignore[arg-type]
    failures.on_trial_error(0, [], broken(fail))
    assert (run.state.trials[0].end, failures.problem) == ("failed", None)
    assert not cluster._Stopper(Allowance(NO_LIMITS, 0.0, DeviceTime(1.0)), failures).stop_all()


def raise_as_tune_does(error: Exception) -> None:
    try:
        raise error
    except Exception:
        raise TuneError("a traceback as text")  # noqa: B904


@pytest.mark.parametrize("refused", [EnvironmentProblem("a/b: full"), OSError(errno.ENOSPC, "full", "a/b")])
def test_what_the_ledger_or_rays_files_are_refused_is_found_behind_what_tune_raises(refused: Exception) -> None:
    with pytest.raises(TuneError) as caught:
        raise_as_tune_does(refused)
    assert str(cluster._environment_behind(caught.value)).startswith("a/b: ")
    assert cluster._environment_behind(TuneError("something else")) is None
