"""Image files decoded once into files of raw pixels, which are mapped: the data may be larger than memory.

A folder of the cache holds `PART.u8`, the pixels of every part, and `images.json`, what was computed on the way. Its
name follows from the names, sizes and times of the image files and from what they are decoded to; labels follow from
the names, so they are not kept.

Shapes: N images of a part, C channels, S x S pixels.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from kd_tune.data.dataset import Images, Mapped, normalisation_of
from kd_tune.errors import ConfigError
from kd_tune.paths import Record, cache_folder, read_record, write_json, written_whole
from kd_tune.turns import lock_of, turn

RECORD = "images.json"
FORMAT = 2  # raised when the same file is decoded to other pixels, so that old caches are not taken
CHUNK = 64  # images that wait for their turn to be written, at most
REPORT_SECONDS = 5.0


class DecodedRecord(Record):
    """`images.json`: fingerprint of all parts, and normalisation of the first."""

    fingerprint: str
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


@dataclass(frozen=True)
class Files:
    """The image files of a part in the order in which they are stored.

    Attributes:
        paths: of the files.
        labels: `[N]` int64 class numbers.
    """

    paths: list[str]
    labels: np.ndarray


def decoded(root: Path, parts: Mapping[str, Files], image_size: int, channels: int) -> tuple[dict[str, Images], Mapped]:
    """The parts of a data set, mapped from the cache; decoded first if they are not there.

    Args:
        root: the folder that the paths of all files start with; where it lies makes no difference.
        parts: `train` and others, or one alone.
        image_size: pixels a side, S.
        channels: 1 or 3, C.

    Returns:
        Images `[N, C, S, S]` by part, read-only; and what was computed while they were decoded.

    Raises:
        ConfigError: a file cannot be decoded, the disk is full, or the cache is damaged.
    """
    shape = (channels, image_size, image_size)
    folder = cache_folder() / "images" / _key(root, parts, shape)
    if not (folder / RECORD).exists():
        with turn(lock_of(folder), f"decoding the images of {root}", _say):
            if not (folder / RECORD).exists():
                _decode(folder, parts, shape)
    record = read_record(folder / RECORD, DecodedRecord)
    images = {name: _map(folder / f"{name}.u8", part.labels, shape) for name, part in parts.items()}
    return images, Mapped(record.fingerprint, {"mean": record.mean, "std": record.std})


def _key(root: Path, parts: Mapping[str, Files], shape: tuple[int, ...]) -> str:
    """A name for what will be decoded, without reading it."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for name, files in parts.items():
        digest.update(repr((name, len(files.paths))).encode())
        for path in files.paths:
            try:
                status = os.stat(path)
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
            digest.update(repr((os.path.relpath(path, root), status.st_size, status.st_mtime_ns)).encode())
    return f"{shape[0]}x{shape[1]}-{digest.hexdigest()[:16]}"


def _decode(folder: Path, parts: Mapping[str, Files], shape: tuple[int, int, int]) -> None:
    """Decodes all files in one pass; memory holds no more than CHUNK images."""
    for orphan in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed; large, and nobody's
        shutil.rmtree(orphan, ignore_errors=True)
    total = sum(len(files.paths) for files in parts.values())
    _check_space(folder.parent, total * math.prod(shape))
    progress = _Progress(total)
    digest = hashlib.sha256()
    counts = {name: np.zeros((shape[0], 256), np.int64) for name in parts}
    with written_whole(folder) as temporary:
        temporary.mkdir()
        for name, files in parts.items():
            digest.update(repr((len(files.paths), *shape)).encode())
            with (temporary / f"{name}.u8").open("wb") as file:
                for image in _read_all(files.paths, shape):
                    file.write(image.data)
                    digest.update(image.data)
                    counts[name] += [np.bincount(channel.ravel(), minlength=256) for channel in image]
                    progress.advance()
            digest.update(files.labels.data)
        normalisation = normalisation_of(list(counts[next(iter(parts))]))
        write_json(temporary / RECORD, {"format": FORMAT, "fingerprint": digest.hexdigest()[:16], **normalisation})


def _read_all(paths: list[str], shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Every image `[C, S, S]`, in order; threads decode ahead (Pillow lets go of the interpreter's lock)."""
    read = partial(_read, transform=_to_square(shape[1]), mode="L" if shape[0] == 1 else "RGB")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(read, paths[start : start + CHUNK])


def _to_square(image_size: int) -> Any:
    """The shorter side takes the size; what the longer one has more is cut off evenly at both ends."""
    from torchvision import transforms

    return transforms.Compose([transforms.Resize(image_size), transforms.CenterCrop(image_size)])


def _read(path: str, transform: Any, mode: str) -> np.ndarray:
    """One image, `[C, S, S]` uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)  # cameras store how the picture is to be turned
            pixels = np.asarray(transform(_on_black(_to_8_bits(image)).convert(mode)))
    except Exception as error:  # Pillow's readers raise what they like on a damaged file
        raise ConfigError(f"{path}: cannot be decoded: {error}") from None
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def _to_8_bits(image: Any) -> Any:
    """Grey of 16 bits keeps its upper 8, where Pillow's convert would clip what is above 255 to white."""
    from PIL import Image

    # Pillow gives 16 bits as I where it reads PGM, and did so for PNG; elsewhere I is 32 bits.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        if image.mode in ("I", "F"):
            raise ValueError(
                f"pixels of 32 bits have no known range (mode {image.mode}); save it with 8 or 16 bits a channel"
            )
        return image
    grey = np.array(image)
    if "transparency" in image.info:  # the one grey that a PNG declares transparent
        grey[grey == image.info["transparency"]] = 0
    return Image.fromarray((grey >> 8).astype(np.uint8))


def _on_black(image: Any) -> Any:
    """Transparent pixels become black: what colour hides there is chance, and convert would bring it out."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    background = Image.new("RGB", image.size)
    background.paste(image, mask=image)
    return background


def _map(path: Path, labels: np.ndarray, shape: tuple[int, int, int]) -> Images:
    """A file of pixels as images; read-only, because Linux refuses writable maps that are larger than its memory."""
    expected = len(labels) * math.prod(shape)
    try:
        if path.stat().st_size != expected:
            raise ValueError(f"it holds {path.stat().st_size} bytes, not {expected}")
        return Images(np.asarray(np.memmap(path, np.uint8, "r", shape=(len(labels), *shape))), labels, path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is damaged: {error}; delete the folder to decode the images anew") from None


def _check_space(folder: Path, needed: int) -> None:
    """Decoding may take hours: whether there is room for the result is known before."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder}: the decoded images take {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
            "make room, or set KD_TUNE_CACHE to another disk"
        )


class _Progress:
    """A line on standard error now and then, if the work takes longer than that."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total
        self._began = self._shown = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._shown >= REPORT_SECONDS:
            self._shown = now
            left = (now - self._began) / self._done * (self._total - self._done)
            _say(f"decoding images, once: {self._done}/{self._total}, {left:.0f} s left")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
