"""The ledger of a run: what was recorded is what is read, after any kill; and nobody else's run is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_tune import ledger, records
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.ledger import Run, read_events, replay
from kd_tune.paths import read_json
from kd_tune.run_state import Event, RunState
from tests.scarcity import largest_file
from tests.searches import toy_manifest, without_checksums

SEARCH_YAML = "trial: {}\n"


def new_run(folder: Path) -> Run:
    return Run.create(folder, SEARCH_YAML, toy_manifest())


def record_two_trials(run: Run) -> None:
    run.record(records.STARTED, quota={"distil": 2, "cross_entropy": 1})
    run.record(records.PROPOSED, trial=0, arm="distil", draw={"optimizer.lr": 0.1})
    run.record(records.EPOCH, trial=0, attempt=0, epoch=1, val_accuracy=0.5)
    run.record(records.EPOCH, trial=0, attempt=0, epoch=2, val_accuracy=0.6)
    run.record(records.PROPOSED, trial=1, arm="cross_entropy", draw={"optimizer.lr": 0.2})
    run.record(records.EPOCH, trial=1, attempt=0, epoch=1, val_accuracy=0.4)
    run.record(records.STOPPED, trial=0, reason="completed")


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "ledger").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed run of two trials, in one segment."""
    path = tmp_path / "run"
    run = new_run(path)
    record_two_trials(run)
    run.close()
    return path


def test_a_run_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    record_two_trials(run)
    run.close()
    assert replay(tmp_path / "run") == run.state
    trial = run.state.trials[0]
    assert (trial.arm, trial.draw, trial.epoch, trial.value, trial.end) == (
        "distil",
        {"optimizer.lr": 0.1},
        2,
        0.6,
        "completed",
    )
    assert [unfinished.number for unfinished in run.state.unfinished()] == [1]
    assert [of_arm.number for of_arm in run.state.of_arm("distil")] == [0]
    assert run.state.num_missing() == 1


def test_rows_share_their_keys(folder: Path) -> None:
    """Ten thousand trials' would take more memory than all their numbers."""
    first, second = list(replay(folder).trials[0].rows.values())[:2]
    assert [id(key) for key in first] == [id(key) for key in second]


def test_an_event_keeps_its_fields_and_gets_a_time(folder: Path) -> None:
    events = list(read_events(folder))
    assert len(events) == 7
    assert {key: value for key, value in events[2].items() if key != "time"} == {
        "event": "epoch",
        "trial": 0,
        "attempt": 0,
        "epoch": 1,
        "val_accuracy": 0.5,
    }
    times = [event["time"] for event in events]
    assert times == sorted(times)


FIELDS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda key: key not in ("event", "time", "self")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=4,
)


