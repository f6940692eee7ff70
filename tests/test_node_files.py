"""Files that a node lacks: sent whole, once, and verified; what it has is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kd_tune import node_files
from kd_tune.data import files_of
from kd_tune.errors import ConfigError
from kd_tune.findings import Verdict
from kd_tune.node_files import Parcel, at_hand, check_parcels, pack, send
from kd_tune.paths import CACHE_VARIABLE


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files; a cache of this test alone, and chunks that hold little."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(node_files, "CHUNK", 4096)
    folder = tmp_path / "bank"
    (folder / "below").mkdir(parents=True)
    (folder / "logits.f16").write_bytes(bytes(range(256)) * 100)
    (folder / "bank.json").write_text('{"fingerprint": "a"}')
    (folder / "below" / "empty").touch()
    (folder / "lock").write_text("no part of it")
    return folder


def packed(folder: Path) -> Parcel:
    return pack("answers", folder, ["logits.f16", "bank.json", "below"])


def sent(parcel: Parcel) -> list[bytes]:
    chunks: list[bytes] = []
    send(parcel, chunks.append)
    return chunks


def nothing() -> list[bytes]:
    raise AssertionError("it was there already")


def gone(parcel: Parcel) -> Parcel:
    """The parcel, as a machine without that folder sees it."""
    there = Path(parcel.path)
    there.rename(there.with_name("elsewhere"))
    return parcel


def test_what_lies_there_is_used(sender: Path) -> None:
    assert at_hand(packed(sender), nothing) == sender


def test_a_folder_is_sent_whole_and_once(sender: Path) -> None:
    parcel, chunks = packed(sender), sent(packed(sender))
    assert len(chunks) > 5
    kept = at_hand(gone(parcel), lambda: chunks)
    assert kept.name == "bank"
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*")} == {
        "logits.f16",
        "bank.json",
        "below",
        "below/empty",
    }
    assert (kept / "logits.f16").read_bytes() == bytes(range(256)) * 100
    assert at_hand(parcel, nothing) == kept


def test_a_file_keeps_its_name(sender: Path) -> None:
    parcel = pack("data", sender / "logits.f16")
    chunks = sent(parcel)
    (sender / "logits.f16").unlink()
    kept = at_hand(parcel, lambda: chunks)
    assert kept.name == "logits.f16"
    assert kept.read_bytes() == bytes(range(256)) * 100


def test_a_link_is_sent_as_what_it_points_to(sender: Path) -> None:
    (sender / "below" / "link").symlink_to(sender / "logits.f16")
    parcel, chunks = packed(sender), sent(packed(sender))
    kept = at_hand(gone(parcel), lambda: chunks)
    assert not (kept / "below" / "link").is_symlink()
    assert (kept / "below" / "link").read_bytes() == bytes(range(256)) * 100


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "logits.f16").write_bytes(b"shorter"),
        lambda folder: (folder / "bank.json").write_text('{"fingerprint": "b"}'),
        lambda folder: (folder / "below" / "empty").unlink(),
    ],
)
def test_other_files_at_the_path_are_not_taken_for_it(sender: Path, change: Callable[[Path], object]) -> None:
    parcel, chunks = packed(sender), sent(packed(sender))
    change(sender)
    kept = at_hand(parcel, lambda: chunks)
    assert kept != sender
    assert parcel.is_at(kept, whole=True)


def test_content_and_not_the_path_decides_where_it_is_kept(sender: Path) -> None:
    parcel = packed(sender)
    (sender / "logits.f16").write_bytes(b"x" + bytes(range(256)) * 99 + bytes(255))
    assert packed(sender).num_bytes == parcel.num_bytes
    assert packed(sender).kept != parcel.kept
    assert replace(parcel, path="/elsewhere/bank").kept == parcel.kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunks: chunks[:3],
        lambda chunks: [chunks[0], chunks[1][:-1] + b"x", *chunks[2:]],
        lambda chunks: [b"x" * 512, *chunks[1:]],
        lambda chunks: [],
    ],
    ids=["cut off", "one byte", "no archive", "nothing"],
)
def test_what_came_damaged_is_refused_and_not_kept(sender: Path, damage: Callable[[list[bytes]], list[bytes]]) -> None:
    parcel, chunks = packed(sender), sent(packed(sender))
    gone(parcel)
    with pytest.raises(ConfigError, match="came here damaged"):
        at_hand(parcel, lambda: damage(chunks))
    assert [path.name for path in parcel.kept.parents[1].iterdir()] == [f"{parcel.kept.parent.name}.lock"]
    assert at_hand(parcel, lambda: chunks) == parcel.kept


def test_of_many_who_ask_at_once_one_is_sent(sender: Path) -> None:
    parcel, chunks, asked = packed(sender), sent(packed(sender)), []
    gone(parcel)

    def ask() -> None:
        at_hand(parcel, lambda: asked.append(1) or chunks)  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_what_is_too_large_is_refused(sender: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_files, "MOST_BYTES", 25_000)
    parcel = packed(sender)
    assert check_parcels([parcel])[0].verdict is Verdict.PASS, "there it may be as large as it likes"
    gone(parcel)
    (finding,) = check_parcels([parcel])
    assert finding.verdict is Verdict.FAIL
    with pytest.raises(ConfigError, match=r"too much to be sent.*storage that all nodes share"):
        at_hand(parcel, nothing)


def test_a_node_says_what_it_has_and_what_it_will_be_sent(sender: Path) -> None:
    parcel, chunks = packed(sender), sent(packed(sender))
    assert check_parcels([parcel])[0].found == f"{sender}: there"
    gone(parcel)
    assert check_parcels([parcel])[0].found == f"{sender}: not there, or other files; 0 MB will be sent"
    kept = at_hand(parcel, lambda: chunks)
    assert check_parcels([parcel])[0].found == f"{kept}: there"


def test_of_a_published_data_set_only_its_own_folder_is_sent(tmp_path: Path) -> None:
    """It may lie in somebody's home, beside anything."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    (tmp_path / "private").touch()
    parcel = pack("data", tmp_path, files_of("cifar10", tmp_path))
    assert [name for name, _, _ in parcel.files] == ["cifar-10-batches-py/data_batch_1"]
    assert files_of("cifar10", tmp_path / "cifar10.npz") is None
    assert files_of("image_folder", tmp_path) is None
