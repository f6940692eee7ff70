"""What a run says about its search's ranges, its divergence and its budget: figures worked by hand."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from rich.console import Console

from kd_tune import analysis, budget, diagnosis, plots, report
from kd_tune.manifest import TeacherFacts
from kd_tune.objectives import OBJECTIVES
from kd_tune.optimizers import OPTIMIZERS
from kd_tune.results import RunTables
from tests.runs_by_hand import Trained, write_run
from tests.searches import toy_manifest

LR = {"trial.optimizer.lr": {"float": [0.001, 0.1], "log": True}}


def drawn(name: str, values: list[Any], **fields: Any) -> list[Trained]:
    """Trials with these values of one parameter, from the best to the worst."""
    return [Trained([0.9 - 0.01 * place] * 6, draw={name: value}, **fields) for place, value in enumerate(values)]


def acts(found: list[analysis.Finding]) -> list[str]:
    return [finding.text for finding in found if finding.act]


# The upper 5 % of 0.001 to 0.1 on a logarithmic scale begin at 0.0794.
@pytest.mark.parametrize(
    ("best", "found"),
    [
        ([0.08, 0.03, 0.09], ("high", 0.1, 0.08, 2, 3)),
        ([0.08, 0.03, 0.079], None),  # one of three is no surprise
        ([0.01, 0.0011, 0.0012], ("low", 0.001, 0.0011, 2, 3)),
    ],
)
def test_best_values_near_the_end_of_a_range_are_found(tmp_path: Path, best: list[float], found: Any) -> None:
    tables = write_run(tmp_path / "run", drawn("optimizer.lr", best + [0.02] * 7), **LR)
    table = diagnosis.range_ends(tables)[["end", "bound", "value", "at_end", "best"]]
    assert table.to_records(index=False).tolist() == ([] if found is None else [found])
    assert bool(acts(diagnosis.findings(tables))) == (found is not None)


def test_the_advice_names_parameter_range_value_end_and_arms(tmp_path: Path) -> None:
    trials = drawn("optimizer.lr", [0.08, 0.09, 0.095] + [0.02] * 7)
    trials += drawn("optimizer.lr", [0.01, 0.09, 0.095] + [0.02] * 7, arm="cross_entropy")
    tables = write_run(tmp_path / "run", trials, **LR, **{"search.arms": ["distil", "cross_entropy"]})
    assert acts(diagnosis.findings(tables)) == [
        "optimizer.lr: the best trials lie at the high end of {float: [0.001, 0.1], log: true} "
        "(best 0.08; distil 3 of 3, cross_entropy 2 of 3): widen it"
    ]


def test_few_trials_say_nothing_of_ranges(tmp_path: Path) -> None:
    assert diagnosis.range_ends(write_run(tmp_path / "run", drawn("optimizer.lr", [0.1] * 9), **LR)).empty


def test_a_range_that_ends_where_nothing_more_is_allowed_is_not_to_be_widened(tmp_path: Path) -> None:
    tables = write_run(tmp_path / "run", drawn("objective.alpha", [1.0, 0.99, 0.98] + [0.5] * 7))
    assert diagnosis.range_ends(tables)["limit"].tolist() == [True]
    text, act = diagnosis.findings(tables)[-1]
    assert text.endswith("which is also the limit of what is allowed")
    assert not act


@pytest.mark.parametrize(
    ("leaf", "best", "others", "end"),
    [
        ({"choice": [128, 32, 64]}, [128, 128, 128], 64, "high"),  # chance would have it so in 1 of 27 arms
        ({"choice": [32, 64, 128]}, [32, 32, 64], 64, None),
        ({"choice": [32, 64]}, [64, 64, 64], 32, None),
        ({"int": [1, 10]}, [10, 10, 5], 5, "high"),
        ({"int": [1, 4]}, [1, 1, 2], 2, None),
        ({"int": [10, 100]}, [11, 12, 50], 50, "low"),
        ({"int": [1, 100], "log": True}, [90, 95, 50], 50, "high"),
        ({"float": [0.0, 1.0], "step": 0.25}, [1.0, 1.0, 0.5], 0.5, None),
        ({"float": [0.0, 1.0], "step": 0.25}, [1.0, 1.0, 1.0], 0.5, "high"),
    ],
)
def test_ends_of_choices_whole_numbers_and_steps(
    tmp_path: Path, leaf: dict[str, Any], best: list[Any], others: Any, end: str | None
) -> None:
    trials = drawn("training.batch_size", best + [others] * 7)
    table = diagnosis.range_ends(write_run(tmp_path / "run", trials, **{"trial.training.batch_size": leaf}))
    assert table["end"].tolist() == ([] if end is None else [end])


@pytest.mark.parametrize("name", ["student.width", "training.schedule"])
def test_sizes_of_students_and_names_have_no_end_to_widen(tmp_path: Path, name: str) -> None:
    values: list[Any] = [1, 2, 4] if name == "student.width" else ["constant", "cosine", "one_cycle"]
    trials = drawn(name, values[-1:] * 10)
    tables = write_run(tmp_path / "run", trials, **{f"trial.{name}": {"choice": values}})
    assert diagnosis.range_ends(tables).empty


def limits_of(entry: Callable[..., Any]) -> dict[str, tuple[float, float]]:
    """The bounds that an entry's annotations give its arguments."""
    found = {}
    for name, hint in get_type_hints(entry.__init__ if inspect.isclass(entry) else entry, include_extras=True).items():
        bounds = [bound for info in getattr(hint, "__metadata__", ()) for bound in info.metadata]
        lowest = [getattr(bound, key) for bound in bounds for key in ("ge", "gt") if hasattr(bound, key)]
        highest = [getattr(bound, key) for bound in bounds for key in ("le", "lt") if hasattr(bound, key)]
        if bounds:
            found[name] = (max(lowest, default=-math.inf), min(highest, default=math.inf))
    return found


