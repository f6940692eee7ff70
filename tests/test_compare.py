"""Runs side by side: `analyze.py RUN1 RUN2`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from kd_tune import compare
from kd_tune.cli import main
from kd_tune.compare import Compared
from kd_tune.ledger import SEARCH_FILE
from kd_tune.manifest import MANIFEST, Fingerprints
from kd_tune.paths import write_json
from tests.confirmations import begin, write_run
from tests.searches import toy_manifest, toy_search


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two, of which the second has another range, no control, other images and a confirmation."""
    first = write_run(tmp_path / "first", distil=[(0.5, 6, 0.9), (0.25, 2, 0.7)], cross_entropy=[(1.0, 6, 0.85)])
    second = write_run(tmp_path / "second", distil=[(1.0, 6, 0.95)])
    changed = toy_search(**{"trial.optimizer.lr": {"float": [0.1, 0.2]}, "search.arms": ["distil", "cross_entropy"]})
    (second / SEARCH_FILE).write_text(yaml.safe_dump(changed))
    other = {"fingerprints": Fingerprints(data="1" * 16, teachers={}), "versions": {"torch": "2.15.0"}}
    write_json(second / MANIFEST, toy_manifest().model_copy(update=other).model_dump())
    begin(second, 1, complete=True)
    return [first, second]


@pytest.fixture
def both(runs: list[Path]) -> list[Compared]:
    return compare.read(runs)


def test_the_best_of_each_arm_stand_side_by_side(both: list[Compared]) -> None:
    assert compare.best(both).to_dict("records") == [
        {
            "arm": "distil",
            "first": "90.00% (trial 0, 6 epochs, 500 parameters)",
            "second": "95.00% (trial 0, 6 epochs, 1,000 parameters)",
        },
        {"arm": "cross_entropy", "first": "85.00% (trial 2, 6 epochs, 1,000 parameters)", "second": ""},
    ]


def test_settings_are_shown_where_they_differ(both: list[Compared]) -> None:
    assert compare.settings(both).to_dict("records") == [
        {
            "setting": "search.arms",
            "first": '[{"name": "distil", "num_trials": null}]',
            "second": '[{"name": "distil", "num_trials": null}, {"name": "cross_entropy", "num_trials": null}]',
        },
        {
            "setting": "trial.optimizer.lr",
            "first": '{"float": [0.003, 0.1], "log": true}',
            "second": '{"float": [0.1, 0.2]}',
        },
    ]
    assert compare.settings(both[:1] * 2).empty


def test_budgets_are_shown(both: list[Compared]) -> None:
    facts = compare.overview(both).set_index("")
    assert facts.loc["arms"].tolist() == ["distil 2, cross_entropy 1", "distil 1"]
    assert facts.loc["trials"].tolist() == ["2 completed, 1 pruned", "1 completed"]
    assert facts.loc["epochs trained"].tolist() == ["14", "6"]


def test_confirmed_figures_have_intervals(both: list[Compared]) -> None:
    table = compare.confirmed(both)
    assert list(table.columns) == ["student, model", "second"]
    assert table.iloc[0].tolist() == ["studentnet width=0.5, distil", "95.00% (94.40% to 95.50%)"]


def test_what_cannot_be_compared_is_said(both: list[Compared]) -> None:
    images, versions, unconfirmed = compare.warnings(both)
    assert images == "first and second were measured on different images: their accuracies cannot be compared"
    assert versions == "first and second were made with different versions of torch"
    assert unconfirmed.startswith("unconfirmed: first; ")
    assert compare.warnings([both[1], both[1]]) == []


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: list[Path], tmp_path: Path) -> None:
    twin = shutil.copytree(runs[0], tmp_path / "elsewhere" / "first")
    assert [run.name for run in compare.read([runs[0], twin])] == [str(runs[0]), str(twin)]


def test_a_run_that_is_called_like_a_column_is_told_by_its_folder(runs: list[Path], tmp_path: Path) -> None:
    arm = shutil.copytree(runs[0], tmp_path / "arm")
    tables = compare.best(compare.read([arm, runs[1]]))
    assert list(tables.columns) == ["arm", str(arm), str(runs[1])]


def test_the_command(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["analyze", *map(str, runs)])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for title in ("Runs", "What their search files do not have in common", "The best of each arm", "Confirmed: "):
        assert f"\n{title}" in shown
    assert not (runs[0] / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "{1}", "--export", "x"], "--export is about one run"),
        (["{0}", "{0}"], "a run is named twice"),
        (["{0}", "{0}x"], "x: no run here"),
    ],
)
def test_a_wrong_call_is_refused(
    arguments: list[str], message: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["analyze", *(argument.format(*runs) for argument in arguments)])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
