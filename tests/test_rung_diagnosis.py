"""Whether rungs rank as the end does: correlations worked by hand, their interval, and the advice that follows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kd_tune import plots, rung_diagnosis
from kd_tune.searcher import is_never_pruned
from tests.runs_by_hand import Trained, write_run

CHANGES: dict[str, Any] = {"trial.training.num_epochs": 5, "search.scheduler.grace_period": 2}  # rungs 2 and 4
UNPRUNED: dict[str, Any] = {"trial.training.num_epochs": 10, "search.scheduler": {"name": "none"}}  # 1, 3, 9
ALIKE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def judges(first: Sequence[float], second: Sequence[float], end: Sequence[float], **fields: Any) -> list[Trained]:
    """Never-pruned trials with these values at epochs 2, 4 and 5."""
    return [
        Trained([0.0, a, 0.0, b, c], never_pruned=True, **fields) for a, b, c in zip(first, second, end, strict=True)
    ]


def test_rank_correlation_is_spearmans(tmp_path: Path) -> None:
    first = (0.5, 0.3, 0.3, 0.9, 0.7, 0.1)  # with a tie
    tables = write_run(tmp_path / "run", judges(first, ALIKE[:6], end := (0.2, 0.1, 0.4, 0.6, 0.5, 0.3)), **CHANGES)
    table = rung_diagnosis.rungs(tables)
    assert table["epoch"].tolist() == [2, 4]
    assert table["n"].tolist() == [6, 6]
    assert table["rho"][0] == pytest.approx(pd.Series(first).corr(pd.Series(end), method="spearman"))
    # Ranks 1 to 6 against 2, 1, 4, 6, 5, 3: squared differences 1 + 1 + 1 + 4 + 0 + 9 = 16; 1 - 6 * 16 / (6 * 35).
    assert table["rho"][1] == pytest.approx(1 - 6 * 16 / 210)


def test_only_trials_that_had_to_reach_the_end_judge(tmp_path: Path) -> None:
    others = [Trained([0.5] * 5), Trained([0.5] * 2, "pruned"), Trained([0.5] * 3, None, never_pruned=True)]
    others += [Trained([float("nan")], "diverged", never_pruned=True)]
    tables = write_run(tmp_path / "run", judges(ALIKE, ALIKE, ALIKE) + others, **CHANGES)
    assert rung_diagnosis.rungs(tables)["n"].tolist() == [8, 8]


def test_trials_are_ranked_within_their_stratum_and_arm(tmp_path: Path) -> None:
    """Small students are worse throughout, and rank the other way round: pooled values would correlate well."""
    small = judges((0.1, 0.2, 0.3, 0.4), ALIKE[:4], (0.4, 0.3, 0.2, 0.1), stratum=0)
    large = judges((0.6, 0.7, 0.8, 0.9), ALIKE[:4], (0.9, 0.8, 0.7, 0.6), stratum=1)
    control = judges((0.6, 0.7, 0.8, 0.9), ALIKE[:4], (0.9, 0.8, 0.7, 0.6), arm="cross_entropy")
    arms = {"search.arms": ["distil", "cross_entropy"]}
    table = rung_diagnosis.rungs(write_run(tmp_path / "run", small + large + control, **CHANGES, **arms))
    first = table[table["epoch"] == 2].set_index("arm")
    assert first["n"].to_dict() == {"all": 12, "distil": 8, "cross_entropy": 4}
    assert first["rho"]["all"] == pytest.approx(-1)
    assert first["rho"]["distil"] == pytest.approx(-1)
    assert np.isnan(first["rho"]["cross_entropy"]), "four trials are too few"


@pytest.mark.parametrize(("num_trials", "rho"), [(8, 0.7), (12, 0.0), (12, 0.9), (30, 0.5)])
def test_the_interval_covers_the_true_correlation(num_trials: int, rho: float) -> None:
    """4,000 draws of normal pairs, whose rank correlation is known: 95 % of the intervals hold it, give or take 2."""
    random = np.random.RandomState(num_trials)
    true = 6 / np.pi * np.arcsin(rho / 2)
    early = random.standard_normal((4000, num_trials))
    late = rho * early + np.sqrt(1 - rho**2) * random.standard_normal(early.shape)
    differences = early.argsort(1).argsort(1) - late.argsort(1).argsort(1)
    found = 1 - 6 * (differences**2).sum(1) / (num_trials * (num_trials**2 - 1))
    intervals = [rung_diagnosis._interval(value, num_trials, num_trials - 3) for value in found]
    assert np.mean([low <= true <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.02)


def test_a_perfect_order_of_few_trials_is_not_certain(tmp_path: Path) -> None:
    tables = write_run(tmp_path / "run", judges(ALIKE[:6], ALIKE[:6], ALIKE[:6]), **CHANGES)
    row = rung_diagnosis.rungs(tables).iloc[0]
    assert row["rho"] == pytest.approx(1)
    assert row["low"] < 0.5


def test_the_best_tenth_that_a_rung_would_have_stopped_is_counted(tmp_path: Path) -> None:
    """Of twenty trials the best two end at 0.20 and 0.19; the rung at epoch 4 would have stopped one of them."""
    values = [number / 100 for number in range(1, 21)]
    trials = [Trained([0, v, 0, v, v], never_pruned=True, spared_at={0.19: 4, 0.02: 2, 0.01: 2}.get(v)) for v in values]
    table = rung_diagnosis.rungs(write_run(tmp_path / "run", trials, **CHANGES))
    assert table["best"].tolist() == [2, 2]
    assert table["best_stopped"].tolist() == [0, 1]


def unpruned(early: Sequence[float], end: Sequence[float]) -> list[Trained]:
    """Trials of ten epochs with these values at epoch 3, and the end's from epoch 9 on; epoch 1 says nothing."""
    return [Trained([0.5, 0, a, 0, 0, 0, 0, 0, b, b]) for a, b in zip(early, end, strict=True)]


