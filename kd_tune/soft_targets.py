"""The bank: a teacher's logits for every view of every training image, computed once, fingerprinted, memory-mapped.

`logits.f16` is one array [V, N, C] of float16 that only ever grows at its end, so its length says how much of it is
done: a fill that was killed goes on with the next image, and a bank of V views becomes one of V + 1 without a copy.

Shapes: V views, N training images, C classes.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_tune.augment import apply_views, view_table
from kd_tune.data import Dataset
from kd_tune.errors import ConfigError, refused_by_system
from kd_tune.paths import (
    Record,
    cache_folder,
    file_name,
    naming,
    read_json,
    read_record,
    write_json,
    written_whole,
)
from kd_tune.teacher import Answers, Teacher, evaluation_batch

LOGITS = "logits.f16"
VAL_LOGITS = "val_logits.npy"
RECORD = "bank.json"
LOCK = "lock"  # held by whoever fills it
FILES = (LOGITS, VAL_LOGITS, RECORD)
SAMPLE = 32
SAMPLE_TOLERANCE = 0.02  # of the largest logit: float16 has 11 bits, and other batches and devices round differently
FORMAT = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bank:
    """Soft targets, read-only.

    Attributes:
        logits: `[V, N, C]` float16, mapped from the file.
        val_logits: `[M, C]` float16, of the clean validation images.
        fingerprint: of teacher, data and views.
    """

    logits: np.ndarray
    val_logits: np.ndarray
    fingerprint: str


def fingerprint_of(teacher: Teacher, dataset: Dataset) -> str:
    """What a bank's content follows from: the teacher, the images in their order, and the table of views."""
    digest = hashlib.sha256(f"{FORMAT}/{teacher.fingerprint}/{dataset.fingerprint}".encode())
    digest.update(view_table(dataset.flips).astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def folder_of(teacher: Teacher, dataset: Dataset) -> Path:
    """The bank's place in the cache."""
    name = f"{file_name(teacher.record.architecture['name'])}-{dataset.name}-{fingerprint_of(teacher, dataset)}"
    return cache_folder() / "banks" / name


class BankRecord(Record):
    """`bank.json`: what the answers follow from, and checksums (CRC-32): of every view that is whole, and of the file
    of the validation images' answers."""

    fingerprint: str
    checksums: list[int]
    val_checksum: int | None = None


def is_filled(folder: Path, views: int) -> bool:
    """Whether a bank holds so many whole views; says nothing of whose."""
    return (folder / RECORD).exists() and len(read_record(folder / RECORD, BankRecord).checksums) >= views


def missing_answers(folder: Path, dataset: Dataset, views: int) -> int:
    """How many answers a fill to so many views still has to ask for."""
    done = _rows_done(folder, dataset.num_classes) if (folder / RECORD).exists() else 0
    val = 0 if (folder / VAL_LOGITS).exists() else len(dataset.val)
    return max(0, views * len(dataset.train) - done) + val


def fill(
    folder: Path, teacher: Teacher, dataset: Dataset, views: int, device: torch.device, progress: Progress | None = None
) -> None:
    """Asks the teacher for what the bank lacks of its first `views` views.

    Args:
        folder: the bank's, whose LOCK the caller holds where others may fill it too; made if not there.
        teacher: whom to ask.
        dataset: whose training and clean validation images.
        views: 1 to 162 (81 without flips).
        device: where the teacher answers.
        progress: called with answers done and answers wanted.

    Raises:
        ConfigError: the folder holds the bank of another teacher.
    """
    record = _start_record(folder, teacher, dataset)
    answers = Answers(teacher, device)
    if not (folder / VAL_LOGITS).exists() or record.get("val_checksum") is None:
        val = np.concatenate(
            [
                _ask(answers, dataset.val.images, at, 0, dataset, device)
                for at in range(0, len(dataset.val), evaluation_batch(dataset.image_size))
            ]
        )
        content = _as_npy(val)
        with written_whole(folder / VAL_LOGITS) as temporary:
            temporary.write_bytes(content)
        record["val_checksum"] = zlib.crc32(content)
        write_json(folder / RECORD, record)
    _append_views(folder, record, answers, dataset, views, device, progress)
    teacher.network.cpu()  # trials may want the device's memory


def still_true(folder: Path, teacher: Teacher, dataset: Dataset, device: torch.device) -> bool:
    """Whether a teacher answers to some clean images as a filled bank says it did.

    A fingerprint covers weights, not the code of a user's network, nor that of a library.
    """
    images = dataset.train.images[:SAMPLE]
    now = _ask(Answers(teacher, device), images, 0, 0, dataset, device).astype(np.float32)
    teacher.network.cpu()
    stored = np.memmap(folder / LOGITS, np.float16, "r", shape=now.shape).astype(np.float32)
    return float(np.abs(now - stored).max()) <= SAMPLE_TOLERANCE * max(1.0, float(np.abs(stored).max()))


def write_bank(folder: Path, fingerprint: str, views: Iterable[np.ndarray], val_logits: np.ndarray) -> None:
    """A whole bank, in place of one with fewer views."""
    with written_whole(folder, replace=True) as temporary:
        temporary.mkdir()
        checksums = []
        with (temporary / LOGITS).open("wb") as file:
            for view in views:
                content = np.ascontiguousarray(view).tobytes()
                file.write(content)
                checksums.append(zlib.crc32(content))
        val = _as_npy(val_logits)
        (temporary / VAL_LOGITS).write_bytes(val)
        made = {"format": FORMAT, "fingerprint": fingerprint, "checksums": checksums, "val_checksum": zlib.crc32(val)}
        write_json(temporary / RECORD, made)


def _as_npy(logits: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, logits)
    return file.getvalue()


def read_fingerprint(folder: Path) -> str:
    """What the bank in a folder says it follows from."""
    return read_record(folder / RECORD, BankRecord).fingerprint


def open_bank(folder: Path, fingerprint: str, num_images: int, num_classes: int, views: int) -> Bank:
    """Maps a bank that is filled, after checking that it is the right one and undamaged.

    Raises:
        ConfigError: another teacher's or data set's, incomplete, or damaged.
    """
    record = read_record(folder / RECORD, BankRecord)
    if record.fingerprint != fingerprint:
        raise ConfigError(
            f"{folder}: this bank holds another teacher's or data set's answers "
            f"(fingerprint {record.fingerprint}, expected {fingerprint}); "
            "delete the folder to fill it anew"
        )
    checksums = record.checksums
    if len(checksums) < views:
        raise ConfigError(f"{folder}: the bank holds {len(checksums)} views, not {views}; a search fills the rest")
    try:
        logits = np.memmap(folder / LOGITS, np.float16, "r", shape=(views, num_images, num_classes))
        val = (folder / VAL_LOGITS).read_bytes()
        if record.val_checksum is not None and zlib.crc32(val) != record.val_checksum:
            raise ValueError(f"{VAL_LOGITS} is not what was written")
        val_logits = np.load(io.BytesIO(val), allow_pickle=False)
        if val_logits.ndim != 2 or val_logits.shape[1] != num_classes:
            raise ValueError(f"{VAL_LOGITS} has the shape {val_logits.shape}")
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and (problem := refused_by_system(error, folder)):
            raise problem from None
        raise ConfigError(f"{folder}: the bank is damaged: {error}; delete the folder to fill it anew") from None
    for view, checksum in enumerate(checksums[:views]):
        if zlib.crc32(logits[view].tobytes()) != checksum:
            raise ConfigError(f"{folder}: view {view} of the bank is damaged; delete the folder to fill it anew")
    return Bank(logits, val_logits, fingerprint)


def _start_record(folder: Path, teacher: Teacher, dataset: Dataset) -> dict[str, Any]:
    fingerprint = fingerprint_of(teacher, dataset)
    if (folder / RECORD).exists():
        found = read_record(folder / RECORD, BankRecord)
        if found.fingerprint != fingerprint:
            raise ConfigError(f"{folder}: holds the answers of another teacher; delete the folder to fill it anew")
        return read_json(folder / RECORD)
    (folder / LOGITS).unlink(missing_ok=True)
    record = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "teacher": teacher.fingerprint,
        "data": dataset.fingerprint,
        "num_images": len(dataset.train),
        "num_classes": dataset.num_classes,
        "checksums": [],
    }
    write_json(folder / RECORD, record)
    return record


