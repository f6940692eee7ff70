"""Ray's view of a trial: it asks a host for epochs and reports them. Loads no torch by itself.

The host is in the trial's own process, or an actor that holds a device and trains many trials; a trial is a light
client then (`kd_tune.client`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._common.utils import get_system_memory

from kd_tune.errors import EnvironmentProblem
from kd_tune.ledger import checkpoints_of
from kd_tune.memory import Growth, held_by_this_process
from kd_tune.node_checks import SHARE, available_memory
from kd_tune.node_files import Parcel, at_hand, send
from kd_tune.ranges import branch_name
from kd_tune.records import Assignment, EpochRow, TeacherPlace, derive_seed
from kd_tune.space import Space
from kd_tune.storage import Storage
from kd_tune.watchdog import in_hand, seconds_of

_OURS = ("number", "arm", "repeat", "retry")


@dataclass(frozen=True)
class RunContext:
    """What all trials of a run have in common; crosses to the workers once.

    Attributes:
        spaces: by arm.
        seed: the search's.
        folder: the run's.
        source: where the data lie; None: the usual place.
        teachers: where each teacher's answers are, by `ranges.branch_name` of its section.
        checkpoint_epochs: the first epoch, so that no trial starts twice; rungs; the last epoch.
        threads: of a trial on a CPU.
        epoch_seconds: an epoch that takes longer ends its process.
        fingerprint: of the data.
        allowed: the user's packages whose code trials may run, and where to find them.
        storage: URL of the run's copy, which holds the checkpoints then; None: they are in `folder`.
        parcels: files that other nodes may lack; empty where there are no others.
        sender: the actor that has them (`Sender`), if there are any.
    """

    spaces: Mapping[str, Space]
    seed: int
    folder: str
    source: str | None
    teachers: Mapping[str, TeacherPlace]
    checkpoint_epochs: tuple[int, ...]
    threads: int
    epoch_seconds: float
    fingerprint: str | None = None
    allowed: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    storage: str | None = None
    parcels: tuple[Parcel, ...] = ()
    sender: Any = None

    def enter(self) -> None:
        """Makes this process one that trains trials of the run.

        Raises:
            EnvironmentProblem: the run's folder is not here.
        """
        from kd_tune import user_code

        user_code.allow(*self.allowed)
        if self.storage is None and not Path(self.folder).is_dir():
            raise EnvironmentProblem(f"{self.folder}: not on the node {platform.node()}; {SHARE}")

    def assignment(self, config: Mapping[str, Any], device: str) -> Assignment:
        """The trial that a proposal stands for."""
        number, arm = config["number"], config["arm"]
        draw = {name: value for name, value in config.items() if name not in _OURS}
        trial = self.spaces[arm].fill(draw)
        teacher = self.teachers[branch_name(trial["teacher"])] if "teacher" in trial else None
        return Assignment(
            number=number,
            arm=arm,
            trial=trial,
            seed=derive_seed(self.seed, "trial", number),
            order_seed=derive_seed(self.seed, "order", config.get("repeat", 0)),
            checkpoints=str(checkpoints_of(Path(self.folder), number)),
            source=self._here(self.source),
            teacher=None if teacher is None else TeacherPlace(self._here(teacher.bank), self._here(teacher.live)),
            fingerprint=self.fingerprint,
            checkpoint_epochs=self.checkpoint_epochs,
            device=device,
            threads=self.threads,
            epoch_seconds=self.epoch_seconds,
            alone=bool(config.get("retry")),
            storage=self._storage_of(number),
        )

    def _storage_of(self, number: int) -> str | None:
        if self.storage is None:
            return None
        return Storage(self.storage).child(*checkpoints_of(Path(), number).parts).url

    def _here(self, path: str | None) -> str | None:
        """Where this node has what lies at a path of the driver's."""
        parcel = next((parcel for parcel in self.parcels if parcel.path == path), None)
        return path if parcel is None else _fetched(parcel, self.sender)


@lru_cache
def _fetched(parcel: Parcel, sender: Any) -> str:
    """Where this node has a parcel; asked once a process."""

    def chunks() -> Iterable[bytes]:
        return (ray.get(chunk) for chunk in ray.get(sender.chunks.remote(parcel)))

    return str(at_hand(parcel, chunks))


class Sender:
    """An actor on the driver's node, that gives other nodes what they lack; while it lives, the chunks do."""

    def __init__(self) -> None:
        self._chunks: dict[Parcel, list[Any]] = {}

    def chunks(self, parcel: Parcel) -> list[Any]:
        """References to a parcel's chunks in Ray's object store, from which nodes pass them on to each other."""
        if parcel not in self._chunks:
            chunks: list[Any] = []
            send(parcel, lambda chunk: chunks.append(ray.put(chunk)))
            self._chunks[parcel] = chunks
        return self._chunks[parcel]


def train_trial(config: dict[str, Any], context: RunContext) -> None:
    """One Ray Tune trial: reports a row an epoch."""
    from kd_tune import host

    context.enter()
    # Clean-up that takes longer than Tune's two seconds would turn the next trial of this actor into an error.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    assignment = context.assignment(config, device)
    rows, growth, total = host.open_trial(assignment), Growth(), get_system_memory()
    # That its process died, Ray says itself; how it hung is not worth two requests to a storage in every epoch.
    mark = None if assignment.storage else Path(assignment.checkpoints)
    while True:
        with in_hand(seconds_of(assignment), mark):
            row = next(rows, None)
        if row is None:
            return
        growth.check(held_by_this_process(), available_memory(), total)
        tune.report(row.to_metrics())


class Host:
    """The actor that a stacked host lives in.

    Args:
        context: of the run.
    """

    def __init__(self, context: RunContext) -> None:
        from kd_tune import stacked_host

        context.enter()
        self._context = context
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._host = stacked_host.StackedHost(context.threads)

    def open(self, config: Mapping[str, Any]) -> None:
        """Takes in the trial that a proposal stands for."""
        self._host.open(self._context.assignment(config, self._device))

    def rows(self, number: int, answered: int) -> list[EpochRow]:
        """See `StackedHost.rows`."""
        return self._host.rows(number, answered)

    def leave(self, number: int) -> None:
        """See `StackedHost.leave`."""
        self._host.leave(number)

    def load(self, number: int) -> tuple[bool, int]:
        """See `StackedHost.load`."""
        return self._host.load(number)
