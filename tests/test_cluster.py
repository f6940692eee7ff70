"""Ray that does not start: said in a line."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from kd_tune.cluster import connected
from kd_tune.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "Ray cannot be started here: "), ("10.0.0.1:6379", "--address 10.0.0.1:6379: no Ray cluster there: ")],
)
@pytest.mark.parametrize("kind", [Exception, OSError, RuntimeError])
def test_ray_that_does_not_start_is_a_config_error(
    kind: type[Exception], address: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = kind("The current node timed out during startup.")

    def fails(**options: Any) -> None:
        raise cause

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ConfigError) as caught, connected(address):
        pass
    assert str(caught.value) == f"{message}The current node timed out during startup."
    assert caught.value.__cause__ is cause
