"""The study again, in small: one command from a search file to a page."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

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
def modules() -> dict[str, ModuleType]:
    """The study's modules by the last word of their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        found = {name: importlib.import_module(f"seed_study_{name}") for name in ("runs", "claims", "page")}
        return found | {"study": importlib.import_module("seed_study")}


@pytest.fixture
def runs(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["runs"]


@pytest.fixture
def claims(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["claims"]


@pytest.fixture
def page(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["page"]


class Study(NamedTuple):
    """The study of the toy data, made by its command twice.

    Attributes:
        file: its search file.
        page: what it wrote.
        part: the same, read once more.
    """

    file: Path
    page: Path
    part: Any


@pytest.fixture(scope="module")
def study(
    modules: dict[str, ModuleType], ray_cluster: None, tmp_path_factory: pytest.TempPathFactory, toy_npz: Path
) -> Study:
    folder = tmp_path_factory.mktemp("study")
    file, page = write_search(folder, toy_search(**SMALL)), folder / "study.md"
    options = ["--data", str(toy_npz), "--runs", str(folder), "--seeds", "2", "--page", str(page)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["seed_study.py", str(file), *options])
        for _ in range(2):
            modules["study"].main()
    return Study(file, page, modules["runs"].study(file, folder / "toy", toy_npz, 2, QUIET))


@pytest.mark.slow
def test_one_command_asks_its_three_questions_once(study: Study, runs: ModuleType) -> None:
    by = "kd-tune confirm toy --top {} --seeds 2 --by objective.alpha"
    assert [one["command"] for one in replay(study.file.parent / "toy").test_openings] == [
        f"{by.format(1)} --where objective.temperature=4.0 --where optimizer.lr={study.part.rate}",
        f"{by.format(3)} --where objective.temperature=4.0 --again",
        f"{by.format(3)} --again",
    ]
    same = study.part.found[runs.SAME]
    assert [arm.model for arm in same.arms] == ["alpha=0", "alpha=0.5", "alpha=1"]
    rates = {(arm.draw["objective.temperature"], arm.draw["optimizer.lr"]) for arm in same.arms}
    assert rates == {(4.0, study.part.rate)}


@pytest.mark.slow
def test_the_page_has_the_figures_pictures_and_command(study: Study, runs: ModuleType) -> None:
    text = study.page.read_text()
    one_line = " ".join(text.split())
    assert "Made by `python benchmarks/seed_study.py " in one_line
    assert str(study.file.parent) not in text.replace(str(study.file), "").replace(str(study.page), "")
    assert all(one.sentence(3) in one_line for one in study.part.found[runs.SAME].comparisons)
    pictures = {path.name for path in study.page.with_suffix("").glob("*.png")}
    assert pictures == {line.partition("(study/")[2].rstrip(")") for line in text.splitlines() if "(study/" in line}
    figures = json.loads((study.page.with_suffix("") / "figures.json").read_text())["toy"]
    assert len(figures["grid"]) == 12
    assert "the study, %" not in text, "its figures are of other data"


@pytest.mark.slow
def test_beside_figures_of_cifar10_stand_the_studys(study: Study, page: ModuleType, claims: ModuleType) -> None:
    names, groups = claims.CLASSES[:3], {"vehicles": claims.CLASSES[:2], "animals": claims.CLASSES[2:3]}
    file = study.part.tables.file
    trial = file.trial | {"dataset": {"name": "cifar10"}}
    part = replace(
        study.part,
        tables=replace(study.part.tables, file=replace(file, trial=trial)),
        told={about: replace(told, class_names=names, groups=groups) for about, told in study.part.told.items()},
    )
    lines = page.section(part, "pictures").splitlines()
    accuracies = [line.split("|")[-2].strip() for line in lines if line.startswith("| hard labels (alpha=0) | 4 ")]
    assert accuracies[0] == "62.43"
    assert [cell.split("; ")[-1] for cell in next(line for line in lines if line.startswith("| bird")).split(" | ")][
        1:
    ] == ["50.4", "45.9", "61.3", "91.7 |"]
    assert any(line.startswith("| students at | student | all classes |") for line in lines)
    assert page.introduction([part]).count("94.22 %") == 1


@pytest.mark.slow
def test_runs_of_other_seeds_or_files_are_refused(study: Study, runs: ModuleType, toy_npz: Path) -> None:
    run = study.file.parent / "toy"
    with pytest.raises(SystemExit, match="was made with other seeds"):
        runs.study(study.file, run, toy_npz, 3, QUIET)
    other = study.file.with_name("other.yaml")
    other.write_text(study.file.read_text().replace("batch_size: 32", "batch_size: 16"))
    with pytest.raises(SystemExit, match=r"was made by another other\.yaml"):
        runs.study(other, run, toy_npz, 2, QUIET)


def test_the_common_rate_is_the_best_for_hard_labels_at_the_temperature(runs: ModuleType) -> None:
    cells = [(0.0, 4.0, 0.1, 0.6), (0.0, 4.0, 0.2, 0.7), (0.0, 1.0, 0.3, 0.9), (1.0, 4.0, 0.4, 0.9)]
    trials = pd.DataFrame(cells, columns=["objective.alpha", "objective.temperature", "optimizer.lr", "val_accuracy"])
    assert runs.best_rate(trials.assign(status="completed"), 0.0, 4.0) == 0.2


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([("alpha=0.5", "alpha=0", 0.02, 0.01), ("alpha=0", "alpha=1", -0.03, 0.01)], "it holds"),
        ([("alpha=0.5", "alpha=0", 0.02, 0.2), ("alpha=1", "alpha=0", -0.03, 0.06)], "it is open"),
        (
            [("alpha=0.5", "alpha=0", 0.02, 0.2), ("alpha=0", "alpha=1", 0.03, 0.01)],
            "it is open for labels and teacher, the opposite holds for teacher alone",
        ),
        ([("alpha=0.5", "alpha=0", -0.02, 0.01), ("alpha=1", "alpha=0", -0.03, 0.01)], "the opposite holds"),
        (
            [("alpha=1", "alpha=0", 0.03, 0.01)],
            "it cannot be judged for labels and teacher, it holds for teacher alone",
        ),
        ([], "it cannot be judged"),
    ],
)
def test_soft_targets_are_judged_whichever_way_a_pair_is_written(
    claims: ModuleType, differences: list[tuple[str, str, float, float]], verdict: str
) -> None:
    pairs = [*differences, ("alpha=0.5", "alpha=1", 0.1, 0.001)]
    comparisons = [
        Comparison(student="", first=first, second=second, difference=gain, low=gain, high=gain, p_value=p_value)
        for first, second, gain, p_value in pairs
    ]
    judged = claims.beats(toy_confirmation().model_copy(update={"comparisons": comparisons}), "one rate")
    assert (judged.about, judged.verdict) == ("one rate", verdict)
    assert judged.figures == "; ".join(one.sentence(len(pairs)) for one in comparisons[:-1])


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([("alpha=0", "alpha=1", -0.05, 0.01), ("alpha=1", "alpha=0.5", 0.03, 0.01)], "it holds"),
        (
            [("alpha=1", "alpha=0", 0.05, 0.01), ("alpha=0.5", "alpha=1", -0.03, 0.09)],
            "it holds against hard labels, it is open against labels and teacher",
        ),
        (
            [("alpha=1", "alpha=0", -0.05, 0.01)],
            "the opposite holds against hard labels, it cannot be judged against labels and teacher",
        ),
    ],
)
def test_the_closest_profile_is_judged_pair_by_pair(
    claims: ModuleType, rows: list[tuple[str, str, float, float]], verdict: str
) -> None:
    """What a pair says is written the teacher's own student first; a profile that is all noise is left out."""
    names = ["first", "second", "difference", "p_holm"]
    pairs = pd.DataFrame(rows, columns=names).assign(low=lambda one: one.difference - 0.01).assign(high=0.2)
    profiles = pd.DataFrame([{"model": "alpha=0", "correlation": math.nan}, {"model": "alpha=1", "correlation": 0.93}])
    judged = claims.closest(profiles, pairs, "one rate")
    assert judged.verdict == verdict
    other, gain = ("alpha=0", abs(rows[0][2]) * (-1 if verdict.startswith("the opposite") else 1))
    assert f"correlations, corrected for noise: alpha=1 0.93; alpha=1 less {other} {gain:+.3f}" in judged.figures


