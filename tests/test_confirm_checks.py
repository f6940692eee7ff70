"""What a confirmation asks before it trains anything, and what it refuses; no training here."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kd_tune import cli, confirm, confirmation, report
from kd_tune.candidates import make_plan
from kd_tune.confirm import Request, confirmation_number
from kd_tune.data import npz
from kd_tune.errors import ConfigError, ExitCode, NothingUsable, TrainingsFailed
from kd_tune.ledger import Run
from kd_tune.paths import write_json
from kd_tune.search import Launch
from kd_tune.selection import Selection
from kd_tune.space import Space
from tests.confirmations import SPACE, begin, candidate, search_state, toy_confirmation, toy_plan, write_run
from tests.data_files import grey_arrays, write_npz

QUIET = Console(quiet=True)
REQUEST = Request(top=2, num_seeds=2)
ANYTHING = Space({})


def openings(*names: str) -> list[dict[str, Any]]:
    return [{"confirmation": name} for name in names]


@pytest.mark.parametrize(
    ("complete", "opened", "again", "expected"),
    [
        ([], [], False, 1),
        ([], [], True, 1),
        ([False], [], False, 1),
        ([False], ["confirmation"], False, 1),  # killed between the opening and its figures
        ([False], ["confirmation"], True, 2),
        ([True], ["confirmation"], True, 2),
        ([True, False], ["confirmation"], False, 2),
        ([True, True], ["confirmation", "confirmation_2"], True, 3),
    ],
)
def test_a_confirmation_goes_on_or_begins_anew(
    tmp_path: Path, complete: list[bool], opened: list[str], again: bool, expected: int
) -> None:
    for number, whole in enumerate(complete, start=1):
        begin(tmp_path, number, whole)
    assert confirmation_number(tmp_path, openings(*opened), again) == expected


def test_a_second_look_at_the_test_set_must_be_asked_for(tmp_path: Path) -> None:
    place = begin(tmp_path, 1, complete=True)
    with pytest.raises(ConfigError, match=r"was confirmed; the test set has been opened 1 time for it\. --again"):
        confirmation_number(tmp_path, openings("confirmation"), again=False)
    shutil.rmtree(place)  # the look was taken all the same
    with pytest.raises(ConfigError, match="was confirmed"):
        confirmation_number(tmp_path, openings("confirmation"), again=False)
    assert confirmation_number(tmp_path, openings("confirmation"), again=True) == 2


def test_a_confirmation_is_found_though_an_earlier_one_was_deleted(tmp_path: Path) -> None:
    first = begin(tmp_path, 1, complete=True)
    begin(tmp_path, 2)
    begin(tmp_path, 10, complete=True)
    (tmp_path / "confirmation_of_mine").mkdir()
    shutil.rmtree(first)
    assert confirmation.begun(tmp_path) == [2, 10]
    assert confirmation.latest(tmp_path) == toy_confirmation()
    assert confirmation_number(tmp_path, openings("confirmation", "confirmation_2"), again=True) == 11


def test_what_was_begun_is_gone_on_with_before_another_is_begun(tmp_path: Path) -> None:
    begin(tmp_path, 1)
    with pytest.raises(ConfigError, match="has not opened the test set; go on with it, without --again"):
        confirmation_number(tmp_path, [], again=True)


@pytest.mark.parametrize(("end", "expected"), [("diverged", 2), ("failed", None), ("completed", None), (None, None)])
def test_again_leads_out_of_a_confirmation_of_which_no_student_came_through(
    tmp_path: Path, end: str | None, expected: int | None
) -> None:
    """Divergence is a result that no launch changes; what failed is trained again, and what came through is asked."""
    run = Run(begin(tmp_path, 1))
    run.record("started", quota={"distil": 3})
    for number in range(3):
        run.record("proposed", trial=number, arm="distil", draw={})
        if end:
            run.record("epoch", trial=number, attempt=0, epoch=1, val_accuracy=0.5)
            run.record("stopped", trial=number, reason=end)
    run.close()
    assert confirmation_number(tmp_path, [], again=False) == 1
    if expected:
        assert confirmation_number(tmp_path, [], again=True) == expected
        return
    with pytest.raises(ConfigError, match="go on with it, without --again"):
        confirmation_number(tmp_path, [], again=True)


def test_the_test_set_stays_shut_while_a_training_has_failed(tmp_path: Path) -> None:
    plan = toy_plan(candidate("distil", 0), candidate("cross_entropy", 1), num_seeds=2)
    state = search_state(distil=[(0.5, 6, 0.9)] * 4)
    assert len(confirm._collect(tmp_path, plan, state)[0]) == 2
    state.trials[1].end, state.trials[1].error = "failed", "No space left on device"
    with pytest.raises(TrainingsFailed, match="1 of 4 trainings failed, the last with: No space left"):
        confirm._collect(tmp_path, plan, state)


# What is refused before anything is trained.


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(0, 5), "--top 0: at least 1"),
        (Request(1, 1), "--seeds 1: at least 2, or there is no spread"),
    ],
)
def test_too_little_to_say_anything_is_refused(tmp_path: Path, request_: Request, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        confirm.confirm(tmp_path, request_, Launch(), QUIET)


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (["confirm", "RUN"], "confirm the search itself: kd-tune confirm"),
        (["search", "--resume", "RUN"], "go on with: kd-tune confirm"),
        (
            ["search", "search_spaces/mnist5k.yaml", "--name", "x", "--warm-start", "RUN"],
            "learn from its search: --warm-start",
        ),
        (["analyze", "RUN"], "what it found stands in the report of its search:"),
        (["analyze", "RUN", "--export", "x"], "what it found stands in the report of its search:"),
        (["record", "--resume", "RUN", "--out", "x.parquet"], "what it found stands in the report of its search:"),
    ],
)
def test_no_command_takes_a_confirmation_for_a_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], instead: str
) -> None:
    """It would open the test set uncounted, or call figures unconfirmed that are not."""
    run = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    place = write_run(run / "confirmation", distil=[(0.5, 6, 0.9)])
    write_json(place / confirmation.PLAN, toy_plan(candidate("distil", 10)).model_dump())
    before = sorted(run.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main([str(place) if word == "RUN" else word for word in command])
    assert stop.value.code == ExitCode.USAGE
    assert f"{place}: this is a confirmation; {instead} {run}" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("num_test", "message"),
    [(0, "npz: the data set has no test images"), (1, "npz: there is 1 test image; an interval needs at least 2")],
)
def test_test_images_must_be_enough_for_an_interval(tmp_path: Path, num_test: int, message: str) -> None:
    """Found out after the opening, the search's only unbiased look would be spent."""
    content = {name: array for name, array in grey_arrays().items() if num_test or not name.startswith("test")}
    dataset = npz(write_npz(tmp_path / "few.npz", first_of_test(content, num_test)))
    with pytest.raises(ConfigError, match=message):
        confirm._check_test_images(dataset)
    confirm._check_test_images(npz(write_npz(tmp_path / "two.npz", first_of_test(grey_arrays(), 2))))


