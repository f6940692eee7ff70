"""Which students are exported: the best, the best under a limit, or named ones; what is said where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kd_tune import cli, export_choice, results
from kd_tune.errors import ConfigError, ExitCode
from kd_tune.export_choice import Wanted, choose
from kd_tune.ledger import checkpoints_of
from tests.runs_by_hand import Trained, write_run

SMALL = {"num_parameters": 100, "multiply_adds": 1000}
BIG = {"num_parameters": 900, "multiply_adds": 5000}
MILLISECONDS = {100: 0.5, 900: 2.0}


def latencies(checkpoints: Mapping[int, Path]) -> dict[int, float]:
    """Even trials are small."""
    return {number: 2.0 if number % 2 else 0.5 for number in checkpoints}


def never(checkpoints: Mapping[int, Path]) -> dict[int, float]:
    raise AssertionError("no limit of latency, so nothing is measured")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Small students under even numbers, better big ones under odd ones; the best small one lost its checkpoint."""
    folder = tmp_path / "run"
    trials = [
        Trained([0.80], costs=SMALL),
        Trained([0.90], costs=BIG),
        Trained([0.85], costs=SMALL),
        Trained([0.95], costs=BIG),
        Trained([0.70], arm="cross_entropy", costs=SMALL),
        Trained([0.97], arm="cross_entropy", costs=BIG),
        Trained([0.99], end="diverged", costs=SMALL),
        Trained([0.60], end=None, costs=SMALL),
    ]
    write_run(folder, trials, **{"search.arms": ["distil", "cross_entropy"]})
    for number in (0, 1, 3, 4, 5):
        (checkpoints_of(folder, number) / "epoch_0001").mkdir(parents=True)
    return folder


def numbers(choice: export_choice.Choice) -> dict[str, int]:
    return {name: int(path.parent.name.split("_")[-1]) for name, path in choice.checkpoints.items()}


def test_without_limits_the_best_of_each_arm_are_chosen(run: Path) -> None:
    choice = choose(results.read(run), Wanted(), never)
    assert numbers(choice) == {"distil_1": 3, "cross_entropy_1": 5}
    assert choice.notes == []


@pytest.mark.parametrize("wanted", [Wanted(max_params=500), Wanted(max_macs=1000)], ids=["params", "macs"])
def test_under_a_limit_the_best_that_keeps_to_it_is_chosen_and_a_better_lost_one_is_named(
    wanted: Wanted, run: Path
) -> None:
    choice = choose(results.read(run), wanted, never)
    assert numbers(choice) == {"distil_1": 0, "cross_entropy_1": 4}
    (note,) = choice.notes
    assert note.startswith(
        f"distil: the best within {wanted.in_words} is trial 2 (validation accuracy 85.00%, 100 param"
    )
    assert "its checkpoint is gone; a run keeps those of each arm's best 5 trials" in note


def test_under_a_limit_of_latency_the_best_that_is_fast_enough_is_chosen(run: Path) -> None:
    assert numbers(choose(results.read(run), Wanted(max_latency_ms=1.0), latencies)) == {
        "distil_1": 0,
        "cross_entropy_1": 4,
    }
    assert numbers(choose(results.read(run), Wanted(max_latency_ms=3.0), latencies)) == {
        "distil_1": 3,
        "cross_entropy_1": 5,
    }


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(max_params=50), r"--max-params 50: no student .* the smallest has 100 parameters \(trial "),
        (Wanted(max_macs=999), r"--max-macs 999: no student .* the smallest has 1,000 multiply-adds \(trial "),
        (Wanted(max_latency_ms=0.1), r"--max-latency-ms 0.1: no student is so fast .* the fastest takes 0.5 ms"),
        (Wanted(trials=(2,)), r"--trial 2: its checkpoint is gone; a run keeps .* trains it again: "),
        (Wanted(trials=(6,)), r"--trial 6: this trial gave no figure \(diverged\)"),
        (Wanted(trials=(7,)), r"--trial 7: this trial has not ended"),
        (Wanted(trials=(99,)), r"--trial 99: .* has trials 0 to 7"),
        (Wanted(top=6), r"--top 6: a run keeps the checkpoints of each arm's best 5"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_there_is(wanted: Wanted, message: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(results.read(run), wanted, latencies)


def test_an_arm_without_a_student_under_the_limit_is_named(tmp_path: Path) -> None:
    trials = [Trained([0.8], costs=SMALL), Trained([0.9], arm="cross_entropy", costs=BIG)]
    folder = tmp_path / "run"
    write_run(folder, trials, **{"search.arms": ["distil", "cross_entropy"]})
    for number in (0, 1):
        (checkpoints_of(folder, number) / "epoch_0001").mkdir(parents=True)
    choice = choose(results.read(folder), Wanted(max_params=500), never)
    assert numbers(choice) == {"distil_1": 0}
    assert choice.notes == ["cross_entropy: no student within --max-params 500"]


def test_named_trials_are_chosen_once_each(run: Path) -> None:
    assert numbers(choose(results.read(run), Wanted(trials=(1, 4, 1)), never)) == {"trial_1": 1, "trial_4": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-params", "9"], "--max-params says what to --export: add --export FOLDER"),
        (["--top", "2"], "--top says what to --export"),
        (["--data", "x"], "--data says what to --export"),
        (["--measure-speed"], "--measure-speed says what to --export"),
        (["--export", "x", "--trial", "0", "--top", "2"], "--top chooses a student, which --trial has done"),
        (["--export", "x", "--max-latency-ms", "-1"], "--max-latency-ms -1: must be above 0"),
    ],
)
def test_options_that_mean_nothing_together_are_refused_before_any_work(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", str(run), *arguments])
    assert stop.value.code == ExitCode.USAGE
    assert message in capsys.readouterr().err
    assert not (run / "report").exists()
