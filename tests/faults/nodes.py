"""A Ray cluster of several nodes on this machine: each has a loopback address of its own, and can be killed whole.

The addresses are 127.0.0.2, 127.0.0.3 and so on: Ray would put an outer one in the place of 127.0.0.1. Linux alone has
them all. Ray's processes want a token of each other, that of any search of this user.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from kd_tune.ray_token import make_token

WAIT_SECONDS = 120.0
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-gpus=0"]


class Nodes:
    """A cluster, for searches that this process starts.

    Args:
        folder: with a short name, for logs and sockets.
        within: a command that runs each node's, by its index; for nodes that see other files.
    """

    def __init__(self, folder: Path, within: dict[int, list[str]] | None = None) -> None:
        self._folder, self._within = folder, within or {}
        folder.mkdir(parents=True)
        make_token(os.environ)  # the one that any search makes: Ray reads it once a process
        os.environ.update(RAY_AUTH_MODE="token", RAY_TMPDIR=str(folder))
        self.address = ""
        self._started = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def add(self, cpus: int = 1) -> str:
        """Starts a node, the first one as the head, and waits until it has joined; returns its address."""
        number = self._started
        self._started += 1
        host = f"127.0.0.{number + 2}"
        where = ["--address", self.address]
        if not self._processes:
            self.address = f"{host}:{_free_port()}"
            where = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false"]
        command = [*self._within.get(number, []), *RAY, *where, f"--node-ip-address={host}", f"--num-cpus={cpus}"]
        with (self._folder / f"node_{number}.txt").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._processes[host] = process
        deadline = time.monotonic() + WAIT_SECONDS
        while host not in self.alive():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"no node at {host}:\n{(self._folder / f'node_{number}.txt').read_text()[-3000:]}")
            time.sleep(0.5)
        return host

    def alive(self) -> list[str]:
        """The addresses of the nodes that the head takes for alive; none while it cannot be asked."""
        from ray._raylet import GcsClient

        try:
            nodes = GcsClient(address=self.address).get_all_node_info(timeout=5)
        except Exception:  # whatever Ray raises while there is no head
            return []
        infos = nodes.values() if isinstance(nodes, dict) else nodes
        return [info.node_manager_address for info in infos if info.state == 0]

    def titles(self, host: str) -> set[str]:
        """What the processes of a node call themselves: `ray::Host`, `ray::ImplicitFunc` and so on."""
        found = set()
        for pid in descendants(self._processes[host].pid):
            try:
                found.add(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().partition(".")[0])
            except OSError:  # it ended meanwhile
                continue
        return found

    def root(self, host: str) -> Path:
        """The files as a node sees them."""
        return Path(f"/proc/{self._processes[host].pid}/root")

    def kill(self, host: str) -> None:
        """`kill -9` of all of a node's processes at once."""
        process = self._processes.pop(host)
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()

    def kill_all(self) -> None:
        """Likewise all nodes."""
        for host in list(self._processes):
            self.kill(host)


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, asked = [], [pid]
    while asked:
        mine = children.get(asked.pop(), [])
        found += mine
        asked += mine
    return found


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
