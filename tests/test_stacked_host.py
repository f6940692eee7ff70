"""A host of many trials, without Ray: each gets the rows that it would get by itself, and nobody waits in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_tune import checkpoint, stacked_host, watchdog
from kd_tune.errors import ConfigError
from kd_tune.host import Training, open_trial
from kd_tune.records import Assignment, EpochRow, TeacherPlace
from kd_tune.stacked_host import StackedHost
from kd_tune.storage import Storage
from tests.training import HINTON, curve, numbers, trial

EPOCHS = 5


@pytest.fixture
def assignment(tmp_path: Path, toy_npz: Path, bank_folder: Path) -> Callable[..., Assignment]:
    """`assignment(number, **sections)`: a trial of the toy, which all see in the same order."""

    def make(number: int, checkpoint_epochs: tuple[int, ...] = (), **sections: Any) -> Assignment:
        return Assignment(
            number=number,
            arm="distil",
            trial=trial(**({"objective": HINTON} | sections)),
            seed=number,
            order_seed=5,
            checkpoints=str(tmp_path / str(number)),
            source=str(toy_npz),
            teacher=TeacherPlace(bank=str(bank_folder)),
            checkpoint_epochs=checkpoint_epochs,
        )

    return make


def follow(host: StackedHost, number: int, until: int | None = None) -> list[EpochRow]:
    """What a client does: reports every row and asks for more, until the trial ends or is stopped after an epoch."""
    found: list[EpochRow] = []
    while rows := host.rows(number, found[-1].epoch if found else 0):
        found += rows
        if until is not None and found[-1].epoch >= until:
            break
    host.leave(number)
    return found


def follow_all(host: StackedHost, assignments: list[Assignment]) -> dict[int, list[EpochRow]]:
    """Clients of their own for some trials, all at once."""
    found: dict[int, list[EpochRow]] = {}
    for one in assignments:
        host.open(one)
    clients = [
        threading.Thread(target=lambda number=one.number: found.update({number: follow(host, number)}))
        for one in assignments
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=120)
    return found


def alone(one: Assignment, folder: Path) -> list[EpochRow]:
    """A host of its own for one trial."""
    host = StackedHost(threads=1)
    host.open(replace(one, checkpoints=str(folder)))
    return follow(host, one.number)


def test_every_trial_gets_its_own_rows_bit_for_bit(assignment: Callable[..., Assignment], tmp_path: Path) -> None:
    """Beside students of other widths, objectives and optimizers, and one that cannot be stacked."""
    trials = [
        assignment(0),
        assignment(1, objective={"name": "cross_entropy"}),
        assignment(2, student={"name": "studentnet", "width": 0.25}, checkpoint_epochs=(2,)),
        assignment(3, optimizer={"name": "adamw", "lr": 0.003}),
        assignment(4, student={"name": "digits"}, training={"num_epochs": 1}),
    ]
    found = follow_all(StackedHost(threads=1), trials)
    for one in trials:
        assert curve(found[one.number]) == curve(alone(one, tmp_path / "alone" / str(one.number)))


def test_checkpoints_of_a_stack_go_to_a_storage_and_change_no_bit(
    assignment: Callable[..., Assignment], tmp_path: Path
) -> None:
    place = Storage(str(tmp_path / "storage"))
    trials = [assignment(number, checkpoint_epochs=(2, EPOCHS)) for number in range(4)]
    stored = [replace(one, storage=place.child(str(one.number)).url) for one in trials]
    found = follow_all(StackedHost(threads=1), stored)
    assert {Path(name).parts[:2] for name in place.files()} == {(str(n), f"epoch_{EPOCHS:04d}") for n in range(4)}
    again = follow_all(StackedHost(threads=1), stored)
    for one in trials:
        assert curve(found[one.number]) == curve(alone(one, tmp_path / "alone" / str(one.number)))
        assert curve(again[one.number]) == curve(found[one.number])


def test_the_host_of_one_trial_and_the_ordinary_one_agree(
    assignment: Callable[..., Assignment], tmp_path: Path
) -> None:
    """Within rounding; a trial may begin at one and go on at the other."""
    one = assignment(0, checkpoint_epochs=(2,))
    expected = list(open_trial(replace(one, checkpoints=str(tmp_path / "ordinary"))))
    host = StackedHost(threads=1)
    host.open(one)
    begun = follow(host, 0, until=2)
    rest = list(open_trial(one))
    assert [row.epoch for row in begun] + [row.epoch for row in rest] == [1, 2, 1, 2, 3, 4, 5]
    assert [row.restored for row in rest] == [True] * 2 + [False] * 3
    for row, other in zip(rest, expected, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-4)


def test_a_trial_that_goes_on_gives_its_rows_again_and_the_others_bit_for_bit(
    assignment: Callable[..., Assignment], tmp_path: Path
) -> None:
    expected = alone(assignment(0), tmp_path / "whole")
    cut = assignment(0, checkpoint_epochs=(3,))
    first = StackedHost(threads=1)
    first.open(cut)
    assert curve(follow(first, 0, until=3)) == curve(expected[:3])
    second = StackedHost(threads=1)
    rows = follow_all(second, [cut, assignment(1)])[0]
    assert [row.restored for row in rows] == [True] * 3 + [False] * (EPOCHS - 3)
    assert curve(rows) == curve(expected)


def test_rows_that_nobody_had_asked_for_come_again_with_the_checkpoint_after_them(
    assignment: Callable[..., Assignment], tmp_path: Path
) -> None:
    """The host runs ahead of its clients; when both die, no epoch may be missing from the ledger."""
    expected = alone(assignment(0), tmp_path / "whole")
    cut = assignment(0, checkpoint_epochs=(4,))
    first = StackedHost(threads=1)
    first.open(cut)
    assert trained(first, 0) == 4
    second = StackedHost(threads=1)
    second.open(cut)
    rows = follow(second, 0)
    assert curve(rows) == curve(expected)
    assert [row.restored for row in rows] == [True] * 4 + [False]


@pytest.fixture
def host() -> StackedHost:
    return StackedHost(threads=1)


def trained(host: StackedHost, number: int) -> int:
    """Epochs that a resident has done when the host has nothing to do."""
    with host._changed:
        assert host._changed.wait_for(lambda: not any(one.can_go_on for one in host._residents.values()), timeout=120)
        return host._residents[number].epoch


def test_nobody_is_trained_beyond_an_epoch_that_may_be_its_last(
    host: StackedHost, assignment: Callable[..., Assignment]
) -> None:
    """Until its client asks for more; before such an epoch the host does not wait for questions."""
    host.open(assignment(0, checkpoint_epochs=(3, EPOCHS)))
    assert trained(host, 0) == 3
    assert [row.epoch for row in host.rows(0, answered=0)] == [1, 2, 3]
    assert trained(host, 0) == 3
    assert host.rows(0, answered=3)[0].epoch == 4
    assert trained(host, 0) == EPOCHS


def test_who_survived_waits_for_those_behind_and_goes_on_with_them(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    advance_together = stacked_host.advance_together
    monkeypatch.setattr(
        stacked_host, "advance_together", lambda *stack: (sizes.append(len(stack[0])), advance_together(*stack))[1]
    )
    ahead, behind = assignment(0, checkpoint_epochs=(1,)), assignment(1, checkpoint_epochs=(1,))
    host.open(ahead)
    assert trained(host, 0) == 1
    host.open(behind)  # and its client asks before that of the first has its answer
    assert trained(host, 1) == 1
    sizes.clear()
    with host._changed:
        host._residents[0].answered = host._residents[1].answered = 1
        host._changed.notify_all()
    assert (trained(host, 0), trained(host, 1)) == (EPOCHS, EPOCHS)
    assert sizes == [2] * (EPOCHS - 1)


def test_the_last_row_is_given_out_before_the_trial_has_ended(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks while the last checkpoint is being written still gets it."""
    keep = Training.keep
    monkeypatch.setattr(Training, "keep", lambda self, *rows: (time.sleep(0.2), keep(self, *rows))[1])
    host.open(assignment(0))
    assert [row.epoch for row in follow(host, 0)] == list(range(1, EPOCHS + 1))