@pytest.mark.parametrize(("low", "verdict"), [(0.6, "it holds"), (0.4, "it does not hold for all")])
def test_confusions_are_judged_in_every_group(claims: ModuleType, low: float, verdict: str) -> None:
    row = {"model": "alpha=1", "share": 0.7, "high": 0.8, "evenly": 0.5}
    table = pd.DataFrame([row | {"group": "all", "low": 0.6}, row | {"group": "animals", "low": low}])
    assert claims.stay_inside(table, "one rate").verdict == verdict
    assert claims.stay_inside(None, "").verdict == "these data have no groups of like classes"


def test_the_published_figures_are_the_studys(claims: ModuleType) -> None:
    """Those by class have as their mean those over all."""
    assert claims.PUBLISHED == {"alpha=0": 62.43, "alpha=0.5": 65.93, "alpha=1": 65.28, "teacher": 94.21}
    assert "by hard labels 0.80, labels and teacher 0.90, teacher alone 0.81" in claims.of_published_figures()
    assert "ranks by hard labels 0.75, labels and teacher 0.58, teacher alone 0.95" in claims.of_published_figures()


def test_a_student_that_has_hardly_learnt_is_named(claims: ModuleType) -> None:
    found = toy_confirmation()
    arms = [arm.model_copy(update={"model": name}) for arm, name in zip(found.arms, claims.STUDENTS, strict=False)]
    low = [arms[0], arms[1].model_copy(update={"test_accuracies": [0.3, 0.32]}), *arms[2:]]
    part = SimpleNamespace(
        found={claims.OWN: found.model_copy(update={"arms": arms}), "here": found.model_copy(update={"arms": low})}
    )
    assert claims.not_learnt(part, "here").startswith("labels and teacher has 31.0% here and 94.2% at its own rate: ")
    assert claims.not_learnt(part, claims.OWN) == ""