def test_without_pruning_all_trials_judge_epochs_that_might_have_been_rungs(tmp_path: Path) -> None:
    early = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.7, 0.9)  # the best three are kept; the best ends second at epoch 3
    table = rung_diagnosis.rungs(write_run(tmp_path / "run", unpruned(early, sorted(early)), **UNPRUNED))
    assert table["epoch"].tolist() == [1, 3, 9]
    assert table["rho"][0] == 0, "all alike, so no order"
    assert table["best"].tolist() == [1, 1, 1]
    assert table["best_stopped"].tolist() == [0, 0, 0]
    late_winner = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    table = rung_diagnosis.rungs(write_run(tmp_path / "other", unpruned(late_winner, sorted(early)), **UNPRUNED))
    assert table["best_stopped"].tolist() == [0, 1, 0]


# Against N12, squared differences of ranks add up to 322 and 94: rho = 1 - 6 * 322 / (12 * 143) = -0.13, and 0.67.
N12 = tuple(round(0.05 * (number + 1), 2) for number in range(12))
COIN = (0.3, 0.6, 0.1, 0.45, 0.2, 0.55, 0.05, 0.35, 0.5, 0.15, 0.4, 0.25)
SLIGHTLY = (0.2, 0.1, 0.35, 0.05, 0.45, 0.15, 0.3, 0.5, 0.25, 0.6, 0.4, 0.55)


