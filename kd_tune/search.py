"""A search from its file to its end: check everything, prepare, run on Ray, and go on after a stop.

Resuming and extending are one operation: replay the ledger, continue unfinished trials from their checkpoints, propose
what is missing. Nothing depends on Ray's own snapshots.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from kd_tune import cluster, records, soft_targets, teacher, user_code
from kd_tune.advice import search_again
from kd_tune.arms import resolved
from kd_tune.catalog import load_dataset
from kd_tune.data import files_of, resolve_source
from kd_tune.errors import ConfigError
from kd_tune.glance import Course
from kd_tune.joining import check_files, joined
from kd_tune.ledger import (
    KEPT_CHECKPOINTS,
    Run,
    already_there,
    checkpoints_of,
    read_events,
    refuse_confirmation,
)
from kd_tune.limits import NO_LIMITS, Allowance, DeviceTime, Limits, device_time
from kd_tune.manifest import MANIFEST, Manifest, versions
from kd_tune.mirror import Mirror, discard, mirrored, storage_for, storage_of
from kd_tune.node_files import Parcel, pack
from kd_tune.paths import Busy, read_record
from kd_tune.prepare import prepare
from kd_tune.records import TeacherPlace
from kd_tune.run_setup import file_of, find_again, fingerprints_of, make_run, manifest_of, places_of
from kd_tune.run_state import Event, RunState, TrialState, ranked
from kd_tune.scheduler import Referee, RunScheduler, replay_verdicts
from kd_tune.search_checks import check, check_draws, stack_size, stacks_in_words, students_by_size
from kd_tune.search_file import SearchFile
from kd_tune.searcher import Proposer, RunSearcher, SearchProposer
from kd_tune.space import Space
from kd_tune.storage import Storage
from kd_tune.strata import Students
from kd_tune.tensorboard_log import TensorBoardLog
from kd_tune.trackers import NO_TRACKERS, Trackers
from kd_tune.trainable import RunContext
from kd_tune.warm_start import check_equal, read_earlier
from kd_tune.watch import watching

LOCK_PAUSE = 1.0  # seconds before a lock is tried again
MOST_NAMED = 10  # trials that go on and are named one by one


@dataclass(frozen=True)
class Launch:
    """How a search is started or resumed, beside what its file says.

    Attributes:
        source: where the data lie; None: the usual place, or where the run found them.
        address: of a running Ray cluster; None: Ray on this machine alone.
        limits: when it stops, though trials are left.
        extend: trials to add to every arm of a run that is resumed.
        warm_start: earlier runs that a new one learns from.
        began: by `time.monotonic`; preparing counts.
        trackers: who is told of trials, too.
        patience: seconds for which a run that another process holds is waited for.
        storage: a URL or shared folder where a new run is kept too; one that is resumed knows its own.
    """

    source: Path | None = None
    address: str | None = None
    limits: Limits = NO_LIMITS
    extend: int = 0
    warm_start: tuple[Path, ...] = ()
    began: float = field(default_factory=time.monotonic)
    storage: str | None = None
    trackers: Trackers = NO_TRACKERS
    patience: float = 0.0


def start(file: SearchFile, folder: Path, launch: Launch, console: Console) -> RunState:
    """Runs a new search in a folder that must not exist yet.

    Returns:
        The state that the search ended in.

    Raises:
        ConfigError: anything that is wrong with file, data, teacher, folder or cluster; nothing is left behind.
    """
    spaces = check(file)
    if folder.exists():
        raise ConfigError(already_there(folder))
    launch.trackers.check()
    if launch.address is None:
        cluster.check_this_machine(file.resources)
    storage = None if launch.storage is None else storage_for(launch.storage, folder)
    with joined(launch.address, folder, storage, file.resources):
        return _start(file, spaces, folder, storage, launch, console)


def _start(
    file: SearchFile,
    spaces: dict[str, Space],
    folder: Path,
    storage: Storage | None,
    launch: Launch,
    console: Console,
) -> RunState:
    earlier = read_earlier(launch.warm_start, file.search)
    advice = resume_advice(folder, launch)
    source = resolve_source(file.trial["dataset"]["name"], launch.source)
    dataset = load_dataset(file.trial["dataset"], source)
    check_equal(earlier, trial=resolved(file)["trial"], data=dataset.fingerprint)
    check_draws(spaces, dataset, file.search.seed)
    students = students_by_size(file, spaces, dataset)
    prepared = prepare(file.trial, dataset, source, console)
    check_equal(earlier, teachers=fingerprints_of(prepared))
    for line in make_run(folder, file, manifest_of(file, dataset, prepared, source), earlier, students, storage):
        console.print(line)
    run = Run(folder)
    try:
        launch = replace(launch, source=source)
        with mirrored(folder, console, advice) as mirror:
            return run_trials(run, file, spaces, places_of(prepared), launch, console, students, mirror=mirror)
    except BaseException:
        if not run.state.trials:  # the cluster was not there, or cannot hold a trial
            if launch.storage is not None:
                discard(folder, launch.storage)
            shutil.rmtree(folder, ignore_errors=True)  # what went wrong first is what is said
        raise


def resume_advice(folder: Path, launch: Launch) -> str:
    """How to go on with a run that lost its storage, in a launch as it was given."""
    return f"when the storage is back, go on with: {search_again(folder, launch.source, launch.address)}"


def resume(folder: Path, launch: Launch, console: Console) -> RunState:
    """Goes on with a run: unfinished trials, trials not proposed yet, and `launch.extend` more in every arm.

    Raises:
        ConfigError: no run here, somebody else is running it, or data or teacher have changed since.
    """
    refuse_confirmation(folder, "go on with: kd-tune confirm")
    launch.trackers.check()
    with ExitStack() as stack:
        # First, so that a second launcher is refused before it prepares anything.
        run = stack.enter_context(closing(_opened(folder, launch.patience, console)))
        _check_storage(folder, launch.storage)
        mirror = stack.enter_context(mirrored(folder, console, resume_advice(folder, launch)))
        stack.enter_context(joined(launch.address, folder, storage_of(folder), file_of(folder).resources))
        found = find_again(folder, launch.source, console)
        students = students_by_size(found.file, found.spaces, found.dataset)
        launch = replace(launch, source=found.source)
        return run_trials(run, found.file, found.spaces, found.teachers, launch, console, students, mirror=mirror)


def _opened(folder: Path, patience: float, console: Console) -> Run:
    """A run, when whoever holds it has let go; a lock of a machine that was lost goes a while after it."""
    deadline = time.monotonic() + patience
    waits = False
    while True:
        try:
            return Run(folder)
        except Busy as busy:
            if time.monotonic() >= deadline:
                raise
            if not waits:
                console.print(f"{busy}: waiting for up to {patience:.0f} s")
            waits = True
            time.sleep(LOCK_PAUSE)


def _check_storage(folder: Path, given: str | None) -> None:
    """Raises ConfigError if a storage was given that is not the run's."""
    kept = storage_of(folder)
    if given is not None and (kept is None or kept.url != Storage(given).child(folder.name).url):
        where = "in none" if kept is None else f"at {kept.url}"
        raise ConfigError(f"--storage {given}: {folder} is kept {where}; leave --storage out, or take another --name")


