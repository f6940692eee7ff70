"""The figure that can be believed: a search's best configurations on fresh seeds, and one look at the test images.

The order of things is what makes the figure honest. What will be trained is written down before anything is trained;
one configuration an arm is chosen by validation images, and trained on seeds that had no part in the choice; these
trainings, with a fingerprint of every student's weights, are recorded in the search's own ledger as an opening of the
test set; only then are the test images read. So:

- a confirmation that is stopped before the opening goes on where it was, and nothing was seen;
- one that is killed between the opening and its figures has been counted, and goes on too: the record says which
  weights the test images were opened for, and no others are asked;
- anything else that would look at the test images again needs `again`, trains on other seeds, and is counted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kd_tune import candidates, confirmation, records
from kd_tune.advice import search_again
from kd_tune.arms import resolved
from kd_tune.config import ArmConfig, SamplerConfig, SchedulerConfig, SearchConfig
from kd_tune.confirm_figures import Chosen, collect, common_teacher, make_figures
from kd_tune.confirmation import Confirmation, Plan
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, NothingUsable, TrainingsFailed
from kd_tune.export import Exported, export_students
from kd_tune.joining import joined
from kd_tune.ledger import PLAN, SEARCH_FILE, Run, refuse_confirmation, replay
from kd_tune.manifest import hardware, versions
from kd_tune.mirror import Mirror, mirrored, storage_of
from kd_tune.opening import checkpoint_of, open_test_set
from kd_tune.paths import read_record, write_json, written_whole
from kd_tune.progress import counted
from kd_tune.records import derive_seed
from kd_tune.retraining import RetrainingProposer, in_words, trainings_by_arm
from kd_tune.run_setup import Found, find_again
from kd_tune.run_state import Event, RunState
from kd_tune.search import Launch, run_trials
from kd_tune.search_checks import check
from kd_tune.search_file import SearchFile, load_search_file
from kd_tune.selection import Selection, leading_arm
from kd_tune.strict_yaml import dump_yaml

STORAGE_ADVICE = "when the storage is back, the same command goes on, without --again"


@dataclass(frozen=True)
class Request:
    """What is to be confirmed.

    Attributes:
        top: configurations of every model, at most, of which one is chosen.
        num_seeds: trainings of the chosen one, which are reported.
        all_students: compare models at every student that arms have in common, not only at the best one. None: if the
            search's goal was the front.
        by: the parameter whose values are compared; None: arms are.
        where: values that parameters of candidates must have.
        again: open the test set once more.
    """

    top: int
    num_seeds: int
    all_students: bool | None = None
    by: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False

    def selection(self, goal: str) -> Selection:
        """Which trials are candidates, after a search with this goal."""
        all_students = goal == "front" if self.all_students is None else self.all_students
        return Selection(self.top, all_students, self.by, self.where)

    def command(self, folder: Path) -> str:
        """What a person typed, for the record."""
        options = ["--students all"] if self.all_students else []
        options += [f"--by {self.by}"] if self.by else []
        options += [f"--where {name}={value}" for name, value in self.where.items()]
        options += ["--again"] if self.again else []
        return " ".join([f"kd-tune confirm {folder.name} --top {self.top} --seeds {self.num_seeds}", *options])


def confirm(folder: Path, request: Request, launch: Launch, console: Console) -> Confirmation | None:
    """Trains a search's best configurations again, chooses, opens the test set, and exports; or goes on with that.

    Args:
        folder: the search's run.
        request: what is to be confirmed.
        launch: how to run the trainings.
        console: shows progress.

    Returns:
        What was found; None if trainings are left, because it was interrupted or out of time.

    Raises:
        NothingUsable: there is no figure to confirm, or no student came through with every seed.
        TrainingsFailed: errors ended some trainings, so the test set stays shut.
        ConfigError: the search has not ended, was confirmed before, or a confirmation of another kind was begun.
    """
    check_request(request)
    refuse_confirmation(folder, "confirm the search itself: kd-tune confirm")
    with ExitStack() as stack:
        run = stack.enter_context(closing(Run(folder)))
        mirror = stack.enter_context(mirrored(folder, console, STORAGE_ADVICE))
        if mirror is not None:
            run.listeners.append(mirror)
        number = confirmation_number(folder, run.state.test_openings, request.again)
        place = confirmation.folder_of(folder, number)
        if not (place / PLAN).exists():
            _check_ended(run, launch)
        file = load_search_file(folder / SEARCH_FILE)
        request.selection(file.search.goal).check(check(file))  # before a teacher is looked for, or trained
        stack.enter_context(joined(launch.address, folder, storage_of(folder), file.resources))
        found = find_again(folder, launch.source, console)
        _check_test_images(found.dataset)
        if (place / PLAN).exists():
            plan = _go_on_with(place, request.selection(found.file.search.goal), request.num_seeds, run.state, console)
        else:
            seed = derive_seed(found.file.search.seed, "confirmation", number)
            plan = _begin(place, request.selection(found.file.search.goal), request.num_seeds, seed, run.state, found)
        state = replay(place)
        if state.failed() or not _has_ended(state):
            state = _train(place, plan, found, launch, console, mirror)
        if not _has_ended(state):
            return None
        chosen, left_out = _collect(place, plan, state)
        name = common_teacher(chosen, found.spaces)
        beside = (name, found.networks[name]) if name in found.networks else None
        answers = open_test_set(run, place, chosen, found.dataset, beside, request.command(folder))
        groups = found.dataset.class_groups
        result = make_figures(run.state, found.spaces, found.manifest, plan, chosen, left_out, answers, groups)
        for line in _export(folder, place, chosen, result, found.dataset):
            console.print(f"export: {line}")
        write_json(place / confirmation.FIGURES, result.model_dump())
        return result


def check_request(request: Request) -> None:
    """Raises ConfigError if nothing could be said from so little."""
    problems = []
    if request.top < 1:
        problems.append(f"--top {request.top}: at least 1 configuration of everything that is compared")
    if request.num_seeds < 2:
        problems.append(f"--seeds {request.num_seeds}: at least 2, or there is no spread and no interval")
    if problems:
        raise ConfigError(problems)


def _check_test_images(dataset: Dataset) -> None:
    """Raises ConfigError if there are too few for an interval: said before trainings and an opening are spent."""
    if not (count := dataset.num_test):
        raise ConfigError(f"{dataset.name}: the data set has no test images, so nothing can be confirmed")
    if count < 2:
        raise ConfigError(
            f"{dataset.name}: there is {count} test image; an interval needs at least 2, better thousands"
        )


def confirmation_number(folder: Path, openings: list[Event], again: bool) -> int:
    """Which confirmation is to be begun or gone on with.

    Args:
        folder: the search's run.
        openings: of the test set, as the search's ledger has them.
        again: whether the test set may be opened once more.

    Raises:
        ConfigError: it would open the test set once more, and may not; or need not.
    """
    opened = {str(event.get("confirmation")) for event in openings}
    number = max(confirmation.begun(folder) + confirmation.numbers(opened), default=0)  # a look at a deleted one counts
    if number == 0:
        return 1
    place = confirmation.folder_of(folder, number)
    begun, seen = (place / PLAN).exists(), place.name in opened
    if begun and not (place / confirmation.FIGURES).exists() and not (again and (seen or _came_to_nothing(place))):
        if again:
            raise ConfigError(f"{place}: was begun and has not opened the test set; go on with it, without --again")
        return number
    if not again:
        raise ConfigError(
            f"{folder}: was confirmed; the test set has been opened {counted(len(openings), 'time')} for it. "
            "--again trains on fresh seeds, opens it once more, and every report says so"
        )
    return number + 1


def _came_to_nothing(place: Path) -> bool:
    """Whether a confirmation has trained everything, and no student came through."""
    plan, state = read_record(place / PLAN, Plan), replay(place)
    return _has_ended(state) and not state.failed() and not collect(plan, state)[0]


def retraining_file(file: SearchFile, plan: Plan) -> SearchFile:
    """The search file of a confirmation: as many trials as trainings, none stopped, with seeds of their own."""
    counts = trainings_by_arm(plan)
    arms = dict.fromkeys(candidate.arm for candidate in plan.candidates)
    search = SearchConfig(
        arms=[ArmConfig.model_validate({"name": arm, "num_trials": counts[arm]}) for arm in arms],
        sampler=SamplerConfig(name="random"),
        scheduler=SchedulerConfig(name="none"),
        seed=plan.seed,
        max_failures=file.search.max_failures,
    )
    return replace(file, search=search)


def _check_ended(run: Run, launch: Launch) -> None:
    left = run.state.num_left()
    if left:
        again = search_again(run.folder, launch.source, launch.address)
        raise ConfigError(f"{run.folder}: the search has not ended, {left} trials are left; finish it first: {again}")
    if not any(trial.usable for trial in run.state.trials.values()):
        raise NothingUsable(f"{run.folder}: no trial gave a figure, so there is nothing to confirm")


def _check_plan(folder: Path, plan: Plan, state: RunState, selection: Selection) -> None:
    if plan.candidates:
        return
    if selection.where:
        wanted = ", ".join(f"{name}={value}" for name, value in selection.where.items())
        raise ConfigError(f"{folder}: no trial of the distilled arm, or the first one, with {wanted} gave a figure")
    if selection.all_students:
        raise ConfigError(f"{folder}: no student has trials of every arm; --students best compares what there is")
    raise NothingUsable(
        f"{folder}: no trial of {leading_arm(state.quota)} gave a figure, so no student can be compared"
    )


def _begin(place: Path, selection: Selection, num_seeds: int, seed: int, state: RunState, found: Found) -> Plan:
    """Plans a confirmation and makes its run, whole or not at all."""
    plan = candidates.make_plan(state, found.spaces, selection, num_seeds, seed)
    _check_plan(place.parent, plan, state, selection)
    file = retraining_file(found.file, plan)
    manifest = found.manifest.model_copy(
        update={
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seed": plan.seed,
            "versions": versions(),
            "hardware": hardware(),
        }
    )
    with written_whole(place) as temporary, closing(Run.create(temporary, dump_yaml(resolved(file)), manifest)):
        write_json(temporary / PLAN, plan.model_dump())
    return plan


def _go_on_with(place: Path, selection: Selection, num_seeds: int, state: RunState, console: Console) -> Plan:
    """The plan of a confirmation that was begun, which is followed though the search may have gone on since.

    Raises:
        ConfigError: now something else is asked for.
    """
    plan = read_record(place / PLAN, Plan)
    all_students = selection.all_students if plan.all_students is None else plan.all_students
    then = _options(Selection(plan.top, all_students, plan.by, plan.where), plan.num_seeds)
    now = _options(selection, num_seeds)
    if differing := [option for option, other in zip(then, now, strict=True) if option != other]:
        raise ConfigError(
            f"{place}: this confirmation was begun with {', '.join(differing)}; go on with that, or delete the folder"
        )
    newer = 0 if plan.search_trials is None else len(state.trials) - plan.search_trials
    if newer:
        console.print(
            f"{newer} trials that the search had since then are not in it; a later one (--again) can have them"
        )
    return plan


def _options(selection: Selection, num_seeds: int) -> list[str]:
    """What a confirmation is asked for, as a person types it."""
    where = [f"--where {name}={value}" for name, value in sorted(selection.where.items())]
    return [
        f"--top {selection.top}",
        f"--seeds {num_seeds}",
        f"--students {'all' if selection.all_students else 'best'}",
        f"--by {selection.by}" if selection.by else "no --by",
        " ".join(where) or "no --where",
    ]


def _collect(place: Path, plan: Plan, state: RunState) -> tuple[list[Chosen], list[str]]:
    """What was chosen and what is left out, if the test set may be opened for it (`confirm_figures.collect`).

    A training that diverged is a result. One that failed, for want of disk or memory, is none: opened without it, the
    test set would be opened for another comparison than was planned, or have to be opened again.
    """
    if failed := state.failed():
        raise TrainingsFailed(
            f"{place}: the test set stays shut, because {len(failed)} of {len(state.trials)} trainings failed, the "
            f"last with: {failed[-1].error}. Mend that and give the same command: it trains them again, on their seeds"
        )
    chosen, left_out = collect(plan, state)
    if not chosen:
        raise NothingUsable(
            f"{place}: the test set stays shut; left out: {'; '.join(left_out)}. With --again a new confirmation "
            "trains on other seeds; a larger --top lets more configurations compete"
        )
    return chosen, left_out


def _has_ended(state: RunState) -> bool:
    """Whether nothing of a confirmation is left to train; how much there is, a run knows from its first launch on."""
    return bool(state.launches) and not state.num_left()


def _train(place: Path, plan: Plan, found: Found, launch: Launch, console: Console, mirror: Mirror | None) -> RunState:
    """Trains what is left of a confirmation; one that cannot begin leaves nothing behind."""
    launch, file = replace(launch, source=found.source), retraining_file(found.file, plan)
    console.print(in_words(plan))
    try:
        run = Run(place)
        if failed := run.state.failed():
            console.print(f"{len(failed)} trainings failed and are trained again; the last with: {failed[-1].error}")
            numbers = [trial.number for trial in failed]
            run.record(records.REOPENED, trials=numbers, quota=trainings_by_arm(plan))
        proposer = RetrainingProposer(run, plan, found.spaces)
        return run_trials(run, file, found.spaces, found.teachers, launch, console, retrainings=proposer, mirror=mirror)
    except BaseException:
        if not any(trial.rows for trial in replay(place).trials.values()):
            shutil.rmtree(place)
        raise


def _export(folder: Path, place: Path, chosen: list[Chosen], result: Confirmation, dataset: Dataset) -> list[str]:
    """The training with the median validation accuracy of every arm and student, in place of an earlier export."""
    students = {
        arm.export: Exported(checkpoint_of(place, one.median), {"confirmed": arm.model_dump()})
        for one, arm in zip(chosen, result.arms, strict=True)
    }
    return export_students(students, folder / confirmation.EXPORT, dataset, replace=True)
