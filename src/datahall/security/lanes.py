"""Work on several pieces at once, results in order: compression, encryption and requests let Python go on meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")

NUM_LANES: Final = 4
"""How many pieces are under way at once; that many are in memory, besides the one that was handed out."""


def in_order(work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """Yield `work(item)` for every item, in order, with NUM_LANES of them under way at most.

    A single item is worked on here, without a thread. Raises what `items` or `work` raises, once what was begun has ended.
    """
    source = iter(items)
    first = list(_take(source, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    waiting: deque[Future[Done]] = deque(_pool().submit(work, item) for item in first)
    try:
        for item in source:
            if len(waiting) >= NUM_LANES:
                yield waiting.popleft().result()
            waiting.append(_pool().submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # an error or a reader that leaves: nothing works on behind the caller's back
            if not future.cancel():
                future.exception()


def _take(source: Iterator[Item], num: int) -> Iterator[Item]:
    for _, item in zip(range(num), source, strict=False):
        yield item


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_LANES, thread_name_prefix="blobs")
