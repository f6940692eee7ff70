"""Ray that does not start: said in a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_constants

from kd_tune.cluster import connected, start_here
from kd_tune.errors import ConfigError


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
