"""Work done ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def prefetched(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, each made by one thread before the consumer asks for it.

    An exception of the source comes to the consumer in place of the item. The thread ends with the last item, or when
    the consumer closes this generator.

    Args:
        items: the source; only the thread touches it.
        depth: how many items are made ahead; so many more than the consumer's own are in memory.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead: deque[Future[T]] = deque(thread.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := ahead.popleft().result()) is not _END:
                ahead.append(thread.submit(next, items, _END))
                yield item
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
