"""A storage: the same in a folder and in S3, whole files only, patient with what passes, plain about what does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd_tune import storage as storage_module
from kd_tune.errors import ConfigError, EnvironmentProblem
from kd_tune.storage import Storage
from tests.object_store import Failure, Gate

pytestmark = pytest.mark.usefixtures("quick_pauses")


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our patience alone, not that of S3's client, which pauses for a second."""
    monkeypatch.setattr(storage_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(storage_module, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(storage_module, "S3_TIMEOUT", 1.0)


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty place of each kind."""
    if request.param == "folder":
        return Storage(str(tmp_path / "shared place"), patience=5)
    gate: Gate = request.getfixturevalue("s3")
    return Storage(gate.url, patience=5).child(tmp_path.name)


def test_what_is_written_is_read_listed_and_deleted(storage: Storage) -> None:
    storage.check()
    storage.write("a.json", b"first")
    storage.write("a.json", b"second")
    large = bytes(range(256)) * 20_000
    storage.child("deep", "er").write("b +&%.bin", large)
    assert storage.files() == ["a.json", "deep/er/b +&%.bin"]
    assert storage.folders("deep") == ["er"]
    assert storage.read("a.json") == b"second"
    assert storage.child("deep").read("er/b +&%.bin") == large
    storage.delete("deep")
    assert storage.files() == ["a.json"]


def test_what_is_not_there_is_no_error(storage: Storage) -> None:
    assert storage.read("nothing") is None
    assert storage.files() == []
    assert storage.folders("nothing") == []
    storage.delete("nothing")


def test_folders_are_copied_there_and_back(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_text(name)
    storage.upload(source, "there", last="b")
    storage.child("there").download(target, lambda path: path != "c")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "a", "b": "b"}


def test_a_folder_that_is_not_whole_lacks_its_last_file(s3: Gate, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    place = Storage(s3.url, patience=0).child(tmp_path.name)
    s3.failures, s3.always = [None], 503
    with pytest.raises(EnvironmentProblem):
        place.upload(tmp_path, "there", last="a")
    s3.always = None
    assert place.files() == ["there/b"]


@pytest.mark.parametrize("failure", [500, 503, 429, "reset", 0.3], ids=str)
def test_what_passes_is_waited_for(failure: Failure, s3: Gate, tmp_path: Path) -> None:
    place = Storage(s3.url, patience=30).child(tmp_path.name)
    s3.failures = [failure]
    place.write("a", b"a")
    s3.failures = [failure]
    assert place.read("a") == b"a"
    s3.failures = [failure]
    assert place.files() == ["a"]
    assert not s3.failures


def test_a_server_that_says_nothing_is_given_up_and_asked_again(s3: Gate) -> None:
    place = Storage(s3.url, patience=30)
    place.write("a", b"a")
    s3.failures = [20.0]
    began = time.monotonic()
    assert place.read("a") == b"a"
    assert 0.9 < time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("failure", "reason"), [(503, "HTTP status 503"), ("reset", "NETWORK_CONNECTION"), (403, "ACCESS_DENIED")]
)
def test_what_does_not_pass_is_said_when_patience_ends(failure: Failure, reason: str, s3: Gate) -> None:
    place = Storage(s3.url, patience=0.5)
    place.check()
    s3.always = failure
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem) as caught:
        place.write("a", b"a")
    assert str(caught.value).startswith(f"{place.url}: cannot be written to: ")
    assert reason in str(caught.value)
    assert "Request ID" not in str(caught.value)
    assert 0.1 < time.monotonic() - began < 20


def test_a_refusal_is_said_at_once_where_a_launch_begins(s3: Gate) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=r"NO_SUCH_BUCKET.* does not exist$"):
        Storage(s3.url.replace("//bucket", "//other")).check()
    s3.always = 403
    with pytest.raises(EnvironmentProblem, match="ACCESS_DENIED"):
        Storage(s3.url).check()
    assert time.monotonic() - began < 20


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match=r"/file/deep: cannot be written to: .*Not a directory"):
        Storage(str(tmp_path / "file" / "deep"), patience=0).check()


def test_a_file_in_a_folder_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Storage(str(tmp_path), patience=0)
    place.write("a", b"old")
    with pytest.raises(TypeError):
        place.write("a", "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "names no place"),
        ("s3://key:secret@bucket/runs", "must hold no credentials"),
        ("s3://key@bucket/runs", "must hold no credentials"),
        ("ftp://host/runs", "no storage that pyarrow knows: Unrecognized filesystem type"),
        ("s3://bucket/runs?endpoint_override=127.0.0.1:1&acl=public", "unknown option 'acl'.*known: region"),
        ("file://host/runs", "no storage that pyarrow knows: Unsupported hostname"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Storage(url).files()
    assert "secret" not in str(caught.value)


def test_names_that_lead_elsewhere_are_refused(s3: Gate, tmp_path: Path) -> None:
    s3.put(f"runs/{tmp_path.name}/../../up", b"")
    place = Storage(s3.url).child(tmp_path.name)
    with pytest.raises(ConfigError, match=r"leads out of it: '\.\./\.\./up'"):
        place.download(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_child_keeps_its_query(tmp_path: Path) -> None:
    assert Storage("s3://b/p?region=x").child("a b", "c").url == "s3://b/p/a%20b/c?region=x"
    assert Storage("s3://b?region=x").child("a").name == "a"
    assert Storage("s3://b/p/a b/").name == "a b"
    assert Storage(str(tmp_path)).folder == tmp_path