def run_trials(
    run: Run,
    file: SearchFile,
    spaces: dict[str, Space],
    teachers: Mapping[str, TeacherPlace],
    launch: Launch,
    console: Console,
    students: Students | None = None,
    retrainings: Proposer | None = None,
    mirror: Mirror | None = None,
) -> RunState:
    """Gives Ray what there is to do; records how this launch began and ended.

    Args:
        run: closed at the end.
        file: its search file.
        spaces: by arm.
        teachers: where each teacher's answers are.
        launch: how to run it.
        console: shows progress.
        students: by their size; None if trials of all sizes compete with each other.
        retrainings: what a confirmation trains in place of new draws; each keeps its last checkpoint then, not only an
            arm's best few.
        mirror: keeps up its copy in a storage, where checkpoints are then.
    """
    num_epochs = file.trial["training"]["num_epochs"]
    with closing(run):
        referee = Referee(file.search.scheduler, num_epochs)
        past = list(read_events(run.folder))
        devices = device_time(past, file.resources)
        run.listeners.append(devices)
        replay_verdicts(run, referee, past)
        done = run.state.launches and not (run.state.num_left() or launch.extend)
        if done:
            console.print(f"{run.folder}: every trial has ended; --extend adds some")
            return run.state
        allowance = Allowance(launch.limits, launch.began, devices, lambda: None if mirror is None else mirror.problem)
        allowance.check_devices(run.folder)
        context = _context(run.folder, file, spaces, teachers, launch, (1, *referee.epochs, num_epochs))
        if mirror is not None:
            context = replace(context, storage=mirror.url_of(run.folder))
        with cluster.connected(launch.address):
            room = cluster.Room(run, file.resources, stack_size(file, spaces, proposes=retrainings is None))
            check_files(context.parcels, file.resources)
            _record_start(run, file, students, room, launch.extend)
            how = f"{room.places}; {stacks_in_words(room.stack, file, spaces)}"
            _announce(run, file, referee, how, console)
            with (
                watching(console, run.state, Course(num_epochs, tuple(referee.epochs))) as watch,
                closing(TensorBoardLog(run.folder, run.state, referee.epochs)) as curves,
            ):
                keeper = [] if retrainings else [CheckpointKeeper(run.folder, mirror)]
                run.listeners += [*keeper, watch, curves]
                with suppress(KeyboardInterrupt):  # recorded as a pause, like one that Tune took notice of
                    proposer = retrainings or SearchProposer(run, spaces, file.search, students)
                    searcher = RunSearcher(run, proposer, room)
                    scheduler = RunScheduler(run, referee)
                    told = launch.trackers.callbacks(run.folder.name, run.state.launches)
                    cluster.fit(run, file, context, searcher, scheduler, room, allowance, told)
        _record_end(run, devices, allowance.reached(), console)
        return run.state


