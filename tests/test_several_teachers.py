"""A search whose teacher is a choice: a bank each, a parameter like any other, and the picture of the capacity gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kd_tune import analysis, plots, report, results
from kd_tune.ledger import Run
from kd_tune.manifest import Fingerprints, TeacherFacts
from kd_tune.results import RunTables
from kd_tune.search import Launch, resume, start
from kd_tune.search_file import load_search_file
from tests.searches import complaints, toy_manifest, toy_search, write_search

TEACHERS = [
    {"name": "digits"},
    {"name": "digits", "label": "narrow", "width": 0.5},
    {"name": "permuted", "of": "digits"},
    {"name": "random", "network": "digits"},
]
CHANGES: dict[str, Any] = {
    "trial.teacher": {"choice": TEACHERS},
    "search.arms": ["distil", "label_smoothing"],
    "search.num_trials": 8,
    "search.sampler": {"name": "random"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_npz: Path, ray_cluster: None) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    file = load_search_file(write_search(folder, toy_search(**CHANGES)))
    with (folder / "log.txt").open("w") as log:
        state = start(file, folder / "run", Launch(source=toy_npz), Console(file=log, width=120))
    assert not state.unfinished()
    return folder / "run"


@pytest.fixture(scope="module")
def tables(run: Path) -> RunTables:
    return results.read(run)


def test_every_teacher_is_recorded_with_what_it_is(run: Path, tables: RunTables) -> None:
    assert complaints(run, 16, 6) == []
    facts = tables.manifest.teachers
    assert list(facts) == ["digits", "narrow", "permuted", "random"]
    assert len(set(tables.manifest.fingerprints.teachers.values())) == 4
    assert facts["narrow"].num_parameters < facts["digits"].num_parameters  # type: ignore[operator]
    assert facts["digits"].val_accuracy > facts["permuted"].val_accuracy
    assert [fact.knows_validation_images for fact in facts.values()] == [False] * 4


def test_the_teacher_is_a_parameter_of_the_distilled_arm_alone(tables: RunTables) -> None:
    distil, control = (tables.trials[tables.trials["arm"] == arm] for arm in ("distil", "label_smoothing"))
    assert set(distil["teacher"]) <= {"digits", "narrow", "permuted", "random"}
    assert distil["teacher"].nunique() > 1
    assert control["teacher"].isna().all()
    assert control["val_agreement"].isna().all()
    assert distil["val_agreement"].notna().all()


def test_the_report_shows_students_by_teacher(run: Path) -> None:
    page = report.write(run, Console(quiet=True))
    text = page.read_text()
    assert "## By teacher" in text
    assert "](capacity_gap.png)" in text
    assert (page.parent / "capacity_gap.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_over_several_teachers_is_extended(run: Path, toy_npz: Path) -> None:
    """Its teachers and banks are found again, and are what they were."""
    with (run.parent / "again.txt").open("w") as log:
        state = resume(run, Launch(source=toy_npz, extend=1), Console(file=log, width=120))
    assert not state.unfinished()
    assert len(state.trials) == 18


def facts(accuracy: float, num_parameters: int | None) -> TeacherFacts:
    return TeacherFacts(
        val_accuracy=accuracy,
        num_parameters=num_parameters,
        multiply_adds=None if num_parameters is None else 10 * num_parameters,
        knows_validation_images=False,
        record={},
    )


@pytest.fixture
def by_hand(tmp_path: Path) -> RunTables:
    """Two teachers and answers from a file, students of 100 and 400 parameters; accuracies as written."""
    sections = [{"name": "digits"}, {"name": "compact"}, {"name": "logits", "file": "answers.npy"}]
    search = toy_search(**{"trial.teacher": {"choice": sections}})
    teachers = {"digits": facts(0.9, 1000), "compact": facts(0.95, 9000), "logits": facts(0.92, None)}
    manifest = toy_manifest().model_copy(
        update={"teachers": teachers, "fingerprints": Fingerprints(data="0" * 16, teachers=dict.fromkeys(teachers, ""))}
    )
    run = Run.create(tmp_path / "run", yaml.safe_dump(search), manifest)
    run.record("started", quota={"distil": 7})
    trials = [
        ("digits", 100, 0.80),
        ("digits", 100, 0.70),
        ("digits", 400, 0.85),
        ("compact", 100, 0.75),
        ("compact", 400, 0.90),
        ("logits", 100, 0.78),
        ("logits", 400, float("nan")),
    ]
    for number, (teacher, size, accuracy) in enumerate(trials):
        draw = {"teacher": teacher, "student.width": 0.25}
        run.record("proposed", trial=number, arm="distil", draw=draw)
        row = {"epoch": 1, "val_accuracy": accuracy, "seconds": 1.0, "num_parameters": size}
        run.record("epoch", trial=number, attempt=0, diverged=False, **row)
    run.close()
    return results.read(tmp_path / "run")


def test_by_teacher_has_the_best_student_of_every_teacher_and_size(by_hand: RunTables) -> None:
    table = analysis.by_teacher(by_hand)
    shown = table[["teacher", "teacher_accuracy", "num_parameters", "trials", "val_accuracy"]]
    assert shown.to_records(index=False).tolist() == [
        ("digits", 0.9, 100, 2, 0.80),
        ("digits", 0.9, 400, 1, 0.85),
        ("logits", 0.92, 100, 1, 0.78),
        ("compact", 0.95, 100, 1, 0.75),
        ("compact", 0.95, 400, 1, 0.90),
    ]


def test_the_picture_joins_students_of_a_size_from_the_weakest_teacher_to_the_best(by_hand: RunTables) -> None:
    figure = plots.capacity_gap(by_hand, analysis.by_teacher(by_hand))
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_xticklabels()]
    assert labels == ["digits\n90.0%", "logits\n92.0%", "compact\n95.0%"]
    lines = {line.get_label(): line for line in left.lines}
    assert list(lines["student of 100 parameters"].get_ydata()) == [0.80, 0.78, 0.75]
    assert list(lines["student of 400 parameters"].get_xdata()) == [0, 2]
    assert [text.get_text() for text in right.get_xticklabels()] == ["digits\n1,000", "compact\n9,000"]


def test_controls_are_no_part_of_the_line(run: Path, tables: RunTables) -> None:
    table = analysis.by_teacher(tables)
    assert set(table[table["control"]]["teacher"]) == set(table["teacher"]) & {"permuted", "random"}
    left, right = plots.capacity_gap(tables, table).axes
    assert {text.get_text().split("\n")[0] for text in right.get_xticklabels()} <= {"digits", "narrow"}
    assert len(left.get_xticklabels()) == table["teacher"].nunique()


def test_one_teacher_has_no_capacity_gap(finished_run: Path) -> None:
    assert analysis.by_teacher(results.read(finished_run)).empty
