"""Answers that a confirmation kept: what is read back, and what a report makes of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kd_tune import answers, answers_report, confirmation, markdown, report
from kd_tune.answers import LABELS, LOGITS, TEACHER_LOGITS
from kd_tune.answers_report import Answers
from kd_tune.blocks import Picture
from kd_tune.confirmation import ANSWERS
from kd_tune.errors import ConfigError
from kd_tune.paths import write_json
from kd_tune.predictions import Predictions
from tests.answers import by_hand, drawn
from tests.confirmations import begin, write_run
from tests.kept_answers import keep

BY_CLASS = {"accuracy_by_class", "confusions", "confusion_differences", "closeness", "closeness_differences"}
Arrays = dict[str, np.ndarray]


def one_model(answers_: Predictions) -> Predictions:
    return replace(answers_, models=answers_.models[:1])


def few_of_a_class(answers_: Predictions) -> Predictions:
    labels = answers_.labels.copy()
    labels[np.flatnonzero(labels == 0)[1:]] = 1
    return replace(answers_, labels=labels)


def test_answers_come_back_by_student_with_the_networks_that_are_exported(tmp_path: Path) -> None:
    kept = {"wide": drawn(0, num_models=2), "narrow": replace(drawn(1, num_models=3), labels=drawn(0).labels)}
    found = dict(answers.read(tmp_path, keep(tmp_path, kept)))
    assert list(found) == ["wide", "narrow"]
    for student, expected in kept.items():
        for model, other in zip(found[student].models, expected.models, strict=True):
            assert (model.name, model.median) == (other.name, 1)
            assert (model.logits == other.logits).all()
        assert found[student].groups == expected.groups
        assert found[student].teacher is not None
        assert found[student].teacher.name == "teacher digits"  # type: ignore[union-attr]


def test_a_student_with_one_model_has_nothing_to_compare(tmp_path: Path) -> None:
    confirmed = keep(tmp_path, {"lone": one_model(drawn(0)), "wide": drawn(0)})
    assert [student for student, _ in answers.read(tmp_path, confirmed)] == ["wide"]
    found = answers_report.gather(tmp_path, confirmed)
    assert {name[:10] for name in pictures(found)} == {"answers_2_"}  # its place in the confirmation


def pictures(found: Answers) -> list[str]:
    """Names of the pictures of a report, in order."""
    blocks = [block for part in answers_report.parts(found) for block in part.blocks]
    return [block.name for block in blocks if isinstance(block, Picture)]


def section(found: Answers) -> str:
    """What Markdown says of the answers."""
    return markdown.page("run", answers_report.parts(found))


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: change(arrays[name])}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without(LABELS), "it holds arrays of shapes"),
        (without(TEACHER_LOGITS), "it holds arrays of shapes"),
        (changed(LOGITS, lambda logits: logits[1:]), "it holds arrays of shapes"),
        (changed(LOGITS, lambda logits: logits[..., 1:]), "it holds arrays of shapes"),
        (changed(LABELS, lambda labels: labels + 1), "whole numbers from 0 to 3"),
        (changed(LABELS, lambda labels: labels - 1), "whole numbers from 0 to 3"),
        (changed(LABELS, lambda labels: labels.astype(float)), "whole numbers from 0 to 3"),
    ],
)
def test_answers_that_are_not_the_confirmations_are_refused(
    tmp_path: Path, damage: Callable[[Arrays], Arrays], message: str
) -> None:
    confirmed = keep(tmp_path, {"wide": drawn(0)})
    with np.load(tmp_path / ANSWERS) as archive:
        arrays = dict(archive)
    np.savez(tmp_path / ANSWERS, allow_pickle=False, **damage(arrays))
    with pytest.raises(ConfigError, match=rf"{ANSWERS}: does not fit the confirmation beside it: .*{message}"):
        answers.read(tmp_path, confirmed)


@pytest.mark.parametrize("keep_bytes", [0, 100, -100])
def test_a_damaged_file_of_answers_is_named(tmp_path: Path, keep_bytes: int) -> None:
    confirmed = keep(tmp_path, {"wide": drawn(0)})
    path = tmp_path / ANSWERS
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(ConfigError, match=rf"{ANSWERS}: cannot be read: .*or delete it"):
        answers.read(tmp_path, confirmed)


def test_every_table_and_picture_is_written_for_every_student_and_shown(tmp_path: Path) -> None:
    students = {"wide": drawn(0, num_models=3, images_a_class=100), "narrow": drawn(0, images_a_class=100)}
    confirmed = keep(tmp_path, students)
    found = answers_report.gather(tmp_path, confirmed)
    assert found.notes == []
    assert [student.name for student in found.students] == ["wide", "narrow"]
    needed = {table for tables, _ in answers_report.PICTURES.values() for table in tables}
    for student in found.students:
        assert set(student.tables) == needed
    shown = pictures(found)
    assert sorted(shown) == sorted(f"answers_{number}_{name}" for number in (1, 2) for name in answers_report.PICTURES)
    assert "| model 0 - model 2 |" in section(found)
    assert set(found.students[0].tables["confusion_differences"]["reference"]) == {"model 0"}


def test_what_needs_a_teacher_or_groups_is_left_out_without(tmp_path: Path) -> None:
    found = answers_report.gather(tmp_path, keep(tmp_path, {"wide": replace(drawn(0), teacher=None, groups=None)}))
    page = section(found)
    for title in ("Confusions inside groups", "Class profiles", "Agreement with the teacher"):
        assert f"### {title}" not in page
    for title in ("Which models differ", "Accuracy by class", "Confusions", "Calibration"):
        assert f"### {title}" in page


def test_a_teacher_that_is_never_wrong_leaves_out_the_images_that_it_gets_wrong(tmp_path: Path) -> None:
    found = drawn(0)
    teacher = replace(found.teacher, logits=np.eye(4, dtype=np.float32)[found.labels][None])  # type: ignore[type-var]
    tables, _ = answers_report.tables_of(replace(found, teacher=teacher))
    assert set(tables["agreement_differences"]["of"]) == {"all images"}
    shown = pictures(answers_report.gather(tmp_path, keep(tmp_path, {"wide": replace(found, teacher=teacher)})))
    assert "answers_1_agreement_differences" in shown
    assert "answers_1_agreement_differences_teacher_wrong" not in shown


def test_a_class_with_one_test_image_leaves_out_figures_by_class_and_says_so(tmp_path: Path) -> None:
    found = answers_report.gather(tmp_path, keep(tmp_path, {"wide": few_of_a_class(drawn(0))}))
    assert found.notes == [
        "wide: figures by class are left out: class 'class 0' has 1 test images; figures by class need at least 2 of "
        "every class"
    ]
    assert found.notes[0] in section(found)
    names = set(found.students[0].tables)
    assert not names & BY_CLASS
    assert {"accuracy", "paired_tests", "agreement", "calibration", "inside_groups"} <= names


@pytest.mark.parametrize(
    ("kept", "line"),
    [(False, "no figures by class: .* has no test_answers.npz"), (True, "no student was trained as two models")],
)
def test_a_confirmation_without_answers_to_compare_says_so(tmp_path: Path, kept: bool, line: str) -> None:
    confirmed = keep(tmp_path, {"lone": one_model(drawn(0))})
    if not kept:
        (tmp_path / ANSWERS).unlink()
    found = answers_report.gather(tmp_path, confirmed)
    assert len(found.notes) == 1
    assert re.search(line, found.notes[0])
    assert "###" not in section(found)
    assert not found.students


def test_a_runs_report_shows_the_answers_of_its_latest_confirmation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    begin(run, 1, complete=True)
    place = begin(run, 2, complete=True)
    write_json(place / confirmation.FIGURES, keep(place, {"wide": by_hand()}).model_dump())
    page = report.write(run, Console(quiet=True))
    text = page.read_text()
    assert text.index("## Confirmed on 6 test images") < text.index("## What the search reported")
    assert text.index("## What the students answer") < text.index("![confusions, wide](answers_1_confusions.png)")
    assert (page.parent / "answers_1_confusions.png").read_bytes().startswith(b"\x89PNG")


def test_a_runs_report_on_a_confirmation_from_before_says_so_on_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", distil=[(0.5, 6, 0.9)])
    begin(run, 1, complete=True)
    console = Console(file=io.StringIO(), width=400)
    assert "no figures by class" in report.write(run, console).read_text()
    assert f"no figures by class: confirmation has no {ANSWERS}" in console.file.getvalue()  # type: ignore[attr-defined]
