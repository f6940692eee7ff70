"""The HTML report: valid, alone, and what a file says is text in it, whatever it says; the JSON report beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from kd_tune import answer, cli, confirmation, html_page, parallel_plot, plots, report, report_json, results, svg
from kd_tune.blocks import Facts, Part, TableBlock
from kd_tune.errors import ExitCode
from kd_tune.ledger import Run
from kd_tune.manifest import Manifest
from kd_tune.paths import refuse_constant, write_json
from tests.answers import drawn
from tests.confirmations import begin, toy_confirmation
from tests.kept_answers import keep
from tests.runs_by_hand import Trained, write_run
from tests.searches import toy_manifest

HOSTILE = "<script>alert(1)</script>&lt;\"'$x^2$\x07"
SHOWN = HOSTILE.replace("\x07", "\ufffd")
FOLDER = HOSTILE.replace("/", "|")
XHTML = "{http://www.w3.org/1999/xhtml}"


def parsed(text: str) -> Element:
    """A page, read as HTML; anything that is not valid is an error."""
    return html5lib.HTMLParser(strict=True).parse(text)


def page_of(run: Path, html: bool = False) -> str:
    """The HTML report of a run."""
    report.write(run, Console(quiet=True), html)
    return (run / "report" / "report.html").read_text()


def one(page: Element, tag: str) -> Element:
    """The only element of a kind."""
    (found,) = page.iter(f"{XHTML}{tag}")
    return found


def words(page: Element) -> str:
    """What a reader sees below the list of contents."""
    return " ".join(" ".join(one(page, "main").itertext()).split())


def trained(count: int, arms: Sequence[str] = ("distil", "cross_entropy")) -> list[Trained]:
    """Trials with rising accuracies, the arms in turn."""
    return [
        Trained(
            [0.3, 0.5, 0.6 + number / (3 * count)],
            arm=arms[number % len(arms)],
            draw={"student.width": [0.25, 0.5][number % 3 % 2], "optimizer.lr": 0.003 + number / (20 * count)},
            costs={"num_parameters": 100 * (1 + number % 3), "multiply_adds": 1000},
            never_pruned=True,
        )
        for number in range(count)
    ]


THREE_EPOCHS = {"trial.training.num_epochs": 3}
ARMS: dict[str, Any] = {"search.arms": ["distil", "cross_entropy"], **THREE_EPOCHS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of twelve trials, with a confirmation and its answers, reported."""
    folder = tmp_path_factory.mktemp("html") / "run"
    write_run(folder, trained(12), **ARMS)
    place = begin(folder, 1, complete=True)
    kept = keep(place, {"wide": drawn(0, num_models=2, images_a_class=40)})
    write_json(place / confirmation.FIGURES, kept.model_dump())
    page_of(folder)
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    """Its page."""
    return (run / "report" / "report.html").read_text()


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A search of six trials."""
    write_run(tmp_path / "run", trained(6), **ARMS)
    return tmp_path / "run"


def references(page: Element) -> Iterator[str]:
    """Every address in a page."""
    for element in page.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in ("href", "src", "srcset", "action", "data", "poster", "cite"):
                yield value
            yield from re.findall(r"url\(([^)]*)\)", value)


def test_the_page_is_valid_and_refers_to_nothing_but_itself(text: str) -> None:
    page = parsed(text)
    ids = [name for element in page.iter() if (name := element.get("id")) is not None]
    assert len(ids) == len(set(ids))
    found = set(references(page))
    assert found
    assert {address for address in found if not address.startswith("data:image/png;base64,")} <= {f"#{i}" for i in ids}
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_policy_allows_the_pages_own_style_and_script_alone(text: str) -> None:
    page = parsed(text)
    (policy,) = (element.get("content", "") for element in page.iter() if element.get("http-equiv"))
    digests = []
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256((one(page, tag).text or "").encode()).digest()).decode()
        digests.append(f"{tag}-src 'sha256-{digest}'")
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *digests,
    }
    names = {name for element in page.iter() for name in element.attrib}
    assert not {name for name in names if name == "style" or name.startswith("on")}


def test_the_answer_comes_first_and_every_part_is_there(run: Path, text: str) -> None:
    page = parsed(text)
    said = words(page)
    assert said.index("The answer") < said.index("Test accuracy") < said.index("What was searched")
    keys = [element.get("id") for element in page.iter(f"{XHTML}section")]
    assert keys[:2] == ["answer", "confirmed"]
    wanted = {"searched", "cost", "curves", "rungs", "slices", "parallel", "fronts", "by_class", "confusions"}
    assert wanted | {"calibration", "diagnosis", "outcomes", "trials", "made"} <= set(keys)
    pictures = {path.stem for path in (run / "report").glob("*.png")}
    titles = {element.get("aria-labelledby") for element in page.iter("{http://www.w3.org/2000/svg}svg")}
    assert titles == {f"{name}-title" for name in pictures}


def test_the_best_student_is_chosen_on_validation_images(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [Trained([0.9])] * 2)
    confirmed = toy_confirmation()
    first, second, *others = confirmed.arms
    lucky = second.model_copy(update={"test_accuracies": [0.99, 1.0], "val_accuracies": [0.5, 0.6]})
    part = answer.part(results.read(tmp_path / "run"), confirmed.model_copy(update={"arms": [lucky, first, *others]}))
    (facts,) = (block.items for block in part.blocks if isinstance(block, Facts))
    best = {fact.label: fact for fact in facts}
    assert best["Best student"].note.startswith(f"{first.model}, trial {first.trial} of the search")
    assert best["Test accuracy"].value == "95.00%"


def hostile_manifest() -> Manifest:
    facts = {"val_accuracy": 0.9, "num_parameters": 10**6, "multiply_adds": 10**7, "knows_validation_images": None}
    teachers = {HOSTILE: facts | {"record": {}}}
    return Manifest.model_validate(toy_manifest().model_dump() | {"teachers": teachers, "versions": {"a": HOSTILE}})


def test_names_that_hold_html_and_scripts_are_text(tmp_path: Path) -> None:
    """Of the run, its arms, values of parameters, errors, models, classes, and in pictures."""
    options = {"trial.teacher": {"choice": [{"name": "digits", "label": HOSTILE}, {"name": "digits", "label": "b"}]}}
    trials = [
        replace(trial, draw=trial.draw | {"teacher": [HOSTILE, "b"][number % 2]})
        for number, trial in enumerate(trained(6, arms=["distil"]))
    ]
    folder = tmp_path / FOLDER
    write_run(folder, trials, manifest=hostile_manifest(), **options, **THREE_EPOCHS)
    with_errors = Run(folder)
    with_errors.record("proposed", trial=6, arm="distil", draw={})
    with_errors.record("stopped", trial=6, reason="failed", error=HOSTILE)
    with_errors.close()
    place = begin(folder, 1, complete=True)
    found = drawn(0, num_models=2, images_a_class=40)
    models = (replace(found.models[0], name=HOSTILE), *found.models[1:])
    classes = (HOSTILE, *found.class_names[1:])
    kept = keep(place, {HOSTILE: replace(found, models=models, class_names=classes, groups=None)})
    write_json(place / confirmation.FIGURES, kept.model_dump())

    text = page_of(folder)
    page = parsed(text)
    assert len(list(page.iter(f"{XHTML}script"))) == 1
    assert not list(page.iter(f"{XHTML}img"))
    assert one(page, "h1").text == SHOWN.replace("/", "|")
    in_pictures = [element.text for element in page.iter("{http://www.w3.org/2000/svg}text")]
    assert any(SHOWN in (shown or "") for shown in in_pictures)
    in_cells = {element.text for element in page.iter(f"{XHTML}td")}
    assert SHOWN in in_cells


def test_a_parameters_name_is_no_path(tmp_path: Path) -> None:
    draws = [{"../outside x": number / 3, "optimizer.lr": 0.01} for number in range(3)]
    trials = [Trained([0.1, 0.2, 0.3 + draw["../outside x"]], draw=draw) for draw in draws]
    write_run(tmp_path / "run", trials, **THREE_EPOCHS)
    parsed(page_of(tmp_path / "run"))
    assert (tmp_path / "run" / "report" / "by____outside_x.png").exists()


def test_a_batch_size_that_is_searched_stands_among_the_parameters(tmp_path: Path) -> None:
    changes = {"trial.training.batch_size": {"choice": [16, 32]}}
    write_run(tmp_path / "run", trained(3, arms=["distil"]), **THREE_EPOCHS, **changes)
    said = words(parsed(page_of(tmp_path / "run")))
    assert "a trial: 3 epochs parameter" in said
    assert "training.batch_size {choice: [16, 32]}" in said


def test_a_run_of_three_trials_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "run", trained(3, arms=["distil"]), **THREE_EPOCHS)
    said = words(parsed(page_of(tmp_path / "run")))
    assert "unconfirmed: the largest of 3 trials" in said
    assert "the search had no control" in said
    assert "47 trials left" in said


def test_a_run_in_which_nothing_came_out_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(folder, [Trained([0.1], end="diverged")])
    failing = Run(folder)
    for number in (1, 2):
        failing.record("proposed", trial=number, arm="distil", draw={})
        failing.record("stopped", trial=number, reason="failed", error="RuntimeError: no such layer")
    failing.close()
    said = words(parsed(page_of(folder)))
    assert "Of 3 trials: 2 failed, 1 diverged." in said
    assert "The most frequent error, of 2 trials: RuntimeError: no such layer" in said
    assert "Learning curves" not in said
    assert "unconfirmed" not in said


def test_a_search_in_which_nothing_came_out_ends_with_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    tables = write_run(folder, [Trained([0.1], end="diverged")] * 2)
    for arm in tables.state.quota:
        tables.state.quota[arm] = 2
    code = cli._conclude(folder, tables.state, None, "again", Console(quiet=True))
    assert code == ExitCode.NOTHING_USABLE
    assert "its report says why" in capsys.readouterr().err
    assert (folder / "report" / "report.html").exists()
    assert not (folder / "export").exists()


def test_the_same_run_gives_the_same_bytes(small_run: Path) -> None:
    assert page_of(small_run) == page_of(small_run)


def test_crowded_pictures_are_bitmaps(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<image" not in page_of(small_run)
    monkeypatch.setattr(plots, "MOST_VECTORS", 2)
    after = page_of(small_run)
    parsed(after)
    assert after.count("<image") >= len(("curves", "by cost", "by width", "by rate"))


def test_parallel_coordinates_of_many_trials_are_of_the_best_and_say_so(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = results.read(small_run)
    figure = parallel_plot.parallel_coordinates(tables)
    assert figure is not None
    assert figure.axes[0].get_title() == "3 distilled trials; thick: the best one"
    monkeypatch.setattr(parallel_plot, "MOST_LINES", 2)
    figure = parallel_plot.parallel_coordinates(tables)
    assert figure is not None
    (lines,) = figure.axes[0].collections
    accuracies = [segment[-1][1] for segment in lines.get_segments()]  # type: ignore[attr-defined]
    assert len(accuracies) == 2
    assert accuracies[-1] == pytest.approx(1.0)
    assert figure.axes[0].get_title() == "the best 2 of 3 distilled trials; thick: the best one"


def test_a_large_run_has_a_page_if_it_is_asked_for(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_BY_ITSELF", 5)
    report.write(small_run, Console(quiet=True))
    assert not (small_run / "report" / "report.html").exists()
    assert page_of(small_run, html=True)


def test_json_holds_the_sections_of_the_page(run: Path, text: str) -> None:
    page = parsed(text)
    content = json.loads((run / "report" / "report.json").read_text(), parse_constant=refuse_constant)
    assert content["format"] == 1
    keys = [element.get("id") for element in page.iter(f"{XHTML}section")]
    assert [section["key"] for section in content["sections"]] == keys
    tables = {
        block["name"]: block
        for section in content["sections"]
        for block in section["blocks"]
        if block["kind"] == "table"
    }
    trials = tables["trials"]["rows"]
    assert len(trials) == 12
    assert trials[0]["val_accuracy"] == max(row["val_accuracy"] for row in trials)
    assert {type(row["student.width"]) for row in trials} == {float}


def test_json_leaves_the_rest_of_a_long_table_to_its_csv_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_json, "MOST_ROWS", 2)
    table = TableBlock("n", pd.DataFrame({"a": [1, 2, 3]}))
    (section,) = json.loads(report_json.page("run", "", [Part("k", "t", [table])]))["sections"]
    assert section["blocks"][0]["rows"] == [{"a": 1}, {"a": 2}]
    assert section["blocks"][0]["left_out"] == 1


def test_json_has_null_for_what_is_not_finite() -> None:
    frame = pd.DataFrame({"a": [1.5, float("nan"), float("inf")], "b": [True, None, "c"]})
    (section,) = json.loads(report_json.page("run", "", [Part("k", "t", [TableBlock("n", frame)])]))["sections"]
    (table,) = section["blocks"]
    assert table["rows"] == [{"a": 1.5, "b": True}, {"a": None, "b": None}, {"a": None, "b": "c"}]


def test_columns_of_numbers_are_known() -> None:
    frame = pd.DataFrame(
        {"a": ["95.1% (3)", "1,234"], "b": ["1 of 2", ""], "val_accuracy": [0.5, None], "c": ["x" * 99] * 2}
    )
    found = html_page.rendered(TableBlock("n", frame))
    assert [column.kind for column in found.columns] == ["number", "", "number", "words"]
    assert [row[2] for row in found.rows] == ["50.00%", ""]


def test_prose_marks_our_words_and_escapes_the_rest() -> None:
    assert html_page.prose("`a<b` **c** <i>") == "<code>a&lt;b</code> <strong>c</strong> &lt;i&gt;"


def test_greys_follow_the_page_but_for_what_lies_on_a_colour() -> None:
    figure = Figure()
    figure.text(0.1, 0.1, "title", color="0.4")
    figure.text(0.2, 0.2, "white", color="white", gid=svg.OWN_COLOURS)
    figure.text(0.3, 0.3, "black", gid=svg.OWN_COLOURS)
    figure.text(0.4, 0.4, "blue", color=plots.COLOURS[0])
    element = svg.inline(figure, "f", "a <title>")
    page = parsed(f"<!DOCTYPE html><html><head><title>t</title></head><body>{element}</body></html>")
    looks: dict[Any, Any] = {}
    for group in page.iter("{http://www.w3.org/2000/svg}g"):
        for text in group.findall("{http://www.w3.org/2000/svg}text"):
            looks[text.text] = (text.get("class"), text.get("fill"))
    assert looks["title"] == ("fill-dim", None)
    assert looks["white"] == (None, "#ffffff")
    assert looks["black"] == (None, "#000000")
    assert looks["blue"] == (None, "#0072b2")
