"""A trial that grows until its machine's memory runs out ends; its neighbours do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kd_tune.failures import MEMORY, explain
from kd_tune.memory import Growth, held_by_this_process

GB = 10**9


def test_only_who_grew_ends_and_only_where_memory_runs_out() -> None:
    leaking, steady = Growth(), Growth()
    free = 9 * GB
    for epoch in range(8):
        leaking.check(GB + epoch * GB, free - epoch * GB, total=16 * GB)
        steady.check(3 * GB, free - epoch * GB, total=16 * GB)
    steady.check(3 * GB, GB, total=16 * GB)
    with pytest.raises(MemoryError) as error:
        leaking.check(9 * GB, GB, total=16 * GB)
    assert "grown by 8.0 GB since the trial's first epoch, to 9.0 GB, and 1.0 of 16 GB are left" in str(error.value)
    assert explain(f"Traceback\nMemoryError: {error.value}\n").what == MEMORY


def test_where_the_system_says_nothing_nothing_is_checked(tmp_path: Path) -> None:
    growth = Growth()
    growth.check(GB, GB, total=16 * GB)
    growth.check(None, 0, total=16 * GB)
    growth.check(16 * GB, None, total=16 * GB)
    assert held_by_this_process(tmp_path / "statm") is None


def test_what_a_process_holds_is_what_it_has_written_to() -> None:
    before = held_by_this_process()
    taken = np.ones(50_000_000, dtype=np.uint8)
    after = held_by_this_process()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(taken.nbytes, rel=0.1)