@given(st.lists(FIELDS, max_size=5))
def test_any_json_content_survives_and_what_json_cannot_hold_is_null(
    tmp_path_factory: pytest.TempPathFactory, contents: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any") / "run"
    run = new_run(folder)
    for fields in contents:
        run.record("remark", **fields)
    run.close()
    read = [
        {key: value for key, value in event.items() if key not in ("event", "time")} for event in read_events(folder)
    ]
    assert read == [records.finite_or_none(fields) for fields in contents]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_stored_as_null(tmp_path: Path, value: float) -> None:
    run = new_run(tmp_path / "run")
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    run.record(records.EPOCH, trial=0, attempt=0, epoch=1, val_accuracy=value)
    run.record("remark", parts={"soft": [value]})
    run.close()
    text = segments(tmp_path / "run")[0].read_text(encoding="utf-8")
    _, epoch, remark = (
        json.loads(line, parse_constant=lambda token: pytest.fail(f"{token} is not JSON")) for line in text.splitlines()
    )
    assert epoch["val_accuracy"] is None
    assert remark["parts"] == {"soft": [None]}
    assert run.state.trials[0].value is None
    assert replay(tmp_path / "run") == run.state, "live and replayed state agree on it"


def test_a_last_line_cut_at_any_byte_is_passed_over(folder: Path) -> None:
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    before = RunState()
    events = list(read_events(folder))
    for event in events[:-1]:
        before.apply(event)
    for cut in range(start, len(whole)):
        segment.write_bytes(whole[:cut])
        assert replay(folder) == before, cut
        assert len(list(read_events(folder))) == len(events) - 1
    segment.write_bytes(whole)
    assert replay(folder) != before


@pytest.mark.parametrize(
    "end", [b"{", b"\xff\xfe\x00", b"null", b'{"event": "stopped", "trial": 1, "reason": "pruned"}']
)
def test_whatever_follows_the_last_whole_line_is_passed_over(folder: Path, end: bytes) -> None:
    before = replay(folder)
    (segment,) = segments(folder)
    segment.write_bytes(segment.read_bytes() + end)
    assert replay(folder) == before


def test_a_run_goes_on_after_a_line_cut_off_by_a_kill(folder: Path) -> None:
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-10])
    run = Run(folder)
    assert run.state.trials[0].end is None
    run.record(records.STARTED, quota={"distil": 2, "cross_entropy": 1})
    run.record(records.STOPPED, trial=0, reason="pruned")
    run.close()
    state = replay(folder)
    assert state == run.state
    assert state.trials[0].end == "pruned"
    assert state.launches == 2
    assert segment.read_bytes() == whole[:-10], "what was written stays as it was"


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"", b"[1, 2]", b'"text"', b"3", b"null", b'{"no": "event"}', b'{"event": 3}', b"\xff\x00"]
)
@pytest.mark.parametrize("line", [1, 4, 7])
def test_garbage_in_the_middle_is_refused_with_file_and_line(folder: Path, garbage: bytes, line: int) -> None:
    (segment,) = segments(folder)
    lines = segment.read_bytes().split(b"\n")
    lines[line - 1] = garbage
    segment.write_bytes(b"\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        replay(folder)
    assert str(caught.value).startswith(f"{segment}:{line}: not a ledger event")


def three_segments(folder: Path) -> list[Path]:
    """Of a closed run that was launched twice more."""
    for reason in ("pruned", "completed"):
        run = Run(folder)
        run.record(records.STARTED, quota={"distil": 2, "cross_entropy": 1})
        run.record(records.STOPPED, trial=1, reason=reason)
        run.close()
    return segments(folder)


def test_any_flipped_bit_is_found_where_it_is(folder: Path) -> None:
    """But for the last line's end: what follows the last end of a line is passed over."""
    (segment,) = segments(folder)
    whole = segment.read_bytes()
    for place in range(len(whole) - 1):
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ConfigError, match="not a ledger event") as caught:
            replay(folder)
        line = whole[:place].count(b"\n") + 1
        assert str(caught.value).startswith(f"{segment}:{line}: "), place


@pytest.mark.parametrize("line", range(7))
def test_a_line_that_is_lost_doubled_or_moved_is_found(folder: Path, line: int) -> None:
    (segment,) = segments(folder)
    lines = segment.read_bytes().splitlines(keepends=True)
    changed = [lines[:line] + lines[line:][:1] * 2 + lines[line + 1 :], lines[line : line + 1] + lines[:line]]
    changed += [lines[:line] + lines[line + 1 :]] if line < 6 else []  # the last one may not have reached the disk
    changed += [lines[line:] + lines[:line]]
    for content in changed:
        if content not in (lines, lines[:1]):
            segment.write_bytes(b"".join(content))
            with pytest.raises(ConfigError, match="not a ledger event as it was written here"):
                replay(folder)


def test_a_segment_that_is_lost_or_lost_its_end_is_found_by_the_next(folder: Path) -> None:
    first, second, third = three_segments(folder)
    whole = second.read_bytes()
    second.write_bytes(whole[: whole.index(b"\n") + 1])
    with pytest.raises(ConfigError, match=rf"{third}:1: .* or the last lines of {second} are missing"):
        replay(folder)
    second.unlink()
    with pytest.raises(ConfigError, match=rf"{third}:1: "):
        replay(folder)
    second.write_bytes(whole)
    first.unlink()
    with pytest.raises(ConfigError, match=rf"{second}:1: "):
        replay(folder)


def test_a_ledger_of_before_there_were_checksums_is_read_and_gone_on_with(folder: Path) -> None:
    before = replay(folder)
    without_checksums(folder)
    assert replay(folder) == before
    three_segments(folder)
    assert replay(folder).trials[1].end == "completed"


