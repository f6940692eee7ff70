"""Ray: started with safe defaults, asked what it can hold, and given a run's trials."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import ray_constants
from ray.air.execution._internal import actor_manager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Callback
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_tune import nodes, records, signals, user_code
from kd_tune.client import follow_trial
from kd_tune.config import ResourcesConfig
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.ledger import Run
from kd_tune.limits import Allowance
from kd_tune.node_checks import num_cores
from kd_tune.ray_checks import TELEMETRY
from kd_tune.ray_token import make_token
from kd_tune.records import METRIC
from kd_tune.scheduler import RunScheduler
from kd_tune.search_file import SearchFile
from kd_tune.searcher import RunSearcher
from kd_tune.trackers import problem_behind
from kd_tune.trainable import Host, RunContext, Sender, train_trial
from kd_tune.tune_callbacks import FailureRecorder, LaunchStopper, Losses, environment_behind

# Ray's memory monitor ends a worker with an error of its own, at which Tune would end the whole search.
for module in (actor_manager, tune_controller):
    vars(module)["RayActorError"] = (RayActorError, OutOfMemoryError)

# Read by Tune when a search begins, and set for that search alone: others in this process keep theirs.
TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # TensorBoard is told by us (`tensorboard_log`), and of Ray's snapshots nothing is read.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours tells it (`_stops_tell_tune`)
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

CLIENT_MEMORY = 200e6  # bytes of a trial that only reports
REACH_SECONDS = 5.0  # in which a cluster's machine must answer; Ray itself goes on trying for minutes
COUNT_SECONDS = 2.0  # between two looks at the cluster's nodes; one takes milliseconds


class Room:
    """How many trials there is room for: nodes come and go while a search runs.

    Called, it counts again now and then, and records a change.

    Args:
        run: what is trained.
        resources: of a place.
        stack: trials that a place holds.

    Attributes:
        places: processes that train; those that there is room for, as last counted.
        stack: as above.
        grown: told the number of places when it has changed.

    Raises:
        ConfigError: no node holds a trial.
    """

    def __init__(self, run: Run, resources: ResourcesConfig, stack: int) -> None:
        self.places = num_slots(resources)
        self.stack = stack
        self.grown: Callable[[int], None] = lambda places: None
        self._run = run
        self._resources = resources
        self._counted = time.monotonic()

    def __call__(self) -> int:
        """For one place at least: a trial that waits for a node shows what is wanted, and Ray asks nobody in vain."""
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            places, self._counted = _slots_there(self._resources), time.monotonic()
            if places != self.places:
                self.places = places
                self._run.record(records.PLACES, slots=places)
                self.grown(places)
        return max(1, self.places) * self.stack


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray on this machine alone, or a running cluster to which kd_tune's code is sent; lets go of it at the end.

    Raises:
        EnvironmentProblem: Ray cannot be started, or the cluster cannot be reached.
    """
    if ray.is_initialized():  # by whoever uses kd_tune as a library
        yield
        return
    # What broke a trial is recorded and shown by us, in one line; Ray's traceback is in the trial's error.txt.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        with signals.kept():
            if address is None:
                start_here(**options)
            else:
                _reach(address)
                package = str(Path(__file__).resolve().parent)
                ray.init(address=address, runtime_env={"py_modules": [package, *user_code.sent_along()]}, **options)
    except Exception as error:  # Ray raises a plain Exception where a start-up takes too long
        what = "Ray cannot be started here" if address is None else f"--address {address}: no Ray cluster there"
        raise EnvironmentProblem(f"{what}: {error}") from error
    try:
        yield
    finally:
        with signals.kept():
            ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError if nobody listens at `HOST:PORT` or `ray://HOST:PORT`; of other addresses Ray knows more."""
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme in ("", "ray") and host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def start_here(**options: Any) -> None:
    """Ray on this machine alone: without a dashboard, with a token, and every socket on 127.0.0.1.

    By default Ray listens on all interfaces even where nobody can join, except on macOS and Windows. What makes the
    difference is read when Ray is imported, at which time nobody knows yet whether a search joins a cluster.

    Args:
        options: of `ray.init`.

    Raises:
        ConfigError: Ray's token cannot be written.
    """
    make_token(os.environ)
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    others_may_join, given = ray_constants.ENABLE_RAY_CLUSTER, os.environ.pop(variable, None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[variable] = "0"  # for the processes that Ray starts
    try:
        with _defaults({TELEMETRY: "0"}):  # what a search does is sent to nobody unless its user said so
            ray.init(address="local", include_dashboard=False, **options)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = others_may_join
        del os.environ[variable]
        if given is not None:
            os.environ[variable] = given


def fit(
    run: Run,
    file: SearchFile,
    context: RunContext,
    searcher: RunSearcher,
    scheduler: RunScheduler,
    room: Room,
    allowance: Allowance,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Gives Ray everything that a run still has to do; returns when it is done, interrupted, or at a limit.

    `callbacks` are told of trials by Ray, too.

    Raises:
        EnvironmentProblem: the operating system refused to write what must be written, here or where trials are
            trained, or a tracker failed; trials go on with the next launch.
    """
    left = run.state.num_left()
    failures = FailureRecorder(run, file.search.max_failures, Losses(ray.nodes))
    with (
        _sending(context) as complete,
        _trainable(file.resources, complete, room, left) as trainable,
        _defaults(TUNE_SETTINGS),
        _stops_tell_tune(),
    ):
        try:
            _tuner(trainable, run, searcher, scheduler, room, left, allowance, failures, callbacks).fit()
        except Exception as error:
            raise environment_behind(error) or problem_behind(error) or error from None
    if failures.problem is not None:
        raise EnvironmentProblem(failures.problem)