def test_what_breaks_a_trial_is_told_to_its_own_client_and_the_others_go_on(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that cannot be read, and a disk that is full for one of two in a stack."""
    keep = Training.keep

    def full(self: Training, row: EpochRow) -> None:
        if self.assignment.number == 1 and row.epoch == 2:
            raise OSError("No space left on device")
        keep(self, row)

    monkeypatch.setattr(Training, "keep", full)
    damaged = assignment(2)
    (Path(damaged.checkpoints) / "epoch_0001").mkdir(parents=True)
    for one in (assignment(0), assignment(1), damaged):
        host.open(one)
    with pytest.raises(ConfigError, match=checkpoint.TRIAL):
        follow(host, 2)
    with pytest.raises(OSError, match="No space left"):
        follow(host, 1)
    assert len(follow(host, 0)) == EPOCHS


def test_a_trial_that_breaks_its_stack_ends_and_its_neighbour_goes_on(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance_together = stacked_host.advance_together

    def break_down(students: Any, data: Any) -> list[EpochRow]:
        if any(one.seed == 1 for one in students):
            raise RuntimeError("out of memory")
        return advance_together(students, data)

    monkeypatch.setattr(stacked_host, "advance_together", break_down)
    found: dict[int, Any] = {}
    host.open(assignment(0))
    host.open(assignment(1))
    with pytest.raises(RuntimeError, match="out of memory"):
        follow(host, 1)
    found[0] = follow(host, 0)
    assert len(found[0]) == EPOCHS


def test_a_stack_that_does_not_fit_into_memory_is_trained_in_halves_from_then_on(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the rows that they would have had in one; one that does not fit by itself is told so."""
    advance_together, sizes = stacked_host.advance_together, []

    def too_many(students: Any, data: Any) -> list[EpochRow]:
        sizes.append(len(students))
        if len(students) > 2 or any(one.seed == 5 for one in students):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return advance_together(students, data)

    expected = alone(assignment(0), tmp_path / "alone")
    monkeypatch.setattr(stacked_host, "advance_together", too_many)
    with host._changed:  # so that they are there at once
        for number in range(5):
            host._residents[number] = stacked_host._Resident(assignment(number, checkpoint_epochs=(1,)))
        host._changed.notify_all()
    found: dict[int, list[EpochRow]] = {}
    clients = [threading.Thread(target=lambda n=n: found.update({n: follow(host, n)})) for n in range(5)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=120)
    assert curve(found[0]) == curve(expected)
    assert [len(found[number]) for number in range(5)] == [EPOCHS] * 5
    assert sizes[:5] == [5, 3, 2, 1, 2]
    assert max(sizes[5:]) == 2
    (owner,) = (number for number, rows in found.items() if rows[0].note)
    notes = [row.note for rows in found.values() for row in rows if row.note]
    assert len(notes) == 1, "of the last halving, and once"
    assert "3 students in one step do not fit into the device's memory; from now on 2 are trained at a time" in notes[0]
    assert Training(assignment(owner)).restored[-1].note == ""
    host.open(assignment(5))
    with pytest.raises(torch.OutOfMemoryError):
        follow(host, 5)


@pytest.mark.parametrize("stored", [False, True], ids=["folder", "storage"])
def test_who_may_have_brought_a_host_down_is_trained_by_itself_up_to_its_next_checkpoint(
    stored: bool,
    host: StackedHost,
    assignment: Callable[..., Assignment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is marked meanwhile, which those in a stack are not; where a driver on another node can see it."""
    place = tmp_path / "storage" if stored else tmp_path
    advance_together = stacked_host.advance_together
    seen: list[tuple[list[int], int, list[bool]]] = []
    suspects = [replace(assignment(number, checkpoint_epochs=(2, EPOCHS)), alone=True) for number in range(2)]
    if stored:
        suspects = [replace(one, storage=(place / str(one.number)).as_uri()) for one in suspects]

    def watch(students: Any, data: Any) -> list[EpochRow]:
        marked = [(place / str(one.number) / watchdog.MARK).exists() for one in suspects]
        seen.append(([one.seed for one in students], students[0].epoch + 1, marked))
        return advance_together(students, data)

    monkeypatch.setattr(stacked_host, "advance_together", watch)
    found = follow_all(host, suspects)
    assert [len(rows) for rows in found.values()] == [EPOCHS, EPOCHS]
    early = [entry for entry in seen if entry[1] <= 2]
    assert sorted(early) == sorted([([n], epoch, [n == 0, n == 1]) for n in range(2) for epoch in (1, 2)])
    assert ([0, 1], EPOCHS, [False, False]) in [(sorted(seeds), epoch, marked) for seeds, epoch, marked in seen]
    assert not (stored and Path(suspects[0].checkpoints).exists()), "a folder that this node may not have"


def test_nobody_waits_for_the_rows_of_a_trial_that_was_given_up(
    host: StackedHost, assignment: Callable[..., Assignment]
) -> None:
    """A client may die while its call waits; one that never came back would hold a thread of the actor for ever."""
    answers: list[list[EpochRow]] = []
    for give_up in (lambda: host.open(assignment(0, checkpoint_epochs=(2,))), lambda: host.leave(0)):
        host.open(assignment(0, checkpoint_epochs=(2,)))
        assert trained(host, 0) == 2
        host.rows(0, answered=0)
        waiting = threading.Thread(target=lambda: answers.append(host.rows(0, answered=1)), daemon=True)
        waiting.start()
        with host._changed:
            assert host._changed.wait_for(lambda: host._residents[0].answered == 1, timeout=60)
        give_up()
        waiting.join(timeout=60)
    assert answers == [[], []]


def test_nothing_is_kept_of_a_trial_that_left_in_the_midst_of_an_epoch(
    host: StackedHost, assignment: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints may be deleted by now, or somebody else may be reading them."""
    advance_together, left = stacked_host.advance_together, threading.Event()

    def leave_meanwhile(students: Any, data: Any) -> list[EpochRow]:
        host.leave(0)
        left.set()
        return advance_together(students, data)

    monkeypatch.setattr(stacked_host, "advance_together", leave_meanwhile)
    one, other = assignment(0, checkpoint_epochs=(1,)), assignment(1, training={"num_epochs": 1})
    host.open(one)
    assert left.wait(timeout=60)
    monkeypatch.setattr(stacked_host, "advance_together", advance_together)
    host.open(other)
    assert len(follow(host, 1)) == 1  # so the first one's epoch is over
    assert not list(Path(one.checkpoints).iterdir())


def test_slots_come_back_and_a_number_that_comes_again_starts_again(
    host: StackedHost, assignment: Callable[..., Assignment]
) -> None:
    host.open(assignment(0))
    assert host.load(0) == (True, 1)
    assert host.load(1) == (False, 1)
    first = host.rows(0, answered=0)[0]
    host.open(assignment(0))  # its client died, and Ray started another
    assert numbers(follow(host, 0)[0]) == numbers(first)
    assert host.load(0) == (False, 0)
