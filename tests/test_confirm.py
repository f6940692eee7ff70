"""A confirmation: fresh seeds, one configuration an arm, one recorded look at the test images, going on after kills."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kd_tune import confirm, confirmation, markdown, report
from kd_tune.checkpoint import WEIGHTS, newest
from kd_tune.confirm import Request, confirmation_number
from kd_tune.confirmation import Confirmation, Plan
from kd_tune.data import npz
from kd_tune.errors import ConfigError, NothingUsable
from kd_tune.export import load_student
from kd_tune.ledger import Run, checkpoints_of, read_events, replay
from kd_tune.limits import Limits
from kd_tune.paths import read_json, read_record
from kd_tune.retraining import RetrainingProposer
from kd_tune.search import Launch, resume
from kd_tune.space import Space

QUIET = Console(quiet=True)
REQUEST = Request(top=2, num_seeds=2)
ANYTHING = Space({})


@pytest.fixture(scope="module")
def search_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished search, to confirm."""
    return shutil.copytree(
        finished_run, tmp_path_factory.mktemp("confirmed") / "run", ignore=shutil.ignore_patterns("ray", "lock")
    )


def break_one(place: Path) -> None:
    """As a full disk would: its first training that has not ended."""
    retrainings = Run(place)
    plan = read_record(place / confirmation.PLAN, Plan)
    proposer = RetrainingProposer(retrainings, plan, dict.fromkeys(retrainings.state.quota, ANYTHING))
    trial = next(iter(retrainings.state.unfinished()), None) or proposer.propose()
    assert trial is not None
    retrainings.record("stopped", trial=trial.number, reason="failed", error="No space left on device")
    retrainings.close()


@pytest.fixture(scope="module")
def confirmed(search_run: Path, ray_cluster: None) -> Confirmation:
    """The search's confirmation, out of time and of disk at first, then gone on with."""
    assert confirm.confirm(search_run, REQUEST, Launch(limits=Limits(hours=1e-6)), QUIET) is None
    assert replay(search_run).test_openings == []
    break_one(search_run / "confirmation")
    found = confirm.confirm(search_run, REQUEST, Launch(), QUIET)
    assert found is not None
    return found


def test_where_distillation_has_no_figure_the_test_set_stays_shut(
    finished_run: Path, ray_cluster: None, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("ray", "lock"))
    assert confirm.confirm(run, REQUEST, Launch(limits=Limits(hours=1e-6)), QUIET) is None
    retrainings = Run(run / "confirmation")
    plan = read_record(run / "confirmation" / confirmation.PLAN, Plan)
    proposer = RetrainingProposer(retrainings, plan, dict.fromkeys(retrainings.state.quota, ANYTHING))
    while retrainings.state.unfinished() or proposer.propose():
        for trial in retrainings.state.unfinished():
            row = {"val_accuracy": 0.9, "num_parameters": 1000}
            retrainings.record("epoch", trial=trial.number, attempt=0, epoch=6, **row)
            reason = "diverged" if trial.arm == "distil" else "completed"
            retrainings.record("stopped", trial=trial.number, reason=reason)
    retrainings.close()
    with pytest.raises(
        NothingUsable,
        match=r"test set stays shut; left out: .*distil has no configuration.* With --again",
    ):
        confirm.confirm(run, REQUEST, Launch(), QUIET)
    assert replay(run).test_openings == []
    assert confirmation_number(run, [], again=True) == 2


def test_everything_is_trained_to_the_end_on_fresh_seeds_in_two_launches(
    search_run: Path, confirmed: Confirmation
) -> None:
    state = replay(search_run / "confirmation")
    assert {(trial.end, trial.epoch) for trial in state.trials.values()} == {("completed", 6)}
    assert state.launches == 2, "one was out of time; the other made the choice and went on with what it chose"
    assert not state.num_missing()
    seeds = set()
    for run in (search_run, search_run / "confirmation"):
        for number in replay(run).trials:
            found = newest(checkpoints_of(run, number))
            if found is not None:
                seed = read_json(found / "trial.json")["seed"]
                assert seed not in seeds
                seeds.add(seed)