def first_of_test(content: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] if name.startswith("test") else array for name, array in content.items()}


def test_a_search_must_have_ended(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    run = Run(folder)
    run.record("extended", num_trials=1)
    run.close()
    with pytest.raises(ConfigError, match=r"has not ended, 1 trials are left; finish it first: .*python run_search"):
        confirm.confirm(folder, REQUEST, Launch(), QUIET)


def test_a_search_without_any_figure_ends_with_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    run = Run(folder)
    run.record("stopped", trial=0, reason="diverged")
    run.close()
    with pytest.raises(SystemExit) as stop:
        cli.main(["confirm", str(folder)])
    assert stop.value.code == ExitCode.NOTHING_USABLE
    assert "no trial gave a figure, so there is nothing to confirm" in capsys.readouterr().err


def test_where_the_leading_arm_has_no_figure_nothing_can_be_compared(tmp_path: Path) -> None:
    state = search_state(distil=[(0.5, 6, 0.9)], cross_entropy=[(0.5, 6, 0.9)])
    state.trials[0].end = "diverged"
    plan = make_plan(state, dict.fromkeys(state.quota, SPACE), Selection(1), 2, seed=0)
    with pytest.raises(NothingUsable, match="no trial of distil gave a figure"):
        confirm._check_plan(tmp_path, plan, state, Selection(1))
    with pytest.raises(ConfigError, match="no student has trials of every arm; --students best compares"):
        confirm._check_plan(tmp_path, plan, state, Selection(1, all_students=True))
    with pytest.raises(ConfigError, match=r"with optimizer\.lr=0\.1 gave a figure"):
        confirm._check_plan(tmp_path, plan, state, Selection(1, where={"optimizer.lr": 0.1}))


@pytest.mark.parametrize(
    ("asked", "goal", "expected"),
    [(None, "best", False), (None, "front", True), (False, "front", False), (True, "best", True)],
)
def test_a_search_for_the_front_is_confirmed_at_all_students(asked: bool | None, goal: str, expected: bool) -> None:
    assert Request(1, 2, asked).selection(goal).all_students is expected


@pytest.mark.parametrize(
    ("asked", "seeds", "begun_with"),
    [
        (Selection(1, False), 2, "--top 2, --seeds 3"),
        (Selection(2, True), 3, "--students best"),
        (Selection(2, by="optimizer.lr"), 3, "no --by"),
        (Selection(2, where={"optimizer.lr": 0.1}), 3, "no --where"),
    ],
)
def test_what_was_begun_with_is_said_in_the_words_of_the_command(
    tmp_path: Path, asked: Selection, seeds: int, begun_with: str
) -> None:
    plan = toy_plan(candidate("distil", 0), top=2).model_copy(update={"all_students": False})
    write_json(tmp_path / confirmation.PLAN, plan.model_dump())
    with pytest.raises(ConfigError, match=f"was begun with {begun_with}; go on with that, or delete the folder"):
        confirm._go_on_with(tmp_path, asked, seeds, search_state(distil=[(0.5, 6, 0.9)]), QUIET)


def test_a_search_that_went_on_after_the_look_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    begin(folder, 1, complete=True)
    run = Run(folder)
    run.record("test_opened", confirmation="confirmation")
    page = report.write(folder, QUIET).read_text()
    assert "The test set was opened 1 time by this run." in page
    run.record("proposed", trial=1, arm="distil", draw={"student.width": 0.5, "optimizer.lr": 0.1})
    run.close()
    console = Console(file=io.StringIO(), width=200)
    page = report.write(folder, console).read_text()
    line = "opened 1 time by this run, and the search went on after that, by 1 trials: what is confirmed again"
    assert "## Confirmed on" in page
    assert line in page
    assert line in console.file.getvalue()  # type: ignore[attr-defined]