def _tuner(
    trainable: Any,
    run: Run,
    searcher: RunSearcher,
    scheduler: RunScheduler,
    room: Room,
    left: int,
    allowance: Allowance,
    failures: FailureRecorder,
    callbacks: Sequence[Callback],
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher ends; it gives trials that broke again
            max_concurrent_trials=left,  # the searcher asks `room`; without it Tune starts trials one by one
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=f"launch_{run.state.launches:02d}",
            storage_path=str((run.folder / "ray").resolve()),
            callbacks=[failures, *callbacks],
            stop=LaunchStopper(allowance, failures, room),
            verbose=0,
        ),
    )


@contextmanager
def _defaults(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment that nobody else did, and takes them away afterwards."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _sending(context: RunContext) -> Iterator[RunContext]:
    """The context with an actor on this node that sends the run's files to nodes which lack them."""
    if not context.parcels:
        yield context
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1}
    sender: Any = ray.remote(Sender).options(**options).remote()
    try:
        yield replace(context, sender=sender)
    finally:
        ray.kill(sender)


@contextmanager
def _trainable(resources: ResourcesConfig, context: RunContext, room: Room, left: int) -> Iterator[Any]:
    """What Ray runs for a trial: all of it, or a client of a host that trains several and ends with the search."""
    one = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
    if room.stack == 1:
        yield tune.with_resources(tune.with_parameters(train_trial, context=context), one)
        return
    options: dict[str, Any] = {
        "num_cpus": one["cpu"],
        "num_gpus": one["gpu"],
        "max_concurrency": 2 * room.stack + 2,  # a client asks for rows, and another for its place
        "max_restarts": -1,
    }
    name = f"kd_tune_host_{secrets.token_hex(4)}_"
    hosts: list[Any] = []

    def grow(places: int) -> None:
        """A host for every place that there ever was: one that a lost node had takes the next that is free."""
        for number in range(len(hosts), min(places, left)):
            actor: Any = ray.remote(Host).options(name=f"{name}{number:04d}", **options)
            hosts.append(actor.remote(context))

    grow(room.places)
    room.grown = grow
    try:
        # A client needs no core, which its host has; Ray wants it to need something.
        yield tune.with_resources(
            tune.with_parameters(follow_trial, hosts=tuple(hosts), name=name, stack=room.stack),
            tune.PlacementGroupFactory([{"memory": CLIENT_MEMORY}]),
        )
    finally:
        for host in hosts:  # Ray keeps handles that clients had, and with them the cores that the next search needs
            ray.kill(host)


@contextmanager
def _stops_tell_tune() -> Iterator[None]:
    """While Tune trains, a first signal lets it save and end, which is what it does at SIGUSR1.

    Its handler of that signal is taken away afterwards, because Tune leaves it.
    """
    before = signal.getsignal(signal.SIGUSR1)

    def tell() -> None:
        if signal.getsignal(signal.SIGUSR1) is before:  # Tune has not begun
            signals.interrupt()
        signal.raise_signal(signal.SIGUSR1)

    with signals.handled(again=signals.interrupt) as stop:
        stop.gently = tell
        try:
            yield
        finally:
            stop.gently = signals.interrupt
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGUSR1, before if before is not None else signal.SIG_DFL)


def slots_of(node: Mapping[str, float], resources: ResourcesConfig) -> int:
    """How many trials a node with these resources (Ray's names: CPU, GPU) holds at once.

    A share of a GPU lies on one device: two of 0.6 do not fit on one, and so not four on two.
    """
    fits = int(node.get("CPU", 0) // resources.cpus_per_trial)
    share = resources.gpus_per_trial
    if not share:
        return fits
    gpus = int(node.get("GPU", 0))
    return min(fits, int(gpus // share) if share >= 1 else gpus * int(1 / share + 1e-9))


def _slots_there(resources: ResourcesConfig) -> int:
    return sum(slots_of(node["Resources"], resources) for node in nodes.alive())


def num_slots(resources: ResourcesConfig) -> int:
    """How many trials the cluster holds at once; ConfigError if none."""
    slots = _slots_there(resources)
    if slots == 0:
        raise _too_small(resources, ray.cluster_resources())
    return slots


def check_this_machine(resources: ResourcesConfig) -> None:
    """Raises ConfigError if a Ray of this machine alone could never hold a trial; asked before long preparations."""
    if not ray.is_initialized():
        check_here(resources)


def check_here(resources: ResourcesConfig) -> None:
    """Raises ConfigError if this machine could never hold a trial, whatever Ray this process has joined."""
    if not slots_here(resources):
        raise _too_small(resources, _this_machine())


def places(resources: ResourcesConfig) -> int:
    """How many trials the cluster holds at once, or would if Ray were started here; ConfigError if none."""
    check_this_machine(resources)
    return num_slots(resources) if ray.is_initialized() else slots_here(resources)


def slots_here(resources: ResourcesConfig) -> int:
    """How many trials a Ray of this machine alone would hold at once."""
    return slots_of(_this_machine(), resources)


def _this_machine() -> dict[str, float]:
    import torch

    return {"CPU": float(num_cores()), "GPU": float(torch.cuda.device_count())}


def _too_small(resources: ResourcesConfig, there: Mapping[str, float]) -> ConfigError:
    return ConfigError(
        f"resources: a trial asks for {resources.cpus_per_trial} CPUs and {resources.gpus_per_trial:g} GPUs, "
        f"but no node has them (all nodes together: {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs)"
    )


def _trial_name(trial: Trial) -> str:
    retry = trial.config.get("retry")
    return f"{trial.config['number']:04d}_{trial.config['arm']}" + (f"_retry{retry}" if retry else "")
