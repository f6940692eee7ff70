"""A host that holds a device and trains many resident trials on it, in stacks: a plain class with a thread.

Trials come (`open`), ask for their rows (`rows`) and go (`leave`); meanwhile the thread trains whoever can go on:

- the least advanced first, so that trials which survived a rung wait for each other there and go on together;
- with all those whose next epoch shows the same images, as one stack; on a GPU with all of its kind, whatever epoch;
- by itself whoever was there when its last host died, up to its next checkpoint, so that the one that did it is known;
- in halves a stack that does not fit into memory, and no larger one from then on;
- no trial beyond an epoch after which it may be stopped (those with a checkpoint) before its client has asked for the
  row after, for until then nobody knows whether it goes on. Other epochs are trained ahead of the question.

Shapes: none; `stack` knows them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch

from kd_tune.engine import advance
from kd_tune.host import Training
from kd_tune.records import Assignment, EpochRow
from kd_tune.stack import advance_together, images_of, kind_of
from kd_tune.watchdog import in_hand, place_of, seconds_of, take_mark

UPLOADS = 16  # checkpoints that are on their way to a storage at once; at a rung a whole stack's are due


@dataclass
class _Resident:
    """A trial at the host.

    Attributes:
        assignment: the trial.
        training: made by the host's thread.
        kind: `stack.kind_of` its student.
        rows: trained, and not fetched yet.
        answered: the last epoch after which its client asked for more.
        alone_until: up to this epoch it is trained by itself.
        ended: whether `rows` holds all that will come.
        error: what broke it.
    """

    assignment: Assignment
    training: Training | None = None
    kind: Hashable | None = None
    rows: list[EpochRow] = field(default_factory=list)
    answered: int = 0
    alone_until: int = 0
    ended: bool = False
    error: Exception | None = None

    @property
    def epoch(self) -> int:
        return 0 if self.training is None else self.training.student.epoch

    @property
    def can_go_on(self) -> bool:
        """Whether its next epoch is wanted, as far as anybody can know."""
        open_questions = (epoch for epoch in self.assignment.checkpoint_epochs if self.answered < epoch <= self.epoch)
        return not self.ended and not any(open_questions)


class StackedHost:
    """Trains resident trials until the process ends.

    Args:
        threads: on a CPU.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._residents: dict[int, _Resident] = {}
        self._largest: dict[Hashable, int] = {}  # stacks that fit into memory, by kind, where larger ones did not
        self._note = ""  # what the next row takes along
        self._changed = threading.Condition()
        self._uploads = ThreadPoolExecutor(UPLOADS, "upload")
        threading.Thread(target=self._train_for_ever, name="stack", daemon=True).start()

    def load(self, number: int) -> tuple[bool, int]:
        """Whether a trial is here, and how many are."""
        with self._changed:
            return number in self._residents, len(self._residents)

    def open(self, assignment: Assignment) -> None:
        """Takes a trial in; one of the same number, whose client must have died, is forgotten."""
        with self._changed:
            self._forget(assignment.number)
            self._residents[assignment.number] = _Resident(assignment)
            self._changed.notify_all()

    def rows(self, number: int, answered: int) -> list[EpochRow]:
        """Waits for a trial's next epochs.

        Args:
            number: the trial's.
            answered: the last epoch that the client has reported without being stopped; 0 at first.

        Returns:
            At least one row; none if the trial has ended.

        Raises:
            ConfigError: data, bank or checkpoint are missing or damaged.
            Exception: whatever else broke the trial.
        """
        with self._changed:
            resident = self._residents[number]
            resident.answered = answered
            self._changed.notify_all()
            self._changed.wait_for(lambda: resident.rows or resident.ended)
            if not resident.rows and resident.error is not None:
                raise resident.error
            rows, resident.rows = resident.rows, []
            return rows

    def leave(self, number: int) -> None:
        """Forgets a trial; its checkpoints stay."""
        with self._changed:
            self._forget(number)

    def _forget(self, number: int) -> None:
        """Nobody waits for a trial's rows any more: a call on behalf of a client that died comes back empty."""
        gone = self._residents.pop(number, None)
        if gone is not None:
            gone.ended = True
            self._changed.notify_all()

    def _train_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(one.can_go_on for one in self._residents.values()))
                residents = [one for one in self._residents.values() if one.can_go_on]
            if any(one.training is None for one in residents):
                self._admit([one for one in residents if one.training is None])
            else:
                stack = next_stack(residents)
                self._train(stack[: self._largest.get(stack[0].kind)])

    def _admit(self, residents: Iterable[_Resident]) -> None:
        """Makes newcomers' students; those that go on have their checkpoint's row at once."""
        for resident in residents:
            if _is_marked(resident):
                take_mark(place_of(resident.assignment))  # one that nobody came for
            try:
                with _watched([resident]):
                    training = Training(resident.assignment)
                    kind = kind_of(training.student, training.data)
            except Exception as caught:
                self._end(resident, caught)
                continue
            with self._changed:
                resident.training, resident.kind = training, kind
                resident.alone_until = _next_checkpoint(resident)
                resident.rows += training.restored
                resident.ended |= training.ended
                self._changed.notify_all()

    def _train(self, residents: Sequence[_Resident]) -> None:
        """An epoch of some residents that can be trained together, or of one."""
        trainings = [one.training for one in residents if one.training is not None]
        students, data = [one.student for one in trainings], trainings[0].data
        try:
            with _watched(residents):
                rows = [advance(students[0], data)] if residents[0].kind is None else advance_together(students, data)
        except Exception as caught:
            broken = caught
        else:
            # To a storage they take their time side by side. Nobody is trained meanwhile, so that stacks stay together.
            at_once = trainings[0].assignment.storage is not None
            list((self._uploads.map if at_once else map)(self._give_out, residents, trainings, rows))
            return
        if isinstance(broken, torch.OutOfMemoryError):
            broken.with_traceback(None)  # its frames hold what did not fit
        if len(residents) == 1:
            self._end(residents[0], broken)
            return
        parts = [[one] for one in residents]  # one of them broke it: by itself, it will say so
        if isinstance(broken, torch.OutOfMemoryError):
            half = -(-len(residents) // 2)
            self._largest[residents[0].kind] = half
            self._note = (
                f"{len(residents)} students in one step do not fit into the device's memory; from now on {half} are "
                f"trained at a time (resources.stack: {half} has no more at its host)"
            )
            parts = [list(residents[:half]), list(residents[half:])]
        for part in parts:
            self._train(part)

    def _give_out(self, resident: _Resident, training: Training, row: EpochRow) -> None:
        """Lets a resident's client have a row, when its checkpoint is written; nothing is kept of one that has left."""
        with self._changed:
            if self._residents.get(resident.assignment.number) is not resident:
                return
            row, self._note = replace(row, note=self._note), ""
        try:
            training.keep(row)
        except Exception as caught:
            self._end(resident, caught)
            return
        with self._changed:
            resident.rows.append(row)
            resident.ended |= training.ended
            self._changed.notify_all()

    def _end(self, resident: _Resident, error: Exception) -> None:
        """What broke a trial is raised by its client."""
        with self._changed:
            resident.error, resident.ended = error, True
            self._changed.notify_all()


def next_stack(residents: Sequence[_Resident]) -> list[_Resident]:
    """Those of some residents that are trained next: the least advanced first, and all that can share its step."""
    groups: dict[Hashable, list[_Resident]] = defaultdict(list)
    for resident in residents:
        groups[_group_of(resident)].append(resident)
    group = min(groups.values(), key=lambda group: min(one.epoch for one in group))
    return sorted(group, key=lambda one: one.epoch)


def _watched(residents: Sequence[_Resident]) -> AbstractContextManager[None]:
    """Ends this process if an epoch hangs; a trial that is in hand by itself is marked meanwhile."""
    one = residents[0]
    marked = len(residents) == 1 and _is_marked(one)
    return in_hand(seconds_of(one.assignment), place_of(one.assignment) if marked else None)


def _is_marked(resident: _Resident) -> bool:
    """Whether a trial that is in hand by itself is marked: always in a folder; in a storage, which takes longer, only
    where it may have brought the last host down."""
    return resident.assignment.storage is None or (
        resident.assignment.alone and (resident.training is None or resident.epoch < resident.alone_until)
    )


def _next_checkpoint(resident: _Resident) -> int:
    """The epoch up to which a newcomer is trained by itself, where it has a checkpoint; 0 if there is no need."""
    if not resident.assignment.alone or resident.training is None:
        return 0
    later = [epoch for epoch in resident.assignment.checkpoint_epochs if epoch > resident.epoch]
    return min(later, default=resident.training.student.training.num_epochs)


def _group_of(resident: _Resident) -> Hashable:
    """Equal for residents that can be trained in one step, and are faster so."""
    assert resident.training is not None
    if resident.kind is None or resident.epoch < resident.alone_until:
        return resident.assignment.number
    student, data = resident.training.student, resident.training.data
    # On a CPU students with images of their own gain less, and their sums round otherwise than those with common ones.
    return id(data), resident.kind, images_of(student) if data.device.type == "cpu" else None
