"""Which waiting requests go to a replica together, and when: a queue without I/O whose time is an argument.

The rule, as measured: take what is there at once; wait for more only where the model is slow and more than
one client is active, then for at most half of the last batch's time and only until every active client's request has
come back. A lone request never waits.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one queue; times in nanoseconds."""

    max_requests: int = 512
    """Requests waiting; one more is refused."""
    max_waiting_rows: int = 200_000
    """Rows waiting in all of them; beyond it a request is refused unless it is alone."""
    max_rows: int = 256
    """Rows of one batch; a single request with more goes alone."""
    slow_ns: int = 1_000_000
    """A model whose last batch took less is not worth waiting for."""
    linger: float = 0.5
    """The part of the last batch's time that may be waited."""


class Item(msgspec.Struct, Generic[T], frozen=True):
    """One waiting request; `deadline_ns` is the time from which nobody wants its answer."""

    key: T
    num_rows: int
    deadline_ns: int


class Taken(msgspec.Struct, Generic[T], frozen=True):
    """What to do now: batches to send, requests too late to answer, and when to ask again if nothing happens."""

    batches: tuple[tuple[Item[T], ...], ...]
    expired: tuple[Item[T], ...]
    wake_at_ns: int | None


class BatchQueue(Generic[T]):
    """The queue of one deployment. The caller tells every event with its time and carries out what `take` says."""

    def __init__(self, settings: BatchSettings | None = None) -> None:
        self.settings = settings or BatchSettings()
        self._waiting: deque[Item[T]] = deque()
        self._num_rows = 0
        self._num_active = 0
        self._last_ns = 0
        self._linger_until_ns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        return len(self._waiting) >= self.settings.max_requests or self._num_rows >= self.settings.max_waiting_rows

    def offer(self, item: Item[T]) -> bool:
        """Take a request in; False where the queue is full."""
        crowded = self._waiting and self._num_rows + item.num_rows > self.settings.max_waiting_rows
        if self.full or crowded:
            return False
        self._waiting.append(item)
        self._num_rows += item.num_rows
        return True

    def put_back(self, items: tuple[Item[T], ...]) -> None:
        """Take requests in again, in front, because their replica was lost; the bound does not apply to them."""
        self._waiting.extendleft(reversed(items))
        self._num_rows += sum(item.num_rows for item in items)

    def take(self, now_ns: int, num_idle: int) -> Taken[T]:
        """Return what to do at `now_ns` with `num_idle` replicas that have nothing to do."""
        expired = self._expire(now_ns)
        if not self._waiting:
            return Taken((), expired, None)
        if num_idle <= 0:
            return Taken((), expired, self._waiting[0].deadline_ns)
        if self._should_linger(now_ns):
            return Taken((), expired, self._linger_until_ns)
        self._linger_until_ns = 0
        batches: list[tuple[Item[T], ...]] = []
        while self._waiting and len(batches) < num_idle:
            batches.append(self._next_batch())
        wake = self._waiting[0].deadline_ns if self._waiting else None
        return Taken(tuple(batches), expired, wake)

    def drain(self) -> tuple[Item[T], ...]:
        """Return everything that waits and forget it."""
        items, self._waiting = tuple(self._waiting), deque()
        self._num_rows = 0
        return items

    def finished(self, num_requests: int, duration_ns: int, now_ns: int) -> None:
        """Learn that a batch of `num_requests` took `duration_ns`."""
        self._last_ns = duration_ns
        self._num_active = num_requests + len(self._waiting)
        self._linger_until_ns = now_ns + int(self.settings.linger * duration_ns)

    def retry_after_s(self) -> int:
        """Return after how many whole seconds the queue as it stands should be empty, 1 to 30."""
        num_batches = 1 + len(self._waiting) // max(1, self._num_active)
        return min(30, 1 + num_batches * self._last_ns // 1_000_000_000)

    def _should_linger(self, now_ns: int) -> bool:
        if self._last_ns < self.settings.slow_ns or self._num_active <= 1 or now_ns >= self._linger_until_ns:
            return False
        return len(self._waiting) < self._num_active and self._num_rows < self.settings.max_rows

    def _expire(self, now_ns: int) -> tuple[Item[T], ...]:
        # Every request gets the same time, and `put_back` puts older ones in front: deadlines rise along the queue.
        expired = []
        while self._waiting and self._waiting[0].deadline_ns <= now_ns:
            expired.append(self._pop())
        return tuple(expired)

    def _next_batch(self) -> tuple[Item[T], ...]:
        batch = [self._pop()]
        rows = batch[0].num_rows
        while self._waiting and rows + self._waiting[0].num_rows <= self.settings.max_rows:
            item = self._pop()
            rows += item.num_rows
            batch.append(item)
        return tuple(batch)

    def _pop(self) -> Item[T]:
        item = self._waiting.popleft()
        self._num_rows -= item.num_rows
        return item