def test_a_full_disk_costs_one_event_and_the_next_one_finds_its_place(folder: Path) -> None:
    run = Run(folder)
    before = replay(folder)
    run.record("remark")
    newest = segments(folder)[-1]
    with largest_file(newest.stat().st_size + 20), pytest.raises(EnvironmentProblem, match="ledger: File too large"):
        run.record(records.STOPPED, trial=1, reason="pruned")
    assert not newest.read_bytes().endswith(b"\n"), "a part of the line was written"
    assert run.state == before == replay(folder)
    run.record(records.STOPPED, trial=1, reason="completed")
    run.close()
    assert replay(folder) == run.state
    assert run.state.trials[1].end == "completed"


@pytest.mark.parametrize(
    "event",
    [
        {"event": "epoch", "trial": 99, "attempt": 0, "epoch": 1},
        {"event": "epoch", "trial": 0},
        {"event": "stopped", "trial": 99, "reason": "pruned"},
        {"event": "proposed", "trial": 3},
        {"event": "started"},
        {"event": "epoch", "trial": 0, "attempt": 0, "epoch": 3, "val_accuracy": "0.5"},
        {"event": "epoch", "trial": 0, "attempt": 0, "epoch": 3, "seconds": [1]},
        {"event": "epoch", "trial": 0, "attempt": 0, "epoch": 3, "num_parameters": 2**63},
        {"event": "epoch", "trial": 0, "attempt": 0, "epoch": -1},
        {"event": "proposed", "trial": 3, "arm": "distil", "draw": {"lr": {}}},
        {"event": "stopped", "trial": 0, "reason": "bored"},
        {"event": "started", "quota": {"distil": "2"}},
    ],
    ids=lambda event: "-".join(map(str, event.values())),
)
def test_an_event_that_does_not_follow_from_those_before_is_refused(folder: Path, event: Event) -> None:
    segment = without_checksums(folder)
    segment.write_bytes(segment.read_bytes() + json.dumps(event).encode() + b"\n")
    if event == {"event": "started"}:  # it matters only where no quota is known
        segment.write_bytes(json.dumps(event).encode() + b"\n")
    with pytest.raises(ConfigError, match=r"the ledger's event .* cannot be followed"):
        replay(folder)


def test_a_loss_that_diverges_may_be_any_number_that_is_finite(folder: Path) -> None:
    run = Run(folder)
    run.record(records.EPOCH, trial=0, attempt=0, epoch=3, val_accuracy=0.1, train_loss=1e308, val_loss=1e308)
    run.close()
    assert replay(folder) == run.state


def test_numbers_that_are_none_are_refused(folder: Path) -> None:
    segment = without_checksums(folder)
    for number in ("NaN", "-Infinity", "1e999"):
        segment.write_text('{"event": "epoch", "trial": 0, "attempt": 0, "epoch": 1, "seconds": ' + number + "}\n")
        with pytest.raises(ConfigError):
            replay(folder)


def test_events_of_an_unknown_kind_change_nothing(folder: Path) -> None:
    """A newer version may record more."""
    before = replay(folder)
    run = Run(folder)
    run.record("weather", sun=True)
    run.close()
    assert replay(folder) == before


