"""Which waiting requests go to a replica together, and when: a queue without I/O whose time is an argument.

The rule, as measured: take what is there at once, once a look at what has arrived finds no more of it (`is_filling`);
wait for more only where the model is slow and more than one client is active, then for at most half of the last batch's
time and only until every active client's request has come back. A lone request never waits.

What waits too long, by three rules that cost nothing while there is room:
- at the door: a request whose predicted wait passes its deadline is refused at once (`offer`);
- in the queue: what cannot be answered before its deadline any more is given up, not worked on (`Taken.expired`);
- controlled delay (after CoDel, Nichols and Jacobson 2012, and Maurer, "Fail at Scale", ACM Queue 2015): once the head
  of the queue waits longer than a target, and has for a time t in which so much has come that the last would wait for w,
  the queue stands as soon as t * w reaches the square of an interval. Until an interval in which heads waited less than
  half the target on average, whatever has waited longer than the target is given up (`Taken.shed`), and what would wait
  longer is refused at the door (`full`): a request is either answered soon or told at once to come again. The target is
  a few batches long, because a request that comes while a batch runs waits for it in the best of cases.

Whoever is let in before the queue stands waits long, and with an interval for t alone, as CoDel has it, those can be more
than one in a hundred. Here t is about interval / sqrt(k - 1) at k times what can be answered: the faster it grows the
sooner it is seen. A burst that is worked off within two intervals is never refused, however it comes: after t not more
than 2 interval - t of it waits, and t (2 interval - t) is less than the square.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Literal, TypeVar

import msgspec

from datahall.policy.concurrency import crowd_ns
from datahall.serve.pace import Pace

T = TypeVar("T")


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one queue; times in nanoseconds."""

    max_requests: int = 4096
    """Requests waiting; one more is refused."""
    max_waiting_rows: int = 200_000
    """Rows waiting in all of them; beyond it a request is refused unless it is alone."""
    max_rows: int = 256
    """Rows of one batch; a single request with more goes alone."""
    slow_ns: int = 1_000_000
    """A model whose last batch took less is not worth waiting for."""
    linger: float = 0.5
    """The part of the last batch's time that may be waited."""
    target_ns: int = 5_000_000
    """How long a request may wait while the queue stands, or `target_batches` full batches if that is longer."""
    crowd_ns: int = 200_000_000
    """How long it may wait where it is cheap: the time and the price of `concurrency.LimitView`, so that the queue does not
    shed a crowd that was let in."""
    cheap_ns: int = 150_000
    target_batches: float = 2.0
    interval_ns: int = 100_000_000
    """By this, or by twice the target if that is longer, it is judged whether the queue stands."""


