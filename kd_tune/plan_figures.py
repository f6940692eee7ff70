"""What a search will take, worked out before it starts: trials, epochs, hours, disk, and what limits let it do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from kd_tune import cluster, speed, user_code
from kd_tune.arms import teachers_of
from kd_tune.catalog import load_dataset
from kd_tune.data import Dataset, resolve_source
from kd_tune.errors import ConfigError
from kd_tune.expected import Lengths, lengths_of_arm, trials_of_arm
from kd_tune.fills import Fill, fills
from kd_tune.ledger import KEPT_CHECKPOINTS
from kd_tune.limits import HOUR, Limits, devices_of_place
from kd_tune.prepare import find_teacher
from kd_tune.records import DISTIL
from kd_tune.scheduler import Referee
from kd_tune.search_checks import check, check_draws, check_sizes, random_draws, stack_size
from kd_tune.search_file import SearchFile
from kd_tune.space import Draw, Space
from kd_tune.speed import Speed
from kd_tune.strata import Students, stratum_of
from kd_tune.student_sizes import survey

DRAWS = 200

# What a search takes beside training, from four searches of 90 to 400 trials on two cores: until its first trials
# train, and of a place for every trial (0.1 to 0.5).
START_SECONDS = 10.0
TRIAL_SECONDS = 0.35

# Bytes, of runs as they lie on disk: checkpoints hold weights and at most two moments of each; of the logs, a trial's
# are Ray's snapshot of it, an epoch's are TensorBoard's.
CHECKPOINT_BYTES, WEIGHT_BYTES = 8_000, 12
LEDGER_BYTES = {"trial": 750, "epoch": 600}
LOG_BYTES = {"trial": 28_300, "epoch": 360}


@dataclass(frozen=True)
class Group:
    """Trials that compete with each other: of an arm and, where a search has strata, of a size of student.

    Attributes:
        arm: their arm.
        lengths: how many of them end after how many epochs.
        seconds: an epoch of one of their students, on average.
        num_parameters: of the largest student.
    """

    arm: str
    lengths: Lengths
    seconds: float
    num_parameters: int

    @property
    def trials(self) -> float:
        return sum(self.lengths.values())

    @property
    def epochs(self) -> float:
        return sum(length * count for length, count in self.lengths.items())

    def reach(self, epoch: int) -> float:
        """Trials that are trained for so many epochs."""
        return sum(count for length, count in self.lengths.items() if length >= epoch)


@dataclass(frozen=True)
class Plan:
    """A search before it starts.

    Attributes:
        file: its search file.
        rule: what its scheduler does.
        milestones: the first epoch, rungs, and the last.
        groups: its trials.
        fills: its teachers.
        speed: of its students.
        places: where they are trained.
        stack: trials that one place holds.
    """

    file: SearchFile
    rule: str
    milestones: tuple[int, ...]
    groups: Sequence[Group]
    fills: Sequence[Fill]
    speed: Speed
    places: int
    stack: int

    @property
    def arms(self) -> dict[str, list[Group]]:
        """The groups by arm."""
        return {arm: [group for group in self.groups if group.arm == arm] for arm in self.file.search.trials_by_arm()}

    @property
    def trials(self) -> float:
        return sum(group.trials for group in self.groups)

    @property
    def epochs(self) -> float:
        return sum(group.epochs for group in self.groups)

    @property
    def preparing_hours(self) -> float:
        """Until all teachers are there and have answered."""
        return sum(fill.training + fill.seconds for fill in self.fills) / HOUR

    @property
    def training_hours(self) -> float:
        """From then on."""
        trained = sum(group.epochs * group.seconds for group in self.groups)
        return (START_SECONDS + (trained + TRIAL_SECONDS * self.trials) / self.places) / HOUR

    @property
    def device_hours(self) -> float:
        return self.training_hours * self.places * devices_of_place(self.file.resources)

    def share_within(self, limits: Limits) -> dict[str, float]:
        """The share of the student epochs that fits into each limit that there is, by its option."""
        shares = {}
        if limits.hours is not None:
            shares["--max-hours"] = (limits.hours - self.preparing_hours) / self.training_hours
        if limits.device_hours is not None:
            shares["--max-device-hours"] = limits.device_hours / self.device_hours
        return {name: min(1.0, max(0.0, share)) for name, share in shares.items()}

    def disk(self) -> dict[str, int]:
        """Bytes by what they are for; checkpoints: of each group's best trials, and of all that train at once."""
        kept = [
            size
            for group in self.groups
            for size in [_checkpoint_bytes(group.num_parameters)] * round(min(KEPT_CHECKPOINTS, group.trials))
        ]
        at_once = self.places * self.stack * _checkpoint_bytes(max(group.num_parameters for group in self.groups))
        return {
            "checkpoints": sum(kept) + at_once,
            "ledger": self._by_count(LEDGER_BYTES),
            "logs": self._by_count(LOG_BYTES),
            "soft targets": sum(fill.num_bytes for fill in self.fills),
        }

    def _by_count(self, sizes: Mapping[str, int]) -> int:
        return round(self.trials * sizes["trial"] + self.epochs * sizes["epoch"])


