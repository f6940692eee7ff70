"""Image files whose pixels are more than 8 bits, turned, or partly transparent: values worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_tune.data import decoded
from kd_tune.data.decoded import Files
from kd_tune.errors import ConfigError
from kd_tune.paths import CACHE_VARIABLE

ORIENTATION = 0x0112  # the Exif tag


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def pixels(path: Path, channels: int, image_size: int = 2) -> list[list[list[int]]]:
    """What a file of that size is decoded to, `[C, S, S]`."""
    part = Files([str(path)], np.zeros(1, np.int64))
    images, _ = decoded.decoded(path.parent, {"train": part}, image_size, channels)
    return images["train"].images[0].tolist()


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.ppm"])
def test_16_bits_are_scaled_to_8_not_clipped(name: str, tmp_path: Path) -> None:
    grey = np.array([[255, 256], [32768, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / name)
    scaled = [[0, 1], [128, 255]]
    assert pixels(tmp_path / name, 1) == [scaled]
    assert pixels(tmp_path / name, 3) == [scaled] * 3


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_pixels_of_no_known_range_are_refused_by_name(mode: str, dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1], [2, 3]], dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(ConfigError, match=rf"deep\.tif: cannot be decoded: .*32 bits .*\(mode {mode}\).*save it with"):
        pixels(tmp_path / "deep.tif", 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_turned_image_is_decoded_as_it_is_shown(dtype: type, tmp_path: Path) -> None:
    unit = np.iinfo(dtype).max // 255
    image = Image.fromarray((np.array([[10, 20], [30, 40]]) * unit).astype(dtype))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown, it is turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    assert pixels(tmp_path / "turned.png", 1) == [[[30, 10], [40, 20]]]


def test_transparent_pixels_are_black_whatever_colour_hides_there(tmp_path: Path) -> None:
    """Half transparent, 200 is 200 * 128 / 255 = 100.4."""
    rgba = np.array([[[200, 100, 50, 0], [200, 100, 50, 255]], [[200, 0, 200, 128], [9, 9, 9, 255]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "colour.png")
    expected = [[[0, 200], [100, 9]], [[0, 100], [0, 9]], [[0, 50], [100, 9]]]
    assert pixels(tmp_path / "colour.png", 3) == expected


def test_transparent_grey_is_black(tmp_path: Path) -> None:
    grey = np.array([[[200, 0], [200, 255]], [[200, 128], [9, 255]]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png", 1) == [[[0, 200], [100, 9]]]


@pytest.mark.parametrize("name", ["palette.png", "palette.gif"])
def test_a_transparent_entry_of_a_palette_is_black(name: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image.putpalette([250, 240, 230, 70, 80, 90])
    image.save(tmp_path / name, transparency=0)
    assert pixels(tmp_path / name, 3) == [[[0, 70], [70, 0]], [[0, 80], [80, 0]], [[0, 90], [90, 0]]]


def test_one_16_bit_grey_may_stand_for_transparent(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 256], [65535, 32768]], np.uint16)).save(tmp_path / "key.png", transparency=65535)
    assert pixels(tmp_path / "key.png", 1) == [[[0, 1], [0, 128]]]
