"""Whether Ray lets anybody in, or tells anybody anything: its token, its dashboard, its reports. Loads no Ray."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from kd_tune import ray_token
from kd_tune.findings import Finding, failed, passed, warned

TELEMETRY = "RAY_USAGE_STATS_ENABLED"


def check_token(environ: Mapping[str, str], starts_ray: bool) -> Finding:
    """Whether Ray asks for a token, and whether it is a secret."""
    mode = environ.get(ray_token.MODE, "token" if starts_ray else "disabled")
    if mode.lower() != "token":
        return _without_token(mode, starts_ray)
    path = ray_token.token_file(environ)
    if path is None:
        return passed("token", f"on, in {ray_token.TOKEN}")
    if not path.exists():
        if starts_ray and not environ.get(ray_token.TOKEN_PATH):
            return passed("token", f"on; {path} is made when Ray is started")
        return failed("token", f"{path}: no such file", "copy it from the head node, and chmod 600")
    mode_bits = stat.S_IMODE(path.stat().st_mode)
    if mode_bits & 0o077:
        found = f"{path} has mode {mode_bits:04o}: others can read it, and then run code as you"
        return failed("token", found, f"chmod 600 {path}")
    return passed("token", f"on; {path}, mode {mode_bits:04o}")


def check_token_there(request: object) -> list[Finding]:
    """`check_token` where a cluster's Ray runs, whose environment says what that Ray asks for; asked with anything."""
    return [check_token(os.environ, starts_ray=False)]


def _without_token(mode: str, starts_ray: bool) -> Finding:
    off = f"off ({ray_token.MODE} is {mode} or not set)"
    if starts_ray:
        found = f"{off}: while a search runs, every user of this machine can run code as you"
        return warned("token", found, f"unset {ray_token.MODE}")
    return failed(
        "token",
        f"{off}: whoever reaches the cluster's ports runs code on it",
        f"ray get-auth-token --generate; chmod 600 ~/.ray/auth_token; copy it to every node; {ray_token.MODE}=token "
        "where `ray start` is called",
    )


def check_telemetry(environ: Mapping[str, str], starts_ray: bool) -> Finding:
    """Whether Ray reports its use to its makers."""
    given = environ.get(TELEMETRY)
    if given not in (None, "0", "1"):
        return failed("telemetry", f"{TELEMETRY} is {given}, and Ray stops at that", f"{TELEMETRY}=0")
    if given == "0" or (given is None and (starts_ray or _turned_off(Path.home() / ".ray" / "config.json"))):
        return passed("telemetry", "off")
    return warned("telemetry", "on: Ray reports its use to its makers", f"{TELEMETRY}=0 where Ray is started")


def _turned_off(config: Path) -> bool:
    """What `ray disable-usage-stats` wrote."""
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("usage_stats") is False
    except (OSError, ValueError, AttributeError):  # Ray passes over it too
        return False


def check_dashboard(address: str | None, has_token: bool) -> Finding:
    """Who can reach the dashboard, which runs code for whoever may talk to it.

    Args:
        address: host and port where it listens; None: there is none.
        has_token: whether it asks for the cluster's token.
    """
    if not address:
        return passed("dashboard", "none")
    host = address.rpartition(":")[0].strip("[]")
    if _is_loopback(host):
        return passed("dashboard", f"{address}, for that machine alone")
    mend = "leave out --dashboard-host of `ray start --head`, and reach it with ssh -L 8265:localhost:8265 HEAD"
    if has_token:
        return warned("dashboard", f"{address}, where others reach it; it asks for the token", mend)
    return failed("dashboard", f"{address}, where others reach it and run code without a token", mend)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
