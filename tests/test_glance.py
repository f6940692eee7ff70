"""A search at a glance: on any width, with and without colours; every figure follows from the ledger."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kd_tune.glance import CURVE_WIDTH, SPARKS, Course, Glance, Pace, sparkline
from kd_tune.run_state import RunState, TrialState


def trial(number: int, arm: str, values: list[float], end: Any = None) -> TrialState:
    rows = {epoch: {"val_accuracy": value} for epoch, value in enumerate(values, start=1)}
    return TrialState(number, arm, {"optimizer.lr": 0.05, "student.width": 1.0}, rows=rows, end=end)


@pytest.fixture
def glance() -> Glance:
    """Two arms, of eight trials each; rungs at 1 and 3, and 9 epochs."""
    trials = [
        trial(0, "distil", [0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.82, 0.85], "completed"),
        trial(1, "distil", [0.05], "pruned"),
        trial(2, "distil", [0.2, 0.25, 0.3], "pruned"),
        trial(3, "cross_entropy", [0.4, 0.5]),
    ]
    state = RunState({one.number: one for one in trials}, {"distil": 8, "cross_entropy": 8})
    return Glance(state, Course(9, (1, 3)), Pace(15, 60.0))


def shown(glance: Glance, width: int, **options: Any) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width, **options).print(glance)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_it_shows_trials_rungs_and_the_best_of_every_arm(glance: Glance) -> None:
    lines = shown(glance, 120)
    # The 14 epochs that the two pruned trials did not train; 4 + 9 x 4.33 and 7 + 7 x 4.33 are left, at 15 a minute.
    assert lines[0].startswith("60 s so far, 15 epochs a minute, about ")
    assert lines[0].endswith("left, 15 epochs trained, 14 saved by pruning")
    assert lines[2].split() == ["arm", "trials", "running", "completed", "pruned", "best", "trial"]
    assert lines[3].split() == ["distil", "3/8", "0", "1", "2", "85.00%", "0"]
    assert lines[4].split() == ["cross_entropy", "1/8", "1", "0", "0", "50.00%", "3"]
    rungs = [re.sub("[█▉▊▋▌▍▎▏ ]+", " ", line).strip() for line in lines if line.lstrip().startswith("epoch ")]
    assert rungs == ["epoch 1 4 trials, 1 pruned", "epoch 3 2 trials, 1 pruned", "epoch 9 1 trial"]
    assert "distil: 85.00%  ▁▃▅▆▇▇███  trial 0, 9 epochs" in lines
    assert "  optimizer.lr 0.05  student.width 1" in lines


@pytest.mark.parametrize("width", [20, 40, 71, 72, 200])
def test_no_line_is_wider_than_the_terminal(width: int, glance: Glance) -> None:
    lines = shown(glance, width)
    assert max(map(len, lines)) <= width
    assert any("85.00%" in line for line in lines), "what matters most is there on any width"


def test_on_a_narrow_terminal_names_are_folded_and_figures_are_whole(glance: Glance) -> None:
    assert any(line.split() == ["distil", "3/8", "0", "85.00%", "0"] for line in shown(glance, 40))


def test_without_colours_there_is_no_escape_sequence(glance: Glance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    said = "".join(shown(glance, 100, force_terminal=True))
    assert "36m" not in said, "cyan"
    monkeypatch.delenv("NO_COLOR")
    assert "36m" in "".join(shown(glance, 100, force_terminal=True, color_system="standard"))


def test_before_the_first_trial_there_is_not_much_to_say() -> None:
    lines = shown(Glance(RunState(quota={"distil": 3}), Course(9), Pace(0, 1.0)), 100)
    assert lines[:2] == ["1 s so far, starting workers, 0 epochs trained", ""]
    assert lines[3].split() == ["distil", "0/3", "0", "0"]
    assert len(lines) == 4


@given(st.lists(st.floats(0, 1), max_size=100))
def test_a_sparkline_is_a_curve_of_few_characters(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == min(len(values), CURVE_WIDTH)
    assert set(line) <= set(SPARKS)
    if len(values) <= CURVE_WIDTH and len(set(values)) > 1 and max(values) - min(values) > 1e-300:
        assert line[values.index(max(values))] == SPARKS[-1]
        assert line[values.index(min(values))] == SPARKS[0]