@pytest.mark.parametrize("entry", [*OBJECTIVES.values(), *OPTIMIZERS.values()])
def test_limits_are_those_of_the_signatures(entry: Callable[..., Any]) -> None:
    own = limits_of(entry)
    assert own == {name: limits for name, limits in diagnosis.LIMITS.items() if name in own}


def rates(diverged: list[float], others: list[float]) -> list[Trained]:
    return [
        *(Trained([math.nan], "diverged", draw={"optimizer.lr": rate}) for rate in diverged),
        *(Trained([0.5], draw={"optimizer.lr": rate}) for rate in others),
    ]


@pytest.mark.parametrize(
    ("diverged", "others", "act"),
    [
        ([0.08, 0.09, 0.1], [0.01, 0.02, 0.03, 0.04, 0.1], True),
        ([0.08, 0.09, 0.1], [], True),
        ([0.08, 0.09], [0.01, 0.02, 0.03, 0.04], False),  # too few
        ([0.08, 0.09, 0.1], [0.01] * 30, False),  # too small a share
        ([0.01, 0.02, 0.03], [0.01, 0.02, 0.03, 0.04], False),  # not the rate's fault
    ],
    ids=["high rates", "all", "few", "rare", "anywhere"],
)
def test_divergence_at_high_rates_is_worth_a_narrower_range(
    tmp_path: Path, diverged: list[float], others: list[float], act: bool
) -> None:
    found = acts(diagnosis.findings(write_run(tmp_path / "run", rates(diverged, others), **LR)))
    text = (
        f"optimizer.lr: trials diverged (distil {len(diverged)} of {len(diverged + others)}), at rates around 0.09, "
        "higher than most others: lower the upper end of the range"
    )
    assert found == ([text] if act else [])


def test_a_range_is_left_alone_where_the_best_trials_lie_beside_those_that_diverge(tmp_path: Path) -> None:
    trials = drawn("optimizer.lr", [0.08, 0.09, 0.085] + [0.02] * 7)
    found = diagnosis.findings(write_run(tmp_path / "run", trials + rates([0.09, 0.095, 0.1], []), **LR))
    assert acts(found) == []
    assert found[-1].text.endswith("(best 0.08; distil 3 of 3), but others diverge there: leave it")


def test_divergence_is_counted_by_arm_with_its_rates(tmp_path: Path) -> None:
    trials = [*rates([0.08, 0.1], [0.01, 0.02, 0.03]), Trained([0.5], None, draw={"optimizer.lr": 0.1})]
    table = diagnosis.divergence(write_run(tmp_path / "run", trials, **LR))
    (row,) = table.to_dict("records")
    assert row == {
        "arm": "distil",
        "trials": 5,  # the sixth goes on
        "diverged": 2,
        "share": 0.4,
        "parameter": "optimizer.lr",
        "diverged_at": pytest.approx(0.09),
        "others_below": pytest.approx(0.025),
    }


