"""`kd-tune plan`: figures that can be worked out by hand, what is measured, and that nothing is spent or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_tune import cli, fills, plan, prepare, speed, teacher
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.fills import Fill
from kd_tune.limits import Limits
from kd_tune.paths import CACHE_VARIABLE, cache_folder
from kd_tune.plan_figures import Group, Plan
from kd_tune.search_file import Source, parse_search_file
from kd_tune.speed import Calibration, Speed
from kd_tune.trial_data import TrialData
from tests.runs_by_hand import Trained, write_run
from tests.searches import toy_manifest, toy_search, write_search
from tests.training import CPU, run, trial

QUIET = Console(quiet=True)


def by_hand(**changes: Any) -> Plan:
    """Ten trials of two seconds an epoch: six of 3 epochs, four of 9; and a teacher that answers for an hour."""
    file = parse_search_file(toy_search(**changes), Source("toy.yaml", {}))
    return Plan(
        file=file,
        rule="some rule",
        milestones=(1, 3, 9),
        groups=[Group("distil", {3: 6.0, 9: 4.0}, seconds=200.0, num_parameters=1000)],
        fills=[Fill("digits", 240, 40, seconds=3600.0, num_bytes=1_000_000)],
        speed=Speed({1000: 200.0}, "by hand"),
        places=2,
        stack=1,
    )


def images(**facts: Any) -> dict[str, Any]:
    """What a manifest says of the images that a run was made with."""
    return toy_manifest().dataset | facts


def test_hours_add_up() -> None:
    made = by_hand()
    assert (made.trials, made.epochs, made.preparing_hours) == (10, 54, 1.0)
    assert made.training_hours == pytest.approx((10 + (54 * 200 + 10 * 0.35) / 2) / 3600)
    assert made.device_hours == pytest.approx(2 * made.training_hours)
    assert by_hand(**{"resources.gpus_per_trial": 0.25}).device_hours == pytest.approx(made.device_hours / 4)


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        (Limits(), {}),
        (Limits(hours=0.5), {"--max-hours": 0.0}),  # the teacher alone takes longer
        (Limits(hours=1.75), {"--max-hours": 0.5}),
        (Limits(device_hours=1.5), {"--max-device-hours": 0.5}),
        (Limits(hours=10, device_hours=10), {"--max-hours": 1.0, "--max-device-hours": 1.0}),
    ],
)
def test_limits_say_what_fits(limits: Limits, share: dict[str, float]) -> None:
    assert by_hand().share_within(limits) == pytest.approx(share, abs=0.005)


def test_disk_is_that_of_what_is_kept() -> None:
    sizes = by_hand().disk()
    assert sizes == {
        "checkpoints": 7 * (8_000 + 12 * 1000),  # the best five, and two that train
        "ledger": 10 * 750 + 54 * 600,
        "logs": 10 * 28_300 + 54 * 360,
        "soft targets": 1_000_000,
    }


def test_a_plan_reads_as_lines() -> None:
    said = list(plan.lines(by_hand(), Limits(hours=1.75, device_hours=99)))
    assert said[0] == "plan: toy.yaml; some rule"
    assert said[1].split("  ")[0] == "arm"
    assert said[2].split() == ["distil", "10", "10", "4", "54", "90"]
    assert "teacher: digits: 40 of 240 answers are asked for first, 60 min" in said
    assert "an epoch: 200 s with 1,000 parameters (by hand)" in said
    assert "hours: 2.50 (2.5 h): 1.50 for students in 2 places, 1.00 for teachers" in said
    assert "device hours: 3.01 of CPU places" in said
    assert said[-2:] == [
        "--max-hours 1.75: about 27 of 54 student epochs fit (50%); the rest with --resume",
        "--max-device-hours 99: all 54 student epochs fit",
    ]


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (Fill("t", 240), "teacher: t: all 240 answers are there"),
        (Fill("t", 240, note="live"), "teacher: t: live"),
        (
            Fill("t", 240, 240, 30, training=600),
            "teacher: t: not there yet, trained first, 10 min; 240 of 240 answers are asked for first, 30 s",
        ),
    ],
)
def test_teachers_say_what_they_still_have_to_do(fill: Fill, line: str) -> None:
    assert line in list(plan.lines(replace(by_hand(), fills=[fill]), Limits()))


def test_seconds_lie_on_a_line_between_sizes_that_are_known() -> None:
    known = Speed({100: 1.0, 300: 2.0}, "")
    assert [known.of(size) for size in (50, 100, 200, 300, 900)] == [1.0, 1.0, 1.5, 2.0, 2.0]


def test_an_earlier_run_says_how_long_an_epoch_takes(tmp_path: Path, toy_dataset: Dataset) -> None:
    manifest = toy_manifest().model_copy(update={"dataset": images(num_train=54, num_val=12)})
    costs = [{"num_parameters": 100}, {"num_parameters": 300}]
    write_run(tmp_path / "run", [Trained([0.5, 0.6], costs=cost) for cost in costs], manifest)
    assert speed.recorded(tmp_path / "run", toy_dataset).seconds == {100: 2.0, 300: 2.0}  # of 54 images: 1 s


@pytest.mark.parametrize(
    ("dataset", "trials", "message"),
    [
        ({"name": "cifar10", "num_train": 45_000}, [Trained([0.5])], "its images are those of cifar10, not of npz"),
        ({"name": "npz", "num_train": 54}, [], "no epoch of it says how long it took"),
    ],
)
def test_a_run_that_says_nothing_of_this_search_is_refused(
    tmp_path: Path, toy_dataset: Dataset, dataset: dict[str, Any], trials: list[Trained], message: str
) -> None:
    write_run(tmp_path / "run", trials, toy_manifest().model_copy(update={"dataset": images(**dataset)}))
    with pytest.raises(ConfigError, match=message):
        speed.recorded(tmp_path / "run", toy_dataset)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("student", ["studentnet", "digits"])
def test_a_few_batches_of_every_size_are_timed(toy_npz: Path, stack: int, student: str) -> None:
    sections = {"teacher": {"name": "digits"}, "objective": {"name": "hinton", "alpha": 0.5, "temperature": 2.0}}
    widths: list[dict[str, Any]] = [{"width": 0.25}, {"width": 0.5}] if student == "studentnet" else [{}]
    trials = [trial(student={"name": student} | width, training={"views": 2}, **sections) for width in widths]
    timed = speed.measure(Calibration(trials, toy_npz, stack), places=1)
    assert len(timed.seconds) == len(widths)
    assert all(0 < seconds < 60 for seconds in timed.seconds.values())
    assert timed.source == "measured here" + (", up to 3 in one step" if stack > 1 else "")


def test_what_was_timed_with_some_images_is_scaled_to_all(toy_dataset: Dataset, toy_npz: Path) -> None:
    sample = replace(toy_dataset, train=toy_dataset.train.first(27), val=toy_dataset.val.first(6))
    (row,) = run(trial(training={"num_epochs": 1}), TrialData(toy_dataset, None, CPU))
    timed = replace(row, seconds=5.0, images_per_second=27 / 3)  # 3 s of training, 2 s of validation
    assert speed.whole_epoch(timed, sample, toy_dataset) == pytest.approx(4 * 3 + 2 * 2)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return cache_folder()


def toy_trial(**sections: Any) -> dict[str, Any]:
    return parse_search_file(toy_search(), Source("toy.yaml", {})).trial | sections


def test_answers_are_missing_until_they_are_stored(
    toy_dataset: Dataset, toy_npz: Path, save_teacher: Callable[..., Path], tmp_path: Path, empty_cache: Path
) -> None:
    folder = save_teacher(tmp_path / "teacher", toy_dataset)
    sections = toy_trial(teacher={"name": "digits", "weights": str(folder)})
    wanted = 2 * len(toy_dataset.train) + len(toy_dataset.val)
    (before,) = fills.fills(sections, toy_dataset, toy_npz)
    assert (before.wanted, before.missing, before.training) == (wanted, wanted, 0)
    assert before.num_bytes == wanted * 3 * 2
    assert before.seconds > 0
    assert not empty_cache.exists()
    prepare.fill_bank(teacher.load(folder, toy_dataset), toy_dataset, 1, QUIET)
    assert fills.fills(sections, toy_dataset, toy_npz)[0].missing == len(toy_dataset.train)
    prepare.fill_bank(teacher.load(folder, toy_dataset), toy_dataset, 2, QUIET)
    assert fills.fills(sections, toy_dataset, toy_npz) == [Fill("digits", wanted)]


@pytest.mark.parametrize(
    ("section", "trains", "asks"),
    [
        ({"name": "digits"}, True, True),
        ({"name": "random", "network": "digits"}, False, True),
        ({"name": "permuted", "of": "digits"}, True, True),
        ({"name": "digits", "mode": "live"}, True, False),
        ({"name": "logits", "file": "answers.npy"}, False, False),
    ],
)
def test_teachers_that_are_not_there_are_trained_first(
    section: dict[str, Any], trains: bool, asks: bool, toy_dataset: Dataset, toy_npz: Path, empty_cache: Path
) -> None:
    (fill,) = fills.fills(toy_trial(teacher=section), toy_dataset, toy_npz)
    assert (fill.training > 0, fill.missing > 0, fill.seconds > 0) == (trains, asks, asks)
    assert not empty_cache.exists()


def test_a_shipped_teacher_is_found_where_it_lies(toy_cifar10: Dataset, empty_cache: Path) -> None:
    found = prepare.find_teacher({"name": "compact"}, toy_cifar10)
    assert found is not None
    assert found.folder.parent == teacher.SHIPPED
    assert not empty_cache.exists()


def run_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *arguments])
    output = capsys.readouterr()
    assert "Traceback" not in output.err + output.out
    return int(stop.value.code or 0), output.out + output.err


def test_the_command_plans_a_search_and_writes_nothing(
    tmp_path: Path,
    toy_npz: Path,
    empty_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    manifest = toy_manifest().model_copy(update={"dataset": images(num_train=108)})
    like = write_run(tmp_path / "run", [Trained([0.5])], manifest).folder
    search = toy_search(**{"search.goal": "front", "search.arms": ["distil", "cross_entropy"]})
    file = write_search(tmp_path, search)
    given = (str(file), "--data", str(toy_npz), "--like", str(like), "--places", "3", "--max-hours", "0.0001")
    code, said = run_plan(capsys, *given, "--set", "search.num_trials=7")
    assert code == 0
    assert "\nall                14" in said
    assert "in 3 places, 4 trials in each" in said
    assert "--max-hours 0.0001: about 0 of" in said
    assert list((tmp_path / "here").iterdir()) == []
    assert not empty_cache.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "trial.student.width=0"), "trial.student.width: 0 must be greater than 0"),
        (("--set", "resources.cpus_per_trial=1000"), "asks for 1000 CPUs and 0 GPUs, but no node has them"),
        (("--set", "resources.cpus_per_trial=1000", "--places", "2"), "must be said by --like RUN"),
        (("--like", "nowhere"), "nowhere: no run here"),
        (("--max-hours", "0"), "--max-hours 0: must be hours above 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path, toy_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run_plan(capsys, str(write_search(tmp_path, toy_search())), "--data", str(toy_npz), *arguments)
    assert (code, message in said) == (ExitCode.USAGE, True)
