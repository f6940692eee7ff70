"""The bank of soft targets: the teacher's answers to every view, filled in pieces or at once, refused if damaged.

Shapes: V views, N training images, C classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from kd_tune import prepare, soft_targets, teacher
from kd_tune.augment import view_table
from kd_tune.data import Dataset, npz
from kd_tune.errors import ConfigError
from kd_tune.paths import read_json, write_json
from kd_tune.soft_targets import LOGITS, RECORD, VAL_LOGITS, Bank
from kd_tune.teacher import Teacher

CPU = torch.device("cpu")
VIEWS = 8
BATCH = 32  # four batches a view, so that a kill can fall into any


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "EVALUATION_BATCH", BATCH)


@pytest.fixture(scope="module")
def toy_teacher(
    tmp_path_factory: pytest.TempPathFactory, toy_dataset: Dataset, save_teacher: Callable[..., Path]
) -> Teacher:
    return teacher.load(save_teacher(tmp_path_factory.mktemp("teachers") / "one", toy_dataset, 0), toy_dataset)


@pytest.fixture(scope="module")
def other_teacher(
    tmp_path_factory: pytest.TempPathFactory, toy_dataset: Dataset, save_teacher: Callable[..., Path]
) -> Teacher:
    return teacher.load(save_teacher(tmp_path_factory.mktemp("teachers") / "other", toy_dataset, 1), toy_dataset)


@pytest.fixture
def bank(tmp_path: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> Path:
    """A bank of eight views."""
    folder = tmp_path / "bank"
    soft_targets.fill(folder, toy_teacher, toy_dataset, VIEWS, CPU)
    return folder


def opened(folder: Path, found: Teacher, dataset: Dataset, views: int = VIEWS) -> Bank:
    fingerprint = soft_targets.fingerprint_of(found, dataset)
    return soft_targets.open_bank(folder, fingerprint, len(dataset.train), dataset.num_classes, views)


def view_of(images: np.ndarray, flip: int, dy: int, dx: int) -> np.ndarray:
    """The view (flip, dy, dx) of images `[N, C, H, W]`, by slices."""
    padded = np.pad(images[..., ::-1] if flip else images, [(0, 0), (0, 0), (4, 4), (4, 4)])
    return padded[..., 4 - dy : 4 - dy + images.shape[2], 4 - dx : 4 - dx + images.shape[3]]


def asked_by_hand(found: Teacher, images: np.ndarray) -> np.ndarray:
    mean, std = (np.array(getattr(found.record.normalisation, key)).reshape(-1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        logits: np.ndarray = found.network(torch.from_numpy((images / 255 - mean) / std).float()).numpy()
    return logits


def test_a_bank_holds_the_teachers_answer_to_every_view_of_every_image(
    bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    logits = opened(bank, toy_teacher, toy_dataset).logits
    assert logits.shape == (VIEWS, len(toy_dataset.train), toy_dataset.num_classes)
    assert logits.dtype == np.float16
    for view, (flip, dy, dx) in enumerate(view_table(toy_dataset.flips)[:VIEWS]):
        expected = asked_by_hand(toy_teacher, view_of(toy_dataset.train.images, flip, dy, dx))
        # float16 keeps 11 bits: half of 2^-10 of a number, and rounding of float32 before.
        np.testing.assert_allclose(logits[view], expected, rtol=1e-3, atol=1e-4)


def test_another_views_answer_is_another(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    """Without this the comparison above would prove nothing."""
    logits = opened(bank, toy_teacher, toy_dataset).logits.astype(np.float32)
    for view in range(1, VIEWS):
        assert np.abs(logits[view] - logits[0]).max() > 0.01


def test_a_bank_holds_the_answers_to_the_clean_validation_images(
    bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    val_logits = opened(bank, toy_teacher, toy_dataset).val_logits
    np.testing.assert_allclose(val_logits, asked_by_hand(toy_teacher, toy_dataset.val.images), rtol=1e-3, atol=1e-4)


def test_eight_views_are_a_prefix_of_twelve(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    before = (bank / LOGITS).read_bytes()
    soft_targets.fill(bank, toy_teacher, toy_dataset, 12, CPU)
    after = (bank / LOGITS).read_bytes()
    assert after[: len(before)] == before
    assert len(after) == len(before) * 12 // 8
    eight, twelve = (opened(bank, toy_teacher, toy_dataset, views).logits for views in (8, 12))
    assert np.array_equal(twelve[:8], eight)


def test_a_bank_grown_view_by_view_is_that_filled_at_once(
    tmp_path: Path, bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    grown = tmp_path / "grown"
    for views in (1, 2, 5, 8):
        soft_targets.fill(grown, toy_teacher, toy_dataset, views, CPU)
    for name in (LOGITS, VAL_LOGITS, RECORD):
        assert (grown / name).read_bytes() == (bank / name).read_bytes()


def test_filling_what_is_full_asks_for_nothing(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    before = (bank / LOGITS).stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    soft_targets.fill(bank, toy_teacher, toy_dataset, 4, CPU, lambda done, total: calls.append((done, total)))
    assert calls == []
    assert soft_targets.missing_answers(bank, toy_dataset, 8) == 0
    assert (bank / LOGITS).stat().st_size == 2 * 3 * 8 * len(toy_dataset.train)
    assert opened(bank, toy_teacher, toy_dataset).logits.shape[0] == 8
    assert (bank / LOGITS).stat().st_mtime_ns >= before


ROW_BYTES = 2 * 3


@pytest.mark.parametrize("seed", range(8))
def test_a_fill_that_was_killed_goes_on_to_the_same_bank(
    seed: int, tmp_path: Path, bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    """The file as a kill leaves it: cut at any byte, and checksums of whole views only."""
    whole = (bank / LOGITS).read_bytes()
    cut = int(np.random.RandomState(seed).randint(len(whole)))
    record = read_json(bank / RECORD)
    view_bytes = ROW_BYTES * len(toy_dataset.train)
    (bank / LOGITS).write_bytes(whole[:cut])
    write_json(bank / RECORD, record | {"checksums": record["checksums"][: cut // view_bytes]})
    missing = VIEWS * len(toy_dataset.train) - cut // ROW_BYTES
    assert soft_targets.missing_answers(bank, toy_dataset, VIEWS) == missing

    soft_targets.fill(bank, toy_teacher, toy_dataset, VIEWS, CPU)
    assert (bank / LOGITS).read_bytes() == whole
    assert read_json(bank / RECORD) == record
    opened(bank, toy_teacher, toy_dataset)


def test_a_file_that_lost_its_end_is_filled_again(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    """As after a full disk or a crash of the machine: shorter than the checksums say."""
    whole = (bank / LOGITS).read_bytes()
    (bank / LOGITS).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ConfigError, match="damaged"):
        opened(bank, toy_teacher, toy_dataset)
    soft_targets.fill(bank, toy_teacher, toy_dataset, VIEWS, CPU)
    opened(bank, toy_teacher, toy_dataset)
    assert (bank / LOGITS).read_bytes() == whole


def test_a_kill_before_the_last_checksum_was_written_is_mended_by_the_next_search(
    toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    console = Console(file=io.StringIO())
    folder = prepare.fill_bank(toy_teacher, toy_dataset, 3, console)
    record = read_json(folder / RECORD)
    write_json(folder / RECORD, record | {"checksums": record["checksums"][:-1]})
    assert prepare.fill_bank(toy_teacher, toy_dataset, 3, console) == folder
    opened(folder, toy_teacher, toy_dataset, 3)


def test_a_search_fills_a_bank_once_and_finds_it_again(toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    def said(views: int) -> str:
        console = Console(file=io.StringIO(), width=400)
        prepare.fill_bank(toy_teacher, toy_dataset, views, console)
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    said(4)
    assert "soft targets: 4 views in" in said(4)
    assert f"soft targets: {len(toy_dataset.train)} answers in" in said(5)


def test_progress_counts_answers_up_to_all_of_them(tmp_path: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    calls: list[tuple[int, int]] = []
    soft_targets.fill(tmp_path, toy_teacher, toy_dataset, 2, CPU, lambda done, total: calls.append((done, total)))
    num_images = len(toy_dataset.train)
    assert calls[-1] == (2 * num_images, 2 * num_images)
    assert [done for done, _ in calls] == [32, 64, 96, 108, 140, 172, 204, 216]


def test_a_bank_of_another_teacher_is_refused_by_both_sides(
    bank: Path, toy_teacher: Teacher, other_teacher: Teacher, toy_dataset: Dataset
) -> None:
    before = (bank / LOGITS).read_bytes()
    with pytest.raises(ConfigError, match="holds another teacher's or data set's answers"):
        opened(bank, other_teacher, toy_dataset)
    with pytest.raises(ConfigError, match="holds the answers of another teacher"):
        soft_targets.fill(bank, other_teacher, toy_dataset, VIEWS, CPU)
    assert (bank / LOGITS).read_bytes() == before


def test_banks_of_different_teachers_data_and_views_lie_in_different_places(
    toy_teacher: Teacher, other_teacher: Teacher, toy_dataset: Dataset, toy_npz: Path
) -> None:
    pairs = [
        (toy_teacher, toy_dataset),
        (other_teacher, toy_dataset),
        (toy_teacher, npz(toy_npz, split_seed=1)),
        (toy_teacher, npz(toy_npz, num_train=50)),
        (toy_teacher, npz(toy_npz, flips=False)),
    ]
    assert len({soft_targets.folder_of(found, dataset) for found, dataset in pairs}) == len(pairs)
    assert soft_targets.folder_of(toy_teacher, npz(toy_npz)) == soft_targets.folder_of(toy_teacher, toy_dataset)


@pytest.mark.parametrize("view", [0, 3, 7])
def test_a_damaged_byte_is_refused_by_its_views_number(
    view: int, bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    content = bytearray((bank / LOGITS).read_bytes())
    content[view * ROW_BYTES * len(toy_dataset.train) + 17] ^= 1
    (bank / LOGITS).write_bytes(content)
    with pytest.raises(ConfigError, match=f"view {view} of the bank is damaged; delete the folder"):
        opened(bank, toy_teacher, toy_dataset)


def test_damage_beyond_the_views_asked_for_does_no_harm(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    content = bytearray((bank / LOGITS).read_bytes())
    content[-1] ^= 1
    (bank / LOGITS).write_bytes(content)
    assert opened(bank, toy_teacher, toy_dataset, 7).logits.shape[0] == 7


@pytest.mark.parametrize("kept", [0, 40, 100])
def test_damaged_validation_answers_are_refused(
    kept: int, bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    path = bank / VAL_LOGITS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match="the bank is damaged"):
        opened(bank, toy_teacher, toy_dataset)


def test_more_views_than_there_are_is_told_with_both_numbers(
    bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    with pytest.raises(ConfigError, match="the bank holds 8 views, not 9"):
        opened(bank, toy_teacher, toy_dataset, 9)


def test_a_place_without_a_bank_is_told_by_its_file(tmp_path: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    assert soft_targets.missing_answers(tmp_path, toy_dataset, 2) == 2 * len(toy_dataset.train) + len(toy_dataset.val)
    with pytest.raises(ConfigError, match=r"bank\.json: cannot be read"):
        opened(tmp_path, toy_teacher, toy_dataset)


def test_a_file_of_answers_without_a_record_is_not_trusted(
    tmp_path: Path, bank: Path, toy_teacher: Teacher, toy_dataset: Dataset
) -> None:
    orphan = tmp_path / "orphan"
    orphan.mkdir()
    (orphan / LOGITS).write_bytes(b"x" * 1000)
    soft_targets.fill(orphan, toy_teacher, toy_dataset, VIEWS, CPU)
    assert (orphan / LOGITS).read_bytes() == (bank / LOGITS).read_bytes()


def test_answers_are_mapped_read_only(bank: Path, toy_teacher: Teacher, toy_dataset: Dataset) -> None:
    """Linux refuses a private copy of a file, page by page, that is larger than its memory."""
    logits = opened(bank, toy_teacher, toy_dataset).logits
    assert isinstance(logits, np.memmap)
    assert not logits.flags.writeable
