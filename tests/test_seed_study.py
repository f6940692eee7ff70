"""The study again, in small: one command from a search file to a page."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from rich.console import Console

from kd_tune.confirmation import Comparison
from kd_tune.ledger import replay
from tests.confirmations import toy_confirmation
from tests.searches import toy_search, write_search

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
QUIET = Console(quiet=True)
SMALL = {
    "search.num_trials": 12,
    "search.sampler": {"name": "grid"},
    "search.scheduler": {"name": "none"},
    "trial.student": {"name": "studentnet", "width": 0.25},
    "trial.objective": {
        "name": "mixed_target",
        "alpha": {"choice": [0.0, 0.5, 1.0]},
        "temperature": {"choice": [1.0, 4.0]},
    },
    "trial.optimizer": {"name": "sgd", "lr": {"choice": [0.01, 0.1]}},
    "trial.training": {"num_epochs": 2, "batch_size": 32},
}


@pytest.fixture(scope="module")
def seed_study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("seed_study")


@pytest.mark.usefixtures("ray_cluster")
def test_one_command_makes_the_page_and_again_only_the_page(
    seed_study: ModuleType, tmp_path: Path, toy_npz: Path
) -> None:
    file, run, page = write_search(tmp_path, toy_search(**SMALL)), tmp_path / "run", tmp_path / "study.md"
    for _ in range(2):
        part = seed_study.study(file, run, toy_npz, 2, QUIET)
        seed_study.write_page([part], page, "the command")
    assert [one["command"] for one in replay(run).test_openings] == [
        f"kd-tune confirm run --top 1 --seeds 2 --by objective.alpha --where objective.temperature=4.0 "
        f"--where optimizer.lr={part.rate}",
        "kd-tune confirm run --top 3 --seeds 2 --by objective.alpha --where objective.temperature=4.0 --again",
    ]
    same = part.found[seed_study.SAME]
    assert [arm.model for arm in same.arms] == ["alpha=0", "alpha=0.5", "alpha=1"]
    assert {(arm.draw["objective.temperature"], arm.draw["optimizer.lr"]) for arm in same.arms} == {(4.0, part.rate)}
    text = page.read_text()
    assert "Made by `the command`" in text
    assert all(sentence in " ".join(text.split()) for sentence in (one.sentence(3) for one in same.comparisons))
    pictures = {path.name for path in (tmp_path / "study").glob("*.png")}
    assert pictures == {line.partition("(study/")[2].rstrip(")") for line in text.splitlines() if "(study/" in line}
    figures = json.loads((tmp_path / "study" / "figures.json").read_text())[file.stem]
    assert len(figures["grid"]) == 12


def test_the_common_rate_is_the_best_for_hard_labels_at_the_temperature(seed_study: ModuleType) -> None:
    cells = [(0.0, 4.0, 0.1, 0.6), (0.0, 4.0, 0.2, 0.7), (0.0, 1.0, 0.3, 0.9), (1.0, 4.0, 0.4, 0.9)]
    trials = pd.DataFrame(cells, columns=["objective.alpha", "objective.temperature", "optimizer.lr", "val_accuracy"])
    assert seed_study.best_rate(trials.assign(status="completed"), 0.0, 4.0) == 0.2


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([("alpha=0.5", "alpha=0", 0.02, 0.01), ("alpha=0", "alpha=1", -0.03, 0.01)], "it holds"),
        ([("alpha=0.5", "alpha=0", 0.02, 0.2), ("alpha=1", "alpha=0", -0.03, 0.06)], "it is not decided"),
        (
            [("alpha=0.5", "alpha=0", 0.02, 0.2), ("alpha=0", "alpha=1", 0.03, 0.01)],
            "it is not decided for both, the opposite holds for teacher alone",
        ),
        ([("alpha=0.5", "alpha=0", -0.02, 0.01), ("alpha=1", "alpha=0", -0.03, 0.01)], "the opposite holds"),
    ],
)
def test_soft_targets_are_judged_whichever_way_a_pair_is_written(
    seed_study: ModuleType, differences: list[tuple[str, str, float, float]], verdict: str
) -> None:
    pairs = [*differences, ("alpha=0.5", "alpha=1", 0.1, 0.001)]
    found = toy_confirmation().model_copy(
        update={
            "comparisons": [
                Comparison(
                    student="", first=first, second=second, difference=gain, low=gain, high=gain, p_value=p_value
                )
                for first, second, gain, p_value in pairs
            ]
        }
    )
    judged = seed_study._beats(found, "one rate")
    assert (judged.about, judged.verdict) == ("one rate", verdict)