class Item(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One waiting request."""

    key: T
    num_rows: int
    deadline_ns: int
    """The time from which nobody wants its answer."""
    since_ns: int
    """When it came."""


class Taken(msgspec.Struct, Generic[T], frozen=True):
    """What to do now."""

    batches: tuple[tuple[Item[T], ...], ...]
    """To send, each to another replica."""
    expired: tuple[Item[T], ...]
    """Too late to answer."""
    shed: tuple[Item[T], ...]
    """Given up because the queue stands: they should come again when it does not."""
    wake_at_ns: int | None
    """When to ask again if nothing happens."""


Offered = Literal["taken", "full", "late"]


class BatchQueue(Generic[T]):
    """The queue of one deployment. The caller tells every event with its time and carries out what `take` says."""

    def __init__(self, settings: BatchSettings | None = None) -> None:
        self.settings = settings or BatchSettings()
        self.max_rows = self.settings.max_rows
        """Rows of one batch: the settings', or the model's own cap where that is lower."""
        self._waiting: deque[Item[T]] = deque()
        self._num_rows = 0
        self._num_active = self._num_seen = 0
        self._pace = Pace()
        self._last_ns = 0
        self._crowd_ns = 0.0
        self._full_ns = 0.0
        self._linger_until_ns = 0
        self._num_replicas = 1
        """As the newest request found them."""
        self._standing = False
        self._since_ns = 0
        """While the queue stands, when this interval began; else when its head began to wait too long, 0 while it does not."""
        self._sum_waits_ns = self._num_waits = 0
        """Of the heads of the queue in this interval, while it stands."""

    def __len__(self) -> int:
        return len(self._waiting)

    def full(self, num_replicas: int) -> bool:
        """Return whether one more request would be refused while `num_replicas` answer."""
        if len(self._waiting) >= self.settings.max_requests or self._num_rows >= self.settings.max_waiting_rows:
            return True
        return self._standing and self.wait_ns(num_replicas) - self._full_ns > self._target_ns

    @property
    def standing(self) -> bool:
        """Whether more comes than can be answered, by the rule at the head of this module."""
        return self._standing

    def cap(self, max_rows: int) -> None:
        """Follow the model's own bound on the rows of a batch, beyond which a row takes longer; 0 for none known."""
        self.max_rows = min(max_rows, self.settings.max_rows) if max_rows > 0 else self.settings.max_rows
        self._full_ns = self._pace.time_ns(self.max_rows)

    def wait_ns(self, num_replicas: int) -> float:
        """Predict how long a request that comes now would wait for its answer, in a hall of `num_replicas` replicas.

        A full batch's time for each replica's share of the full batches before it, and one for its own; 0 while no
        batch has been seen. The time is the moving average of the largest batches seen, so it errs on the short side.
        """
        return (self._num_rows // self.max_rows / max(1, num_replicas) + 1.0) * self._full_ns

    def offer(self, item: Item[T], num_replicas: int) -> Offered:
        """Take a request in that came at `item.since_ns`, or say why not; `num_replicas` answer at present."""
        self._num_replicas = num_replicas
        if self._waiting:  # alone it is taken, however many rows it has and whatever is predicted
            if self._num_rows + item.num_rows > self.settings.max_waiting_rows or self.full(num_replicas):
                return "full"
            if item.since_ns + self.wait_ns(num_replicas) >= item.deadline_ns:
                return "late"
        self._waiting.append(item)
        self._num_rows += item.num_rows
        return "taken"

    def put_back(self, items: tuple[Item[T], ...]) -> None:
        """Take requests in again, in front, because their replica was lost; the bound does not apply to them."""
        self._waiting.extendleft(reversed(items))
        self._num_rows += sum(item.num_rows for item in items)

    def is_filling(self) -> bool:
        """Return whether to look again at once, once more of what has arrived is parsed, before `take`.

        Where a model is fast, most of a batch's cost is in sending it: while each look finds more requests than the one
        before, and not all clients' that were active are there, the batch still grows. A lone request is sent at once.
        """
        num_waiting, before = len(self._waiting), self._num_seen
        self._num_seen = num_waiting
        return before < num_waiting < self._num_active and self._num_rows < self.max_rows

    def take(self, now_ns: int, num_idle: int) -> Taken[T]:
        """Return what to do at `now_ns` with `num_idle` replicas that have nothing to do."""
        expired = self._expire(now_ns, num_idle)
        if not self._waiting:
            if not self._standing:
                self._since_ns = 0
            self._relent(now_ns)
            return Taken((), expired, (), None)
        if num_idle <= 0:
            return Taken((), expired, (), self._waiting[0].deadline_ns)
        if self._should_linger(now_ns):
            return Taken((), expired, (), self._linger_until_ns)
        self._linger_until_ns = 0
        shed = self._shed(now_ns)
        batches: list[tuple[Item[T], ...]] = []
        while self._waiting and len(batches) < num_idle:
            batches.append(self._next_batch())
        self._num_seen = 0
        wake = self._waiting[0].deadline_ns if self._waiting else None
        return Taken(tuple(batches), expired, shed, wake)

    def drain(self) -> tuple[Item[T], ...]:
        """Return everything that waits and forget it."""
        items, self._waiting = tuple(self._waiting), deque()
        self._num_rows = 0
        return items

    def finished(self, num_requests: int, num_rows: int, duration_ns: int, now_ns: int) -> None:
        """Learn that a batch of `num_requests` with `num_rows` took `duration_ns`."""
        self._pace.learn(num_rows, duration_ns)
        self._full_ns = self._pace.time_ns(self.max_rows)
        self._last_ns = duration_ns
        each_ns = max(1.0, duration_ns / max(1, num_requests))
        self._crowd_ns = crowd_ns(self.settings.crowd_ns, self.settings.cheap_ns, each_ns)
        self._num_active = num_requests + len(self._waiting)
        self._linger_until_ns = now_ns + int(self.settings.linger * duration_ns)

    def retry_after_s(self) -> int:
        """Return after how many whole seconds the queue as it stands should be empty, 1 to 30."""
        num_batches = 1 + len(self._waiting) // max(1, self._num_active)
        return min(30, 1 + num_batches * self._last_ns // 1_000_000_000)

    def _should_linger(self, now_ns: int) -> bool:
        if self._last_ns < self.settings.slow_ns or self._num_active <= 1 or now_ns >= self._linger_until_ns:
            return False
        return len(self._waiting) < self._num_active and self._num_rows < self.max_rows

    def _expire(self, now_ns: int, num_idle: int) -> tuple[Item[T], ...]:
        # Every request gets the same time, and `put_back` puts older ones in front: deadlines rise along the queue.
        # The last one is tried as long as it has any time left: a prediction that nothing can meet must be made anew.
        needs_ns = self._pace.time_ns(min(self._num_rows, self.max_rows)) if num_idle > 0 else 0.0
        expired = []
        while self._waiting:
            left_ns = self._waiting[0].deadline_ns - now_ns
            if left_ns > (needs_ns if len(self._waiting) > 1 else 0):
                break
            expired.append(self._pop())
        return tuple(expired)

    @property
    def _target_ns(self) -> float:
        # The average follows a model that has become slower too late, the last batch a lucky one too soon.
        batches_ns = self.settings.target_batches * max(self._full_ns, self._last_ns)
        return max(self.settings.target_ns, batches_ns, self._crowd_ns)

    @property
    def _interval_ns(self) -> float:
        return max(self.settings.interval_ns, 2 * self._target_ns)

    def _shed(self, now_ns: int) -> tuple[Item[T], ...]:
        """Watch how long the oldest has waited, and give up what has waited too long while the queue stands."""
        target_ns = self._target_ns
        waited_ns = now_ns - self._waiting[0].since_ns
        if self._standing:
            self._sum_waits_ns += waited_ns
            self._num_waits += 1
            self._relent(now_ns)
        elif waited_ns <= target_ns:
            self._since_ns = 0
        elif not self._since_ns:
            self._since_ns = now_ns
        else:
            ahead_ns = self.wait_ns(self._num_replicas) - self._full_ns
            if (now_ns - self._since_ns) * ahead_ns >= self._interval_ns**2:
                self._standing, self._since_ns = True, now_ns
        shed = []
        while self._standing and len(self._waiting) > 1 and now_ns - self._waiting[0].since_ns > target_ns:
            shed.append(self._pop())
        return tuple(shed)

    def _relent(self, now_ns: int) -> None:
        """Let the queue stand no more once an interval is over in which heads did not wait long."""
        if self._standing and now_ns - self._since_ns >= self._interval_ns:
            self._standing = 2 * self._sum_waits_ns > self._num_waits * self._target_ns
            self._since_ns = now_ns if self._standing else 0
            self._sum_waits_ns = self._num_waits = 0

    def _next_batch(self) -> tuple[Item[T], ...]:
        batch = [self._pop()]
        rows = batch[0].num_rows
        while self._waiting and rows + self._waiting[0].num_rows <= self.max_rows:
            item = self._pop()
            rows += item.num_rows
            batch.append(item)
        return tuple(batch)

    def _pop(self) -> Item[T]:
        item = self._waiting.popleft()
        self._num_rows -= item.num_rows
        return item
