"""What doctor says of Ray's token, dashboard and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_tune.findings import Verdict
from kd_tune.ray_checks import check_dashboard, check_telemetry, check_token
from kd_tune.ray_token import MODE, TOKEN, TOKEN_PATH

PASS, WARN, FAIL = Verdict


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("starts_ray", [True, False])
def test_a_token_that_others_can_read_fails(home: Path, bits: int, starts_ray: bool) -> None:
    path = home / ".ray" / "auth_token"
    path.write_text("0" * 64)
    path.chmod(bits)
    finding = check_token({MODE: "token"}, starts_ray)
    assert finding.verdict is FAIL
    assert f"mode {bits:04o}" in finding.found
    assert finding.mend == f"chmod 600 {path}"
    path.chmod(0o600)
    assert check_token({MODE: "token"}, starts_ray).verdict is PASS


@pytest.mark.parametrize(
    ("environ", "starts_ray", "verdict"),
    [
        ({}, True, PASS),  # kd_tune makes one
        ({}, False, FAIL),  # a cluster that was started without
        ({MODE: "disabled"}, True, WARN),
        ({MODE: "disabled"}, False, FAIL),
        ({MODE: "TOKEN", TOKEN: "secret"}, False, PASS),
        ({MODE: "token"}, False, FAIL),  # the cluster has one, this machine has not
        ({MODE: "token", TOKEN_PATH: "/nowhere/token"}, True, FAIL),
        ({MODE: "token", TOKEN_PATH: "/nowhere/token"}, False, FAIL),
    ],
    ids=str,
)
def test_a_cluster_without_a_token_fails_and_a_machine_without_is_warned_of(
    environ: dict[str, str], starts_ray: bool, verdict: Verdict
) -> None:
    finding = check_token(environ, starts_ray)
    assert finding.verdict is verdict
    assert bool(finding.mend) == (verdict is not PASS)
    assert "secret" not in str(finding)


@pytest.mark.parametrize(
    ("environ", "starts_ray", "config", "verdict"),
    [
        ({"RAY_USAGE_STATS_ENABLED": "0"}, False, None, PASS),
        ({"RAY_USAGE_STATS_ENABLED": "1"}, True, None, WARN),
        ({"RAY_USAGE_STATS_ENABLED": "no"}, True, None, FAIL),
        ({}, True, None, PASS),
        ({}, False, None, WARN),
        ({}, False, '{"usage_stats": false}', PASS),
        ({}, False, '{"usage_stats": true}', WARN),
        ({}, False, "[]", WARN),
        ({}, False, "{", WARN),
    ],
    ids=str,
)
def test_reports_to_rays_makers_are_warned_of(
    home: Path, environ: dict[str, str], starts_ray: bool, config: str | None, verdict: Verdict
) -> None:
    if config is not None:
        (home / ".ray" / "config.json").write_text(config)
    assert check_telemetry(environ, starts_ray).verdict is verdict


@pytest.mark.parametrize(
    ("address", "has_token", "verdict"),
    [
        (None, False, PASS),
        ("", False, PASS),
        ("127.0.0.1:8265", False, PASS),
        ("localhost:8265", False, PASS),
        ("[::1]:8265", False, PASS),
        ("10.1.2.3:8265", True, WARN),
        ("10.1.2.3:8265", False, FAIL),
        ("[fd00::7]:8265", False, FAIL),
        ("head.example.org:8265", False, FAIL),
    ],
)
def test_a_dashboard_that_others_reach_fails_without_a_token(
    address: str | None, has_token: bool, verdict: Verdict
) -> None:
    assert check_dashboard(address, has_token).verdict is verdict