def test_a_place_without_a_ledger_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        replay(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_opening_a_place_without_a_run_is_refused_and_leaves_nothing_behind(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no run here"):
        Run(tmp_path / place)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_second_launcher_is_refused_while_the_first_lives(folder: Path) -> None:
    run = Run(folder)
    with pytest.raises(ConfigError, match="another process is running this search"):
        Run(folder)
    run.close()
    Run(folder).close()


def test_a_run_is_never_made_over_an_existing_folder(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"there is a run of this name; take another --name, or go on with --resume"):
        new_run(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="there is a run of this name"):
        new_run(tmp_path / "empty")


def test_a_new_run_holds_its_search_file_and_manifest(folder: Path) -> None:
    assert (folder / ledger.SEARCH_FILE).read_text(encoding="utf-8") == SEARCH_YAML
    assert read_json(folder / ledger.MANIFEST) == toy_manifest().model_dump()


def test_a_folder_that_cannot_be_made_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        new_run(tmp_path / "file" / "run")


def test_an_event_is_on_disk_before_anything_follows_from_it(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    seen: list[tuple[str, int]] = []
    run.listeners.append(lambda event, state: seen.append((event["event"], len(replay(tmp_path / "run").trials))))
    run.record(records.STARTED, quota={"distil": 1})
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    assert seen == [("started", 0), ("proposed", 1)]
    run.close()


def test_of_epochs_that_were_run_again_the_last_attempt_is_kept(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    for attempt, epoch, accuracy in ((0, 1, 0.1), (0, 2, 0.2), (0, 3, 0.3), (1, 2, 0.25)):
        run.record(records.EPOCH, trial=0, attempt=attempt, epoch=epoch, val_accuracy=accuracy)
    trial = run.state.trials[0]
    assert trial.attempt == 1
    assert trial.latest == 2
    assert [(epoch, row["attempt"], row["val_accuracy"]) for epoch, row in sorted(trial.rows.items())] == [
        (1, 0, 0.1),
        (2, 1, 0.25),
        (3, 0, 0.3),
    ]
    run.close()
    assert replay(tmp_path / "run") == run.state


def test_a_trials_value_is_that_of_its_last_epoch_and_not_its_best(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    assert run.state.trials[0].value is None
    run.record(records.EPOCH, trial=0, attempt=0, epoch=1, val_accuracy=0.9)
    run.record(records.EPOCH, trial=0, attempt=0, epoch=2, val_accuracy=0.5)
    assert run.state.trials[0].value == 0.5
    run.close()


def test_a_failure_keeps_its_error(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.record(records.PROPOSED, trial=0, arm="distil", draw={})
    run.record(records.STOPPED, trial=0, reason="failed", error="out of memory")
    run.close()
    trial = replay(tmp_path / "run").trials[0]
    assert (trial.end, trial.error) == ("failed", "out of memory")


def test_extending_adds_trials_to_every_arm_for_good(folder: Path) -> None:
    run = Run(folder)
    run.record(records.EXTENDED, num_trials=5)
    run.record(
        records.STARTED, quota={"distil": 2, "cross_entropy": 1}
    )  # the next launch reads the file's numbers again
    run.close()
    state = replay(folder)
    assert state.quota == {"distil": 7, "cross_entropy": 6}
    assert state.num_missing() == 11


def test_openings_of_the_test_set_are_kept(folder: Path) -> None:
    run = Run(folder)
    run.record(records.TEST_OPENED, purpose="confirm")
    run.record(records.TEST_OPENED, purpose="curiosity")
    run.close()
    assert [opening["purpose"] for opening in replay(folder).test_openings] == ["confirm", "curiosity"]


def test_segments_rotate_and_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SEGMENT_LINES", 3)
    run = new_run(tmp_path / "run")
    for number in range(34):
        run.record(records.PROPOSED, trial=number, arm="distil", draw={})
    run.close()
    paths = segments(tmp_path / "run")
    assert [path.name for path in paths] == [f"{number:05d}.jsonl" for number in range(12)]
    assert [len(path.read_bytes().splitlines()) for path in paths] == [3] * 11 + [1]
    assert [event["trial"] for event in read_events(tmp_path / "run")] == list(range(34))


def test_every_launch_writes_to_a_segment_of_its_own(folder: Path) -> None:
    for _ in range(2):
        run = Run(folder)
        run.record(records.STARTED, quota={"distil": 2})
        run.close()
    assert [path.name for path in segments(folder)] == ["00000.jsonl", "00001.jsonl", "00002.jsonl"]


def test_a_launch_that_records_nothing_leaves_no_segment(folder: Path) -> None:
    Run(folder).close()
    assert len(segments(folder)) == 1


EPOCHS = st.tuples(st.just("epoch"), st.integers(0, 3), st.integers(1, 5))
STOPS = st.tuples(st.just("stopped"), st.integers(0, 3), st.sampled_from(records.STOP_REASONS))


@given(st.lists(st.one_of(EPOCHS, STOPS, st.tuples(st.just("extended"), st.integers(1, 3), st.none())), max_size=20))
def test_the_live_state_is_the_one_that_a_reader_folds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, Any]]
) -> None:
    run = new_run(tmp_path_factory.mktemp("live") / "run")
    run.record(records.STARTED, quota={"distil": 4})
    for number in range(4):
        run.record(records.PROPOSED, trial=number, arm="distil", draw={"optimizer.lr": number / 10})
    for kind, number, detail in steps:
        if kind == "epoch":
            run.record(records.EPOCH, trial=number, attempt=0, epoch=detail, val_accuracy=detail / 10)
        elif kind == "stopped":
            run.record(records.STOPPED, trial=number, reason=detail)
        else:
            run.record(records.EXTENDED, num_trials=number)
    run.close()
    assert replay(run.folder) == run.state
