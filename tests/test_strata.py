"""goal: front: sizes of student that compete among themselves, drawn evenly, each with trials that reach the end."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kd_tune import records
from kd_tune.catalog import build_network
from kd_tune.config import SearchConfig
from kd_tune.data import Dataset
from kd_tune.engine import count_parameters
from kd_tune.errors import ConfigError
from kd_tune.export import Wanted, export_best
from kd_tune.glance import Course
from kd_tune.ledger import KEPT_CHECKPOINTS, Run, checkpoints_of, read_events
from kd_tune.ranges import Choice, FloatRange
from kd_tune.results import read
from kd_tune.search import CheckpointKeeper, Launch, start
from kd_tune.search_checks import check, students_by_size
from kd_tune.search_file import load_search_file
from kd_tune.searcher import RunSearcher, SearchProposer, strata_in_turn
from kd_tune.space import Space
from kd_tune.strata import MAX_SIZES, NUM_STRATA, Students, cut, stratum_of
from kd_tune.student_sizes import survey
from kd_tune.watch import Watch
from tests.driven import SPACE, Driven, memory_run, spaces_of, students
from tests.searches import toy_manifest, toy_search, write_search

SHAPE = {"num_classes": 10, "in_channels": 3, "image_size": 32}
COUNTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)


@given(COUNTS, st.integers(1, 10**6))
def test_every_size_has_a_stratum_and_every_stratum_a_size(counts: list[int], other: int) -> None:
    edges = cut(counts)
    sizes = sorted(set(counts))
    filled = Counter(stratum_of(size, edges) for size in sizes)
    assert sorted(filled) == list(range(len(edges)))
    assert [stratum_of(size, edges) for size in sizes] == sorted(stratum_of(size, edges) for size in sizes)
    if len(sizes) <= MAX_SIZES:
        assert set(filled.values()) == {1}
    else:
        assert len(edges) == NUM_STRATA
        assert max(filled.values()) - min(filled.values()) <= 1
    assert 0 <= stratum_of(other, edges) < len(edges), "a size that was not drawn before lies in one too"


def test_edges_belong_to_the_stratum_below_and_without_edges_all_are_one() -> None:
    edges = (100, 200, 400)
    assert [stratum_of(count, edges) for count in (1, 100, 101, 200, 201, 400, 9999)] == [0, 0, 1, 1, 2, 2, 2]
    assert stratum_of(1, ()) == stratum_of(10**9, ()) == 0


def test_sizes_are_known_before_the_search_without_weights() -> None:
    space = Space({"student": {"name": "studentnet", "width": Choice(options=[0.5, 1.0])}, "optimizer": {"lr": 0.1}})
    found = survey(space, SHAPE, seed=0)
    assert found.count({"student.width": 1.0, "other": 3}) == 62_006
    assert found.edges() == (found.count({"student.width": 0.5}), 62_006)
    assert all(found.of_stratum(stratum, found.edges()) for stratum in (0, 1))
    assert survey(space, SHAPE, seed=0).draws == found.draws


@pytest.mark.parametrize("name", ["studentnet", "compact", "digits"])
def test_a_student_counts_without_weights_what_it_counts_with_them(name: str) -> None:
    section = {"name": name}
    counted = survey(Space({"student": section}), SHAPE, seed=0).count({})
    assert counted == count_parameters(build_network(section, **SHAPE))


def front(num_trials: int = 12, **changes: Any) -> SearchConfig:
    settings: dict[str, Any] = {
        "goal": "front",
        "num_trials": num_trials,
        "sampler": {"name": "tpe", "num_startup_trials": 3},
        "scheduler": {"grace_period": 1, "reduction_factor": 2, "never_pruned": 0.0},
    }
    return SearchConfig.model_validate(settings | changes)


def test_strata_are_drawn_evenly_though_wide_students_are_better() -> None:
    config = front(num_trials=14)
    run = memory_run(config.trials_by_arm(), strata=students().edges())
    Driven(run, config, spaces_of(config)).finish()
    proposed: Counter[int] = Counter()
    for event in run.events:
        if event["event"] == records.PROPOSED:
            assert event["stratum"] == strata_in_turn_of(proposed)
            assert event["stratum"] == stratum_of(students().count(event["draw"]), run.state.strata)
            proposed[event["stratum"]] += 1
    assert proposed == {0: 5, 1: 5, 2: 4}


def strata_in_turn_of(proposed: Counter[int]) -> int:
    return min(range(3), key=lambda stratum: proposed[stratum])


@given(st.integers(0, 10**6))
def test_every_stratum_has_a_trial_that_reaches_the_end(seed: int) -> None:
    config = front(seed=seed, sampler={"name": "random"}, arms=["distil", "label_smoothing"])

    def value(trial: Any, epoch: int) -> float:
        return float(trial.draw["student.width"]) / 2 + trial.number / 100

    def completed(strata: tuple[int, ...]) -> set[tuple[str, float]]:
        run = memory_run(config.trials_by_arm(), strata)
        Driven(run, config, spaces_of(config), value).finish()
        ended = [trial for trial in run.state.trials.values() if trial.end == "completed"]
        return {(trial.arm, trial.draw["student.width"]) for trial in ended}

    widths = {(arm, width) for arm in ("distil", "label_smoothing") for width in (0.25, 0.5, 1.0)}
    assert completed(students().edges()) == widths


def test_a_stratum_that_hardly_any_draw_falls_into_is_filled_with_known_students() -> None:
    width, rate = FloatRange(bounds=[0.0, 1.0]), FloatRange(bounds=[0.0, 1.0])
    space = Space({"student": {"width": width}, "objective": {"name": "cross_entropy"}, "lr": rate})
    known = Students(lambda draw: int(draw["student.width"] * 10**9), ({"student.width": 1e-8}, {"student.width": 1.0}))
    run = memory_run({"distil": 8}, strata=known.edges())
    searcher = RunSearcher(run, SearchProposer(run, {"distil": space}, front(sampler={"name": "random"}), known))
    for _ in range(8):
        searcher.suggest("")
    narrow = [trial.draw for trial in run.state.trials.values() if trial.stratum == 0]
    assert [draw["student.width"] for draw in narrow] == [1e-8] * 4
    assert len({draw["lr"] for draw in narrow}) == 4, "the rest is drawn"


def test_a_stratum_without_a_new_draw_is_passed_over_and_an_arm_without_one_ends() -> None:
    student = {"width": Choice(options=[0.25, 0.5, 1.0])}
    space = Space({"student": student, "objective": {"name": "cross_entropy"}})
    run = memory_run({"distil": 6, "cross_entropy": 2}, strata=students().edges())
    spaces = {"distil": space, "cross_entropy": SPACE}
    searcher = RunSearcher(run, SearchProposer(run, spaces, front(), students()))
    while searcher.suggest("") is not None:
        pass
    assert Counter(trial.arm for trial in run.state.trials.values()) == {"distil": 3, "cross_entropy": 2}
    assert run.state.quota == {"distil": 3, "cross_entropy": 2}
    assert run.state.num_missing() == 0
    assert [event["trials"] for event in run.events if event["event"] == records.EXHAUSTED] == [3]


def test_points_to_start_from_count_for_the_stratum_that_they_lie_in() -> None:
    config = front(points=[{"student.width": 1.0}, {"student.width": 1.0}])
    run = memory_run({"distil": 6}, strata=students().edges())
    searcher = RunSearcher(run, SearchProposer(run, {"distil": SPACE}, config, students()))
    for _ in range(6):
        searcher.suggest("")
    assert [trial.stratum for trial in run.state.trials.values()] == [2, 2, 0, 1, 0, 1]
    assert strata_in_turn(run.state.of_arm("distil"), 3) == [0, 1, 2]


@pytest.mark.parametrize("goal", ["best", "front"])
def test_a_share_of_every_arm_and_stratum_is_never_pruned(goal: str) -> None:
    never_pruned = {"grace_period": 1, "never_pruned": 1 / 3}
    random: dict[str, Any] = {"sampler": {"name": "random"}, "num_trials": 24, "arms": ["distil", "cross_entropy"]}
    config = front(goal=goal, scheduler=never_pruned, **random)
    run = memory_run(config.trials_by_arm(), students().edges() if goal == "front" else ())
    Driven(run, config, spaces_of(config)).finish()
    counts = Counter((trial.arm, trial.stratum) for trial in run.state.trials.values() if trial.never_pruned)
    assert len(counts) == (6 if goal == "front" else 2)
    assert set(counts.values()) <= ({2, 3} if goal == "front" else {8})
    assert {trial.end for trial in run.state.trials.values() if trial.never_pruned} <= {"completed", "diverged"}


def test_who_is_never_pruned_depends_on_the_seed_and_nobody_is_where_nothing_is_pruned() -> None:
    def chosen(**changes: Any) -> list[int]:
        run = memory_run({"distil": 24})
        searcher = RunSearcher(
            run, SearchProposer(run, {"distil": SPACE}, front(goal="best", sampler={"name": "random"}, **changes))
        )
        for _ in range(24):
            searcher.suggest("")
        return [number for number, trial in run.state.trials.items() if trial.never_pruned]

    share = {"never_pruned": 0.1}
    assert len({tuple(chosen(scheduler=share, seed=seed)) for seed in range(6)}) > 1
    assert chosen(scheduler={"never_pruned": 0.0}) == []
    assert chosen(scheduler={"name": "none"}) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trial.student.width": 0.5}, r"toy.yaml:\d+ search.goal: front: every student of this file has \S+ param"),
        ({"search.num_trials": 1}, r"search.goal: front: the students are of 2 sizes, and every arm needs a trial"),
        ({"trial.student.width": {"float": [0.1, 4.0]}, "search.num_trials": 3}, "the students are of 4 sizes"),
        ({"search.sampler": {"name": "grid"}}, "a grid takes its cells in turn, whatever their size"),
    ],
)
def test_a_file_that_has_no_front_is_refused(
    changes: dict[str, Any], problem: str, tmp_path: Path, toy_dataset: Dataset
) -> None:
    discrete = {"trial.optimizer.lr": 0.1, "trial.objective.alpha": 0.5} if "search.sampler" in changes else {}
    search = toy_search(**{"search.goal": "front"}, **changes, **discrete)
    file = load_search_file(write_search(tmp_path, search))
    with pytest.raises(ConfigError, match=problem):
        students_by_size(file, check(file), toy_dataset)


def test_a_search_for_the_best_counts_no_students(tmp_path: Path, toy_dataset: Dataset) -> None:
    file = load_search_file(write_search(tmp_path, toy_search()))
    assert students_by_size(file, check(file), toy_dataset) is None


def test_every_stratum_keeps_its_best_checkpoints_and_the_live_table_shows_each(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "trial: {}\n", toy_manifest())
    output = io.StringIO()
    watch = Watch(Console(file=output, width=120), run.state, Course(1, (1,)))
    run.listeners += [CheckpointKeeper(run.folder, None), watch]
    run.record(records.STARTED, quota={"distil": 14}, strata=(1000, 2000))
    for number in range(14):
        run.record(records.PROPOSED, trial=number, arm="distil", stratum=number % 2, draw={})
        checkpoints_of(run.folder, number).mkdir(parents=True)
        # The wide ones, of stratum 1, are all better than the narrow ones.
        run.record(records.EPOCH, trial=number, attempt=0, epoch=1, val_accuracy=number % 2 / 2 + number / 100)
        run.record(records.STOPPED, trial=number, reason="completed", epoch=1)
    run.close()
    kept = {int(path.name) for path in (run.folder / "checkpoints").iterdir()}
    assert kept == set(range(14 - 2 * KEPT_CHECKPOINTS, 14))
    Console(file=output, width=120).print(watch.glance())
    assert "the best of distil at its size so far" in output.getvalue()
    table = output.getvalue().splitlines()
    assert any(line.startswith("distil up to 1,000") and "7/7" in line and "12.00%" in line for line in table)
    assert any(line.startswith("distil up to 2,000") and "7/7" in line and "63.00%" in line for line in table)


def test_a_search_for_the_front_exports_the_best_of_every_size(
    tmp_path: Path, toy_npz: Path, ray_cluster: None
) -> None:
    search = toy_search(**{"search.goal": "front", "trial.training.num_epochs": 3})
    file = load_search_file(write_search(tmp_path, search))
    run = tmp_path / "run"
    state = start(file, run, Launch(source=toy_npz), Console(quiet=True))
    assert len(state.strata) == 2
    for trial in state.trials.values():
        assert trial.stratum == stratum_of(trial.rows[1]["num_parameters"], state.strata)
    started = next(event for event in read_events(run) if event["event"] == records.STARTED)
    assert tuple(started["strata"]) == state.strata
    export_best(run, tmp_path / "students", Wanted(), None)
    assert {path.name for path in (tmp_path / "students").iterdir()} == {f"distil_{size}_1" for size in state.strata}
    assert set(read(run).trials["stratum"]) == {0, 1}