def test_what_is_reported_is_the_best_by_trainings_that_are_not(search_run: Path, confirmed: Confirmation) -> None:
    trials = replay(search_run / "confirmation").trials
    proposed = [event for event in read_events(search_run / "confirmation") if event["event"] == "proposed"]
    by_number = {event["trial"]: event for event in proposed}
    for arm in confirmed.arms:
        assert {by_number[number]["purpose"] for number in arm.trainings} == {"report"}
        means: dict[int, list[float]] = {}
        for event in proposed:
            if event["arm"] == arm.arm and event["purpose"] == "choose":
                means.setdefault(event["confirms"], []).append(trials[event["trial"]].value or 0.0)
        assert [len(values) for values in means.values()] in ([], [2, 2])
        assert not means or max(means, key=lambda trial: sum(means[trial])) == arm.trial
    assert {event["purpose"] for event in proposed} == {"choose", "report"}


def test_what_failed_was_trained_again_under_its_number(search_run: Path, confirmed: Confirmation) -> None:
    events = list(read_events(search_run / "confirmation"))
    (number,) = [event["trial"] for event in events if event.get("reason") == "failed"]
    (reopened,) = [event for event in events if event["event"] == "reopened"]
    assert reopened["trials"] == [number]
    assert replay(search_run / "confirmation").trials[number].end == "completed"


def test_the_opening_is_recorded_with_the_students_that_it_is_for(search_run: Path, confirmed: Confirmation) -> None:
    (opening,) = replay(search_run).test_openings
    assert opening["command"] == "kd-tune confirm run --top 2 --seeds 2"
    assert opening["dataset"] == "npz"
    assert [one["arm"] for one in opening["choice"]] == [arm.arm for arm in confirmed.arms]
    assert all(len(weights) == 16 for one in opening["choice"] for weights in one["trainings"].values())


def test_the_answers_are_kept_and_give_the_figures(search_run: Path, confirmed: Confirmation, toy_npz: Path) -> None:
    with np.load(search_run / "confirmation" / confirmation.ANSWERS, allow_pickle=False) as kept:
        right = kept["logits"].argmax(-1) == kept["labels"]
        assert kept["logits"].dtype == np.float32
        assert (kept["labels"] == np.load(toy_npz)["test_labels"]).all()
        assert kept["teacher_logits"].shape == (40, kept["logits"].shape[-1])
        assert not (kept["teacher_logits"] == kept["logits"][0, 0]).any()
    assert confirmed.teacher is not None
    assert right.shape == (len(confirmed.arms), 2, 40)
    for arm, answers in zip(confirmed.arms, right, strict=True):
        assert arm.test_accuracies == answers.mean(1).tolist()
        assert arm.low <= answers.mean() <= arm.high


def test_the_exported_student_has_the_accuracy_that_was_confirmed(
    search_run: Path, confirmed: Confirmation, toy_npz: Path
) -> None:
    import torch

    test: list[Any] = []
    images = npz(toy_npz).open_test("tests", test.append)
    for arm in confirmed.arms:
        folder = search_run / confirmation.EXPORT / arm.export
        config = json.loads((folder / "config.json").read_text())
        assert config["confirmed"]["low"] == arm.low
        assert config["trial"]["number"] == arm.exported
        with torch.inference_mode():
            classes = load_student(folder)(torch.from_numpy(images.images) / 255).argmax(-1).numpy()
        measured = dict(zip(arm.trainings, arm.test_accuracies, strict=True))[arm.exported]
        assert (classes == images.labels).mean() == measured


def test_a_kill_between_opening_and_figures_is_one_opening(search_run: Path, confirmed: Confirmation) -> None:
    (search_run / "confirmation" / confirmation.FIGURES).unlink()
    again = confirm.confirm(search_run, REQUEST, Launch(), QUIET)
    assert again is not None
    assert again.arms == confirmed.arms
    assert again.opening == len(replay(search_run).test_openings) == 1


