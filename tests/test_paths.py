"""Files are written whole or not at all, and read as they were written or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.paths import exclusive, naming, read_json, taking_turns, write_json, written_whole
from tests.scarcity import largest_file

CONTENTS = st.dictionaries(
    st.text(max_size=4).filter(lambda key: key != "crc32"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=4,
)


@given(CONTENTS)
def test_any_json_content_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert read_json(path) == content
    write_json(path, read_json(path))
    assert read_json(path) == content


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_json(path, {"name": "digits", "val_accuracy": 0.75, "mean": [0.5, 1e-7], "none": None, "size": {"a": 28}})
    return path


def test_a_flipped_bit_changes_nothing_or_is_told_by_the_files_name(record: Path) -> None:
    whole, content, complaints = record.read_bytes(), read_json(record), []
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        record.write_bytes(damaged)
        try:
            read = read_json(record)
        except ConfigError as error:
            complaints.append(str(error))
        else:  # white space, or the name of the checksum itself
            assert {key: read[key] for key in content} == content
    assert all(complaint.startswith(f"{record}: ") for complaint in complaints)
    assert len(complaints) > 5 * len(whole)


def test_what_a_person_wrote_or_changed_needs_no_checksum(record: Path) -> None:
    record.write_text(record.read_text().replace("0.75", "0.8"))
    with pytest.raises(ConfigError, match=r"is damaged \(whoever changed it on purpose takes out its line crc32\)"):
        read_json(record)
    content = json.loads(record.read_text())
    del content["crc32"]
    record.write_text(json.dumps(content))
    assert read_json(record)["val_accuracy"] == 0.8


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": -Infinity}', "[" * 100_000, '{"a": ' * 100_000, "[]", "", "\x00"],
    ids=["nan", "infinity", "lists", "objects", "list", "empty", "zero"],
)
def test_what_is_no_json_object_is_told_by_the_files_name(record: Path, text: str) -> None:
    record.write_text(text)
    with pytest.raises(ConfigError, match=r"record\.json: (cannot be read|must hold a JSON object)"):
        read_json(record)


def test_where_there_is_no_room_the_old_file_stays_and_the_target_is_named(record: Path) -> None:
    before = read_json(record)
    with largest_file(1000), pytest.raises(EnvironmentProblem, match=r"record\.json: File too large; raise the limit"):
        write_json(record, {"long": "x" * 2000})
    assert read_json(record) == before
    assert os.listdir(record.parent) == [record.name], "nothing half written stays"


def write_folder(target: Path) -> None:
    with written_whole(target) as temporary:
        temporary.mkdir()
        (temporary / "a").write_bytes(bytes(500))
        (temporary / "b").write_bytes(bytes(5000))


def test_a_folder_that_found_no_room_is_not_there(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(EnvironmentProblem, match=rf"{tmp_path}/folder: File too large"):
        write_folder(tmp_path / "folder")
    assert os.listdir(tmp_path) == []


def write_while_another_does(target: Path) -> None:
    with written_whole(target) as slow:
        slow.mkdir()
        (slow / "mine").touch()
        with written_whole(target) as fast:
            fast.mkdir()
            (fast / "theirs").touch()


def test_of_two_that_write_one_folder_at_once_the_second_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run: cannot be written: Directory not empty"):
        write_while_another_does(tmp_path / "run")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("run"), Path("run/theirs")]


def test_a_place_that_can_be_no_folder_is_the_users_mistake(record: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: ") as caught:
        write_json(record / "below", {})
    assert not isinstance(caught.value, EnvironmentProblem)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "a/b: No space left on device; make room there"), (errno.ESTALE, "a/b: cannot be written: ")],
)
def test_whatever_the_system_refuses_names_the_path(number: int, words: str) -> None:
    with pytest.raises(EnvironmentProblem, match=words), naming(Path("a/b")):
        raise OSError(number, os.strerror(number))


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for lock in (exclusive(tmp_path / "lock", "busy"), taking_turns(tmp_path / "lock")):
        with pytest.raises(EnvironmentProblem, match=r"lock: cannot be locked: Function not implemented; mount"), lock:
            pass