@pytest.mark.parametrize(
    ("trials", "text", "act"),
    [
        (
            judges(N12, N12, N12),
            "rung 2 already ranks as the end does (rho 1.00, n = 12): grace_period 2 can stay",
            False,
        ),
        (judges(COIN, N12, N12), "rung 2 ranks like a coin (rho -0.13, n = 12): raise grace_period to 4", True),
        (
            judges(COIN, COIN, N12),
            "rung 2 ranks like a coin (rho -0.13, n = 12): no later one is surely better: prune nothing",
            True,
        ),
        (
            judges(SLIGHTLY, N12, N12),
            "rung 2 may rank well or badly (rho 0.67, n = 12, 95 % interval 0.09 to 0.91): "
            "more never-pruned trials would tell",
            False,
        ),
        (
            judges(N12[:5], N12[:5], N12[:5]),
            "5 trials had to reach the end, but to judge rungs takes 6: 120 trials of every arm or "
            "scheduler.never_pruned: 0.12 would give them",
            False,
        ),
        (
            judges(N12, N12, [0.5] * 12),
            "all 12 trials that had to reach the end ended alike: nothing to judge by",
            False,
        ),
        (
            [Trained([0.5] * 5)],
            "0 trials had to reach the end, but to judge rungs takes 6: 120 trials of every arm or "
            "scheduler.never_pruned: 0.12 would give them",
            False,
        ),
    ],
    ids=["good", "coin", "coin throughout", "doubt", "few", "alike", "none"],
)
def test_advice_on_the_grace_period(tmp_path: Path, trials: list[Trained], text: str, act: bool) -> None:
    assert rung_diagnosis.advice(write_run(tmp_path / "run", trials, **CHANGES)) == (text, act)


def test_a_rung_that_stops_the_best_is_not_called_good(tmp_path: Path) -> None:
    trials = judges(N12, N12, N12)
    best = Trained(trials[-1].values, never_pruned=True, spared_at=2)
    found = rung_diagnosis.advice(write_run(tmp_path / "run", [*trials[:-1], best], **CHANGES))
    assert found is not None
    assert found.text.startswith("rung 2 may rank well or badly")
    assert found.text.endswith("; pruning would have stopped 1 of the best 1")


@pytest.mark.parametrize(
    ("early", "text"),
    [
        (
            N12,
            "epoch 3 already ranks as the end does (rho 1.00, n = 12): asha with grace_period 3 would find as much in "
            "less time",
        ),
        (COIN, "epoch 9 already ranks as the end does (rho 1.00, n = 12)"),
        (None, "no early epoch surely ranks as the end does (n = 12): go on without pruning"),
    ],
)
def test_advice_without_pruning(tmp_path: Path, early: tuple[float, ...] | None, text: str) -> None:
    trials = (
        unpruned(early, N12) if early else [Trained([value] * 9 + [end]) for value, end in zip(COIN, N12, strict=True)]
    )
    found = rung_diagnosis.advice(write_run(tmp_path / "run", trials, **UNPRUNED))
    assert found is not None
    assert found.text.startswith(text)
    assert not found.act


MEDIAN: dict[str, Any] = {"trial.training.num_epochs": 10, "search.scheduler": {"name": "median", "grace_period": 2}}


@pytest.mark.parametrize(
    ("spared", "best_stopped", "said"), [({1.0: 2, 0.1: 4}, [0, 1, 1], "1"), ({0.9: 6}, [0, 0, 0], "none")]
)
def test_the_best_that_the_median_rule_would_have_stopped_are_counted_at_any_epoch(
    tmp_path: Path, spared: dict[float, int], best_stopped: list[int], said: str
) -> None:
    """It has no rungs, and may stop a trial after every epoch from the grace period on."""
    ends = [number / 10 for number in range(-1, 11)]
    trials = [Trained([end] * 10, never_pruned=True, spared_at=spared.get(end)) for end in ends]
    tables = write_run(tmp_path / "run", trials, **MEDIAN)
    table = rung_diagnosis.rungs(tables)
    assert table["epoch"].tolist() == [1, 3, 9]
    assert table["best_stopped"].tolist() == best_stopped
    text = f"median would have stopped {said} of the best 1 among 12 trials that had to reach the end"
    assert rung_diagnosis.advice(tables) == (text, False)