def make(file: SearchFile, source: Path | None, like: Path | None = None, places: int | None = None) -> Plan:
    """Works out what a search will take; trains and writes nothing of it.

    Args:
        file: its search file.
        source: where the data lie; None: the usual place.
        like: an earlier run whose epochs say how long one takes; None: a few batches are timed here.
        places: of the cluster that it is for; None: of this machine.

    Raises:
        ConfigError: anything for which the search would be refused, or its speed cannot be known.
    """
    spaces = check(file)
    here = cluster.slots_here(file.resources)
    if places is None:
        cluster.check_here(file.resources)
    source = resolve_source(file.trial["dataset"]["name"], source)
    dataset = load_dataset(file.trial["dataset"], source)
    check_draws(spaces, dataset, file.search.seed)
    space = spaces.get(DISTIL) or next(iter(spaces.values()))
    students = survey(space, dataset.input_shape, file.search.seed)
    if file.search.goal == "front":
        check_sizes(file, students)
    stack = stack_size(file, spaces)
    draws = list(random_draws(space, file.search.seed, DRAWS))
    if like is not None:
        known = speed.recorded(like, dataset)
    else:
        known = _measured(file, space, _three_sizes(draws, students), dataset, source, stack, min(here, places or here))
    referee = Referee(file.search.scheduler, file.trial["training"]["num_epochs"])
    return Plan(
        file=file,
        rule=referee.rule,
        milestones=(1, *referee.epochs, file.trial["training"]["num_epochs"]),
        groups=_groups(file, spaces, students, draws, known),
        fills=fills(file.trial, dataset, source),
        speed=known,
        places=places or here,
        stack=stack,
    )


def _groups(
    file: SearchFile, spaces: Mapping[str, Space], students: Students, draws: Sequence[Draw], known: Speed
) -> list[Group]:
    edges = students.edges() if file.search.goal == "front" else ()
    sizes: dict[int, list[int]] = {stratum: [] for stratum in range(max(1, len(edges)))}
    for count in map(students.count, [*draws, *students.draws]):
        sizes[stratum_of(count, edges) if edges else 0].append(count)
    groups = []
    for arm, quota in file.search.trials_by_arm().items():
        by_stratum = lengths_of_arm(file, arm, trials_of_arm(spaces[arm], quota), len(sizes))
        for stratum, lengths in enumerate(by_stratum):
            seconds = mean(map(known.of, sizes[stratum]))
            groups.append(Group(arm, lengths, seconds, max(sizes[stratum])))
    return groups


def _measured(
    file: SearchFile,
    space: Space,
    draws: Sequence[Draw],
    dataset: Dataset,
    source: Path | None,
    stack: int,
    places: int,
) -> Speed:
    """Times a few of a search's students here, in as many places as it will have."""
    if not places:
        raise ConfigError("this machine holds no trial of this search, so how fast one is must be said by --like RUN")
    calibration = speed.Calibration(
        trials=[space.fill(draw) for draw in draws],
        source=source,
        stack=stack,
        device="cuda" if file.resources.gpus_per_trial else "cpu",
        threads=file.resources.cpus_per_trial,
        live=_live_teacher(file, dataset),
        allowed=(user_code.allowed(), user_code.search_path()),
    )
    return speed.measure(calibration, places)


def _live_teacher(file: SearchFile, dataset: Dataset) -> Path | None:
    """The folder of a teacher that is asked in every step."""
    live = [section for section in teachers_of(file.trial) if section.get("mode") == "live"]
    if not live:
        return None
    found = find_teacher(live[0], dataset)
    if found is None:
        raise ConfigError(
            "trial.teacher: it is live and not there yet, so how fast it is cannot be measured; make it first "
            "(`kd-tune teacher train`), or give --like RUN"
        )
    return found.folder


def _three_sizes(draws: Sequence[Draw], students: Students) -> list[Draw]:
    """Draws with the smallest, the median, and the largest student; fewer where sizes are fewer."""
    by_size = sorted(draws, key=students.count)
    chosen = (by_size[0], by_size[len(by_size) // 2], by_size[-1])
    return list({students.count(draw): draw for draw in chosen}.values())


def _checkpoint_bytes(num_parameters: int) -> int:
    return CHECKPOINT_BYTES + WEIGHT_BYTES * num_parameters