def _append_views(
    folder: Path,
    record: dict[str, Any],
    answers: Answers,
    dataset: Dataset,
    views: int,
    device: torch.device,
    progress: Progress | None,
) -> None:
    num_images, num_classes = len(dataset.train), dataset.num_classes
    row_bytes = 2 * num_classes
    # From a batch's start, so that every answer comes out of the batch that an undisturbed fill would have asked in:
    # a batch of another size may round differently.
    batch = evaluation_batch(dataset.image_size)
    whole_views, rest = divmod(_rows_done(folder, num_classes), num_images)
    done = whole_views * num_images + rest // batch * batch
    with naming(folder / LOGITS), (folder / LOGITS).open("ab") as file:
        file.truncate(done * row_bytes)
        for view in range(views):
            for start in range(max(0, done - view * num_images), num_images, batch):
                file.write(_ask(answers, dataset.train.images, start, view, dataset, device).tobytes())
                file.flush()
                if progress is not None:
                    progress(min(view * num_images + start + batch, (view + 1) * num_images), views * num_images)
            if view >= len(record["checksums"]):
                block = np.memmap(
                    folder / LOGITS, np.uint8, "r", view * num_images * row_bytes, (num_images * row_bytes,)
                )
                record["checksums"].append(zlib.crc32(block.tobytes()))
                write_json(folder / RECORD, record)


def _rows_done(folder: Path, num_classes: int) -> int:
    path = folder / LOGITS
    return path.stat().st_size // (2 * num_classes) if path.exists() else 0


def _ask(
    answers: Answers, images: np.ndarray, start: int, view: int, dataset: Dataset, device: torch.device
) -> np.ndarray:
    """The teacher's float16 logits for one view of a batch of images."""
    asked = images[start : start + evaluation_batch(dataset.image_size)].copy()  # mapped images may not be written to
    batch = torch.from_numpy(asked).to(device)
    if view:
        row = torch.from_numpy(view_table(dataset.flips)[view]).to(device)
        batch = apply_views(batch, row.expand(len(batch), 3))
    answered = answers(batch)
    if answered.shape != (len(batch), dataset.num_classes):
        raise ConfigError(f"the teacher answers with {list(answered.shape[1:])} logits, not {dataset.num_classes}")
    logits: np.ndarray = answered.half().cpu().numpy()
    if not np.isfinite(logits).all():
        raise ConfigError("the teacher's logits are not finite, or beyond float16 (65504); scale its last layer down")
    return logits