@pytest.mark.parametrize("parameter", ["optimizer.lr", "objective.alpha"])
def test_divergence_at_a_rate_that_is_not_searched_is_counted_too(tmp_path: Path, parameter: str) -> None:
    """The rate is a constant of the file, or of the branch that these trials took."""
    changes = LR if parameter == "optimizer.lr" else {"trial.optimizer.lr": 0.5}
    others = [Trained([0.5], draw={parameter: 0.1}) for _ in range(2)]
    fixed = [Trained([math.nan], "diverged") for _ in range(3)] + [Trained([0.5])]
    tables = write_run(tmp_path / "run", others + fixed, **changes)
    (row,) = diagnosis.divergence(tables).to_dict("records")
    assert (row["parameter"], row["diverged"], row["trials"]) == ("", 3, 4 if parameter == "optimizer.lr" else 6)
    assert math.isnan(row["diverged_at"])
    assert acts(diagnosis.findings(tables)) == [], "which rate to lower is not known"


def test_the_budget_adds_up(tmp_path: Path) -> None:
    """Of six epochs: one trial pruned after two, one never pruned though its rung at 2 would have, one diverged."""
    trials = [
        Trained([0.5] * 2, "pruned"),
        Trained([0.5] * 6, never_pruned=True, spared_at=2),
        Trained([0.5, math.nan], "diverged"),
    ]
    (row,) = budget.budget(write_run(tmp_path / "run", trials)).to_dict("records")
    assert row == {
        "arm": "distil",
        "trials": 3,
        "epochs": 10,
        "seconds": 10.0,
        "saved_epochs": 4,
        "saved_seconds": 4.0,
        "saved": pytest.approx(4 / 14),
        "epochs_for_diagnosis": 4,
    }


def facts(multiply_adds: int | None) -> TeacherFacts:
    return TeacherFacts(
        val_accuracy=0.9, num_parameters=1, multiply_adds=multiply_adds, knows_validation_images=False, record={}
    )


def test_answers_of_teachers_are_counted(tmp_path: Path) -> None:
    """100 training and 10 validation images, 2 views: 210 answers stored; 8 epochs use 810 of them, and 1 epoch 110."""
    sections = [
        {"name": "digits"},
        {"name": "digits", "label": "other"},
        {"name": "digits", "label": "live", "mode": "live"},
        {"name": "logits", "file": "answers.npy"},
    ]
    costs = {"digits": 1000, "other": 10, "live": 10, "logits": None}
    manifest = toy_manifest().model_copy(
        update={
            "teachers": {name: facts(cost) for name, cost in costs.items()},
            "dataset": {"name": "npz", "split": {}, "num_train": 100, "num_val": 10, "class_names": []},
        }
    )
    trials = [
        Trained([0.5] * 6, draw={"teacher": "digits"}),
        Trained([0.5] * 2, "pruned", draw={"teacher": "digits"}),
        Trained([0.5], "pruned", draw={"teacher": "other"}),
        Trained([0.5] * 6, draw={"teacher": "live"}),
        Trained([0.5] * 6, arm="cross_entropy"),
    ]
    changes = {"trial.teacher": {"choice": sections}, "search.arms": ["distil", "cross_entropy"]}
    table = budget.teacher_answers(write_run(tmp_path / "run", trials, manifest, **changes))
    assert table.to_records(index=False).tolist() == [
        ("digits", 8, 810, 210, pytest.approx(810 / 210), 600_000),
        ("other", 1, 110, 210, pytest.approx(110 / 210), -1000),
    ]


@pytest.mark.parametrize("teacher", ["without", "one"])
def test_answers_cannot_be_counted_without_a_teacher_or_numbers_of_images(tmp_path: Path, teacher: str) -> None:
    images = {"num_train": 100, "num_val": 10} if teacher == "without" else {}
    update = {"dataset": {"name": "npz", "split": {}, "class_names": []} | images}
    if teacher == "one":
        update["teachers"] = {"digits": facts(10)}
    manifest = toy_manifest().model_copy(update=update)
    assert budget.teacher_answers(write_run(tmp_path / "run", [Trained([0.5])], manifest)).empty