def _context(
    folder: Path,
    file: SearchFile,
    spaces: Mapping[str, Space],
    teachers: Mapping[str, TeacherPlace],
    launch: Launch,
    checkpoint_epochs: tuple[int, ...],
) -> RunContext:
    source = None if launch.source is None else launch.source.resolve()
    return RunContext(
        spaces=spaces,
        seed=file.search.seed,
        folder=str(folder.resolve()),
        source=None if source is None else str(source),
        teachers=teachers,
        checkpoint_epochs=checkpoint_epochs,
        threads=file.resources.cpus_per_trial,
        epoch_seconds=file.resources.epoch_seconds,
        fingerprint=read_record(folder / MANIFEST, Manifest).fingerprints.data,
        allowed=(user_code.allowed(), user_code.search_path()),
        parcels=() if launch.address is None else tuple(_parcels(file.trial["dataset"]["name"], source, teachers)),
    )


def _parcels(dataset: str, source: Path | None, teachers: Mapping[str, TeacherPlace]) -> Iterator[Parcel]:
    """What trials read and another node may lack."""
    if source is not None:
        yield pack("data", source, files_of(dataset, source))
    for name, place in teachers.items():
        if place.bank is not None:
            yield pack(f"answers of {name}", Path(place.bank), soft_targets.FILES)
        if place.live is not None:
            yield pack(f"teacher {name}", Path(place.live), teacher.FILES)


def _record_start(run: Run, file: SearchFile, students: Students | None, room: cluster.Room, extend: int) -> None:
    strata = run.state.strata or (students.edges() if students else ())
    quota = file.search.trials_by_arm()
    run.record(records.STARTED, quota=quota, strata=strata, versions=versions(), slots=room.places, stack=room.stack)
    if extend:
        run.record(records.EXTENDED, num_trials=extend)


def _record_end(run: Run, devices: DeviceTime, limit: str | None, console: Console) -> None:
    left, hours = run.state.num_left(), round(devices.hours(), 4)
    if left:
        run.record(records.PAUSED, trials_left=left, limit=limit, device_hours=hours)
    else:
        run.record(records.FINISHED, trials_left=left, device_hours=hours)
    reached = f"; stopped by {limit}" if left and limit else ""
    console.print(f"devices: held for {hours:.2f} hours by all launches of this run{reached}")


def _announce(run: Run, file: SearchFile, referee: Referee, places: str, console: Console) -> None:
    arms = ", ".join(f"{count} x {arm}" for arm, count in run.state.quota.items())
    num_epochs = file.trial["training"]["num_epochs"]
    console.print(f"run: {run.folder}")
    console.print(f"trials: {arms}, {num_epochs} epochs each; {referee.rule}")
    console.print(f"places: {places}")
    if run.state.strata:
        console.print(f"sizes of student, up to: {', '.join(f'{edge:,}' for edge in run.state.strata)} parameters")
    if run.state.trials:
        ended = sum(trial.end is not None for trial in run.state.trials.values())
        console.print(
            f"going on: {ended} trials have ended, {name_trials(run.state.unfinished())} continue, "
            f"{run.state.num_missing()} are still to come"
        )
    console.print(f"watch: {shlex.join(['kd-tune', 'tensorboard', str(run.folder)])}")


def name_trials(trials: list[TrialState]) -> str:
    """How many trials, and which of them if they are few."""
    names = ", ".join(str(trial.number) for trial in trials)
    if not trials:
        return "none"
    return f"{len(trials)} (trial {names})" if len(trials) <= MOST_NAMED else str(len(trials))


class CheckpointKeeper:
    """Listens to a run, and deletes the checkpoints of trials that ended outside their arm's and stratum's best few."""

    def __init__(self, folder: Path, mirror: Mirror | None) -> None:
        self._folder = folder
        self._mirror = mirror
        self._gone: set[int] = set()

    def __call__(self, event: Event, state: RunState) -> None:
        if event["event"] != records.STOPPED:
            return
        stopped = state.trials[event["trial"]]
        rivals = [trial for trial in state.of_arm(stopped.arm) if trial.stratum == stopped.stratum]
        best_first = ranked(trial for trial in rivals if trial.end is not None)
        diverged = [trial for trial in rivals if trial.end == "diverged"]
        useless = {trial.number for trial in [*diverged, *best_first[KEPT_CHECKPOINTS:]]} - self._gone
        for number in useless:
            folder = checkpoints_of(self._folder, number)
            if folder.exists():  # its host may write to it still: it is looked for once more at the next stop
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._gone.add(number)
        if self._mirror is not None:
            self._mirror.forget(useless)