def test_the_test_set_that_was_opened_for_others_is_not_opened_for_these(
    search_run: Path, confirmed: Confirmation, tmp_path: Path
) -> None:
    run = shutil.copytree(search_run, tmp_path / "run", ignore=shutil.ignore_patterns("ray", "lock"))
    place = run / "confirmation"
    (place / confirmation.FIGURES).unlink()
    found = newest(checkpoints_of(place, confirmed.arms[0].trainings[0]))
    other = newest(checkpoints_of(place, confirmed.arms[0].trainings[1]))
    assert found is not None
    assert other is not None
    shutil.copyfile(other / WEIGHTS, found / WEIGHTS)
    with pytest.raises(ConfigError, match="was opened for other students than lie here now; --again begins anew"):
        confirm.confirm(run, REQUEST, Launch(), QUIET)
    assert len(replay(run).test_openings) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (REQUEST, "was confirmed; the test set has been opened 1 time"),
        (Request(2, 3), "was confirmed"),
    ],
)
def test_a_confirmed_search_is_not_confirmed_twice(
    search_run: Path, confirmed: Confirmation, request_: Request, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        confirm.confirm(search_run, request_, Launch(), QUIET)


def test_a_confirmation_is_gone_on_with_as_it_was_begun(
    search_run: Path, confirmed: Confirmation, tmp_path: Path
) -> None:
    run = shutil.copytree(search_run, tmp_path / "run", ignore=shutil.ignore_patterns("ray", "lock"))
    (run / "confirmation" / confirmation.FIGURES).unlink()
    with pytest.raises(ConfigError, match="was begun with --seeds 2; go on"):
        confirm.confirm(run, Request(2, 3), Launch(), QUIET)
    with pytest.raises(ConfigError, match="this is a confirmation; go on with: kd-tune confirm"):
        resume(run / "confirmation", Launch(), QUIET)


def test_a_confirmation_goes_on_by_its_plan_though_the_search_went_on(
    search_run: Path, confirmed: Confirmation, tmp_path: Path
) -> None:
    """Its candidates might be others now, and no launch could bring the old ones back."""
    run = shutil.copytree(search_run, tmp_path / "run", ignore=shutil.ignore_patterns("ray", "lock"))
    (run / "confirmation" / confirmation.FIGURES).unlink()
    search = Run(run)
    draw = search.state.trials[confirmed.arms[0].trial].draw
    search.record("extended", num_trials=2)
    for _ in range(2):
        number = len(search.state.trials)
        search.record("proposed", trial=number, arm="distil", draw=draw | {"optimizer.lr": 0.05 + number / 1000})
        search.record("epoch", trial=number, attempt=0, epoch=6, val_accuracy=0.9999, num_parameters=100)
    search.record("stopped", trial=number, reason="completed")
    search.close()
    console = Console(file=io.StringIO(), width=200)
    again = confirm.confirm(run, REQUEST, Launch(), console)
    assert again is not None
    assert again.arms == confirmed.arms, "the search's maximum beside a figure is of then, too"
    assert "2 trials that the search had since then are not in it" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_report_leads_with_what_was_confirmed(search_run: Path, confirmed: Confirmation) -> None:
    console = Console(file=io.StringIO(), width=160)
    page = report.write(search_run, console)
    text = page.read_text()
    assert text.index("## Confirmed on 40 test images with 2 fresh seeds") < text.index("**unconfirmed**")
    assert "The test set was opened 1 time by" in text
    for comparison in confirmed.comparisons:
        assert markdown.escaped(comparison.sentence(len(confirmed.comparisons))) in text
    assert (page.parent / "confirmed.png").read_bytes().startswith(b"\x89PNG")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.index("Confirmed on 40 test images") < said.index("(of the search itself)")
    assert "The test set was opened 1 time by this run." in said


def test_proposals_say_what_they_confirm(search_run: Path, confirmed: Confirmation) -> None:
    proposed = [event for event in read_events(search_run / "confirmation") if event["event"] == "proposed"]
    draws = {trial.number: trial.draw for trial in replay(search_run).trials.values()}
    assert proposed
    assert all(event["draw"] == draws[event["confirms"]] for event in proposed)