def sized(number: int, cost: int, value: float) -> Trained:
    return Trained([value], costs={"num_parameters": number, "multiply_adds": cost})


def test_fronts_by_parameters_and_by_multiply_adds_differ(tmp_path: Path) -> None:
    trials = [sized(10, 400, 0.5), sized(20, 100, 0.6), sized(30, 300, 0.55), sized(30, 500, 0.7)]
    tables = write_run(tmp_path / "run", trials)
    assert analysis.pareto(tables)["number"].tolist() == [0, 1, 3]
    assert analysis.pareto(tables, "multiply_adds")["number"].tolist() == [1, 3]
    left, right = plots.accuracy_by_cost(tables).axes
    steps = right.lines[0]
    assert list(steps.get_xdata()) == [100, 500, 500]
    assert steps.get_drawstyle() == "steps-post"
    assert left.get_xlabel() == "parameters of the student"


def test_ledgers_from_before_multiply_adds_were_recorded_have_one_front(tmp_path: Path) -> None:
    tables = write_run(tmp_path / "run", [Trained([0.5], costs={"num_parameters": 10})])
    assert analysis.pareto(tables)["number"].tolist() == [0]
    assert analysis.pareto(tables, "multiply_adds").empty
    assert len(plots.accuracy_by_cost(tables).axes) == 1


def test_the_best_student_of_a_size_is_shown_with_its_epochs(tmp_path: Path) -> None:
    """One that was spared reached the end without having been good, and does not stand for its size."""
    spared = Trained([0.3, 0.3, 0.4], spared_at=1, never_pruned=True)
    tables = write_run(tmp_path / "run", [spared, Trained([0.5, 0.7], "pruned"), Trained([0.5, 0.6], "pruned")])
    (row,) = analysis.best_by_student(tables).to_dict("records")
    assert (row["number"], row["epoch"], row["val_accuracy"]) == (1, 2, 0.7)


def shown(tables: RunTables) -> tuple[str, str]:
    """The report of a run and what it prints."""
    printed = io.StringIO()
    page = report.write(tables.folder, Console(file=printed, width=200))
    return page.read_text(), printed.getvalue()


def test_the_report_says_what_to_do_and_the_terminal_says_only_that(tmp_path: Path) -> None:
    trials = drawn("optimizer.lr", [0.08, 0.09, 0.095] + [0.02] * 7, never_pruned=True)
    changes: dict[str, Any] = LR | {"trial.objective.alpha": 0.5, "trial.student.width": 1.0}
    advice = "the best trials lie at the high end of"
    page, printed = shown(write_run(tmp_path / "run", trials, **changes))
    assert f"- optimizer.lr: {advice} {{float: \\[0.001, 0.1\\], log: true}}" in page
    assert "## What it cost" in page
    assert "](accuracy_by_cost.png)" in page
    assert "Before the next search" in printed
    assert f"optimizer.lr: {advice} {{float: [0.001, 0.1], log: true}}" in printed
    assert "rung" in page
    assert "rung" not in printed


def test_the_terminal_is_silent_about_a_search_that_needs_no_change(tmp_path: Path) -> None:
    page, printed = shown(write_run(tmp_path / "run", [Trained([0.5] * 6)]))
    assert "0 trials had to reach the end, but to judge rungs takes 6" in page
    assert "Before the next search" not in printed


def test_the_table_of_rungs_says_where_trials_are_too_few(tmp_path: Path) -> None:
    arms = {"search.arms": ["distil", "cross_entropy"], "trial.training.num_epochs": 3}
    trials = [Trained([value] * 3, never_pruned=True, arm="distil") for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    trials += [Trained([0.5] * 3, never_pruned=True, arm="cross_entropy")]
    page, _ = shown(write_run(tmp_path / "run", trials, **arms))
    assert "| distil | 2 | 7 | 1.00 (0.67 to 1.00) | 1 | 0 |" in page
    assert "| cross_entropy | 2 | 1 | too few | 1 | 0 |" in page
    assert "](rank_correlation.png)" in page


def test_a_ledger_from_before_multiply_adds_is_reported(tmp_path: Path) -> None:
    page, _ = shown(write_run(tmp_path / "run", [Trained([0.5] * 6, costs={"num_parameters": 10})]))
    assert "## Accuracy and cost" in page
    assert "(`computed`)" not in page  # nor did it say how many images there were
