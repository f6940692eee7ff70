"""The finite set of views: which there are, in which order, and what each does to an image.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_tune.augment import MAX_SHIFT, apply_views, view_table

both_kinds = pytest.mark.parametrize("flips", [True, False])


def moved(image: np.ndarray, flip: int, dy: int, dx: int) -> np.ndarray:
    """One image `[C, H, W]`, pixel by pixel: mirrored if `flip`, then moved by dy rows and dx columns over black."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row, source_column = row - dy, column - dx
            if 0 <= source_row < height and 0 <= source_column < width:
                result[:, row, column] = image[:, source_row, width - 1 - source_column if flip else source_column]
    return result


def one_pixel(row: int, column: int, size: int = 12) -> Tensor:
    """An image `[1, 1, H, W]` that is black but for one pixel."""
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[0, 0, row, column] = 255
    return image


def seen(image: Tensor, view: tuple[int, int, int]) -> Tensor:
    return apply_views(image, torch.tensor([view]))


@pytest.mark.parametrize(("flips", "count"), [(True, 162), (False, 81)])
def test_there_is_every_view_once(flips: bool, count: int) -> None:
    table = view_table(flips)
    assert table.shape == (count, 3)
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    expected = {(flip, dy, dx) for flip in range(1 + flips) for dy in shifts for dx in shifts}
    assert {tuple(map(int, view)) for view in table} == expected
    assert len(expected) == count


def test_the_first_views_are_the_clean_image_its_mirror_image_and_then_shifts() -> None:
    table = view_table(flips=True).tolist()
    assert table[:2] == [[0, 0, 0], [1, 0, 0]]
    assert all((dy, dx) != (0, 0) for _, dy, dx in table[2:])


def test_without_flips_the_clean_image_is_first_and_nothing_is_mirrored() -> None:
    table = view_table(flips=False)
    assert table[0].tolist() == [0, 0, 0]
    assert not table[:, 0].any()


def test_every_shift_comes_in_one_orientation_before_any_comes_in_the_other() -> None:
    table = view_table(flips=True)[2:]
    first, second = table[:80], table[80:]
    assert len({(dy, dx) for _, dy, dx in first.tolist()}) == 80
    assert np.array_equal(first[:, 1:], second[:, 1:])
    assert np.array_equal(first[:, 0], 1 - second[:, 0])


@both_kinds
@pytest.mark.parametrize("count", [8, 16, 32, 64])
def test_a_prefix_is_spread_over_all_directions(flips: bool, count: int) -> None:
    """The mean of so many random shifts strays by 2.6 / sqrt(count) pixels; the walk's by 0.6 of that at most."""
    shifts = view_table(flips)[:count, 1:]
    assert np.abs(shifts.mean(0)).max() < 0.6 * 2.6 / count**0.5
    assert shifts.min() <= -3
    assert shifts.max() >= 3


def test_the_order_is_the_one_that_banks_on_disk_were_filled_in() -> None:
    """Another order would give every stored bank's answers to the wrong views.

    By hand: the walk over the 9 x 9 cells starts at 40, the centre, in steps of 31: 71, 21, 52, 2, 33, 64.
    """
    assert view_table(flips=True)[:8].tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 3, 4],
        [1, -2, -1],
        [0, 1, 3],
        [1, -4, -2],
        [0, -1, 2],
        [1, 3, -3],
    ]


def test_an_image_is_moved_down_by_dy_rows() -> None:
    assert torch.equal(seen(one_pixel(5, 6), (0, 2, 0)), one_pixel(7, 6))
    assert torch.equal(seen(one_pixel(5, 6), (0, -3, 0)), one_pixel(2, 6))


def test_an_image_is_moved_right_by_dx_columns() -> None:
    assert torch.equal(seen(one_pixel(5, 6), (0, 0, 4)), one_pixel(5, 10))
    assert torch.equal(seen(one_pixel(5, 6), (0, 0, -1)), one_pixel(5, 5))


def test_an_image_is_mirrored_left_to_right_before_it_is_moved() -> None:
    assert torch.equal(seen(one_pixel(5, 2), (1, 0, 0)), one_pixel(5, 9))
    assert torch.equal(seen(one_pixel(5, 2), (1, 1, 2)), one_pixel(6, 11))


def test_what_comes_in_from_outside_is_black() -> None:
    white = torch.full((1, 1, 12, 12), 255, dtype=torch.uint8)
    result = seen(white, (0, 4, -3))[0, 0]
    assert not result[:4].any()
    assert not result[:, -3:].any()
    assert bool((result[4:, :-3] == 255).all())


@both_kinds
def test_every_view_of_the_table_is_that_of_the_slow_reference(flips: bool) -> None:
    image = np.random.RandomState(0).randint(1, 256, (3, 9, 9)).astype(np.uint8)
    table = view_table(flips)
    batch = torch.from_numpy(image).expand(len(table), -1, -1, -1)
    expected = np.stack([moved(image, *view) for view in table.tolist()])
    assert np.array_equal(apply_views(batch, torch.from_numpy(table)).numpy(), expected)


@given(
    seed=st.integers(0, 2**31),
    views=st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_every_image_of_a_batch_gets_its_own_view(
    seed: int, views: list[tuple[int, int, int]], channels: int, height: int, width: int, dtype: type
) -> None:
    images: np.ndarray = (
        np.random.RandomState(seed).randint(0, 256, (len(views), channels, height, width)).astype(dtype)
    )
    result = apply_views(torch.from_numpy(images), torch.tensor(views))
    expected = np.stack([moved(image, *view) for image, view in zip(images, views, strict=True)])
    assert result.numpy().dtype == dtype
    assert np.array_equal(result.numpy(), expected)


def test_images_given_are_left_as_they_were() -> None:
    images = torch.randint(0, 256, (4, 3, 9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = images.clone()
    apply_views(images, torch.tensor([[1, 2, 3]] * 4)).fill_(7)
    assert torch.equal(images, before)
