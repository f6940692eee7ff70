"""Items made ahead: the same ones, in order, with the source's errors, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from kd_tune.prefetch import prefetched


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")}


def wait_for_threads_to_end() -> None:
    for _ in range(200):
        if not threads():
            return
        time.sleep(0.01)
    raise AssertionError(f"still alive: {threads()}")


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_same_items_come_in_order(depth: int, count: int) -> None:
    assert list(prefetched(iter(range(count)), depth)) == list(range(count))
    wait_for_threads_to_end()


def test_a_none_is_an_item_like_others() -> None:
    assert list(prefetched(iter([None, 0, None]))) == [None, 0, None]


def test_items_are_made_by_another_thread_and_no_further_ahead_than_asked() -> None:
    made: list[int] = []

    def source() -> Iterator[str]:
        for number in range(10):
            made.append(number)
            yield threading.current_thread().name

    with closing(prefetched(source(), depth=2)) as items:
        assert next(items).startswith("prefetch")
        for _ in range(200):
            if len(made) == 3:
                break
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2], "one was taken, two are ready"


def test_an_error_of_the_source_comes_in_place_of_its_item() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = prefetched(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    wait_for_threads_to_end()


def test_the_thread_ends_when_the_consumer_stops_early() -> None:
    items = prefetched(iter(range(1000)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    assert threads()
    items.close()  # type: ignore[attr-defined]
    wait_for_threads_to_end()


def test_the_thread_ends_when_the_consumer_fails() -> None:
    def consume() -> None:
        for _ in prefetched(iter(range(1000))):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    wait_for_threads_to_end()