def test_without_rungs_the_last_epoch_after_which_trials_are_pruned_is_judged(tmp_path: Path) -> None:
    late = {"trial.training.num_epochs": 6}
    trials = [Trained([value] * 6, never_pruned=True, spared_at=5) for value in ALIKE]
    assert rung_diagnosis.rungs(write_run(tmp_path / "run", trials, **MEDIAN | late))["best_stopped"].tolist() == [
        0,
        0,
        1,
    ]


def test_of_all_that_a_rung_stopped_the_later_rungs_know(tmp_path: Path) -> None:
    trials = judges(N12, N12, N12)
    best = Trained(trials[-1].values, never_pruned=True, spared_at=2)
    assert rung_diagnosis.rungs(write_run(tmp_path / "run", [*trials[:-1], best], **CHANGES))[
        "best_stopped"
    ].tolist() == [1, 1]


NINE: dict[str, Any] = {"search.arms": ["distil", "cross_entropy", "label_smoothing"]}


@pytest.mark.parametrize(
    ("changes", "quota", "takes"),
    [
        (NINE, 24, "rungs takes 8: 60 trials of every arm or scheduler.never_pruned: 0.13 would give them"),
        (NINE | {"search.scheduler": {"never_pruned": 0.0}}, 24, "rungs takes 8: scheduler.never_pruned: 0.13 would"),
        (NINE | {"search.scheduler": {"never_pruned": 0.0}}, 2, "rungs takes 8: more trials would"),
        (NINE | {"search.scheduler": {"name": "none"}}, 2, "early epochs takes 8: 3 trials of every arm would"),
        (NINE | {"search.scheduler": {"name": "median"}}, 2, "early epochs takes 8: 60 trials of every arm would"),
    ],
)
def test_who_has_too_few_to_judge_by_is_told_what_would_give_enough(
    tmp_path: Path, changes: dict[str, Any], quota: int, takes: str
) -> None:
    tables = write_run(tmp_path / "run", [], **changes)
    tables.state.quota = dict.fromkeys(tables.state.quota, quota)
    found = rung_diagnosis.advice(tables)
    assert found is not None
    assert found.text.startswith(f"0 trials had to reach the end, but to judge {takes}")


@pytest.mark.parametrize("strata", [(), (100, 200)])
def test_what_is_said_to_give_enough_does(tmp_path: Path, strata: tuple[int, ...]) -> None:
    tables = write_run(tmp_path / "run", [], **NINE)
    tables.state.strata, groups = strata, 3 * max(1, len(strata))
    tables.state.quota = dict.fromkeys(tables.state.quota, 24)
    found = rung_diagnosis.advice(tables)
    assert found is not None
    said = re.search(r"takes (\d+): (\d+) trials of every arm or scheduler.never_pruned: (\S+) would", found.text)
    assert said is not None
    needed, more, share = int(said[1]), int(said[2]), float(said[3])
    for per_group, used in ((more * 3 // groups, 0.05), (24 * 3 // groups, share)):
        for offset in (0.0, 0.5, 0.999):
            each = sum(is_never_pruned(index, used, offset) for index in range(per_group))
            assert groups * each >= needed


def test_a_search_without_room_for_rungs_gets_no_advice(tmp_path: Path) -> None:
    tables = write_run(tmp_path / "run", [Trained([0.5])], **{"trial.training.num_epochs": 1})
    assert rung_diagnosis.advice(tables) is None
    assert rung_diagnosis.rungs(tables).empty


def test_the_picture_shows_every_epoch_and_marks_the_rungs(tmp_path: Path) -> None:
    tables = write_run(tmp_path / "run", judges(COIN, N12, N12), **CHANGES)
    figure = plots.rank_correlation(tables)
    assert figure is not None
    curve, *rungs = figure.axes[0].lines
    assert list(curve.get_xdata()) == [1, 2, 3, 4]
    assert [next(iter(line.get_xdata())) for line in rungs] == [2, 4]
    assert plots.rank_correlation(write_run(tmp_path / "few", judges(N12[:5], N12[:5], N12[:5]), **CHANGES)) is None
