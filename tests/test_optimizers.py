"""Schedules: the shape of each, and that none leaves the range from nothing to the peak."""

from __future__ import annotations

import pytest

from kd_tune.optimizers import SCHEDULES


def test_one_cycle_rises_in_a_line_for_a_quarter_and_falls_along_a_cosine() -> None:
    rate = SCHEDULES["one_cycle"]
    assert rate(0.0) == pytest.approx(1 / 25)
    assert rate(0.125) == pytest.approx(0.52)
    assert rate(0.25) == pytest.approx(1.0)
    assert rate(0.25 - 1e-9) == pytest.approx(1.0)
    assert rate(0.625) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.0, abs=1e-12)


def test_cosine_falls_from_one_to_zero_and_constant_does_not() -> None:
    assert [SCHEDULES["cosine"](p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert SCHEDULES["cosine"](1 / 3) == pytest.approx(0.75)
    assert [SCHEDULES["constant"](p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_between_nothing_and_the_peak(name: str) -> None:
    values = [SCHEDULES[name](step / 1000) for step in range(1001)]
    assert min(values) >= 0
    assert max(values) == pytest.approx(1.0)
