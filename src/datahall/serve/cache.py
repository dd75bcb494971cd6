"""The response cache of one gateway: results that are given again to the same team for the same input.

W-TinyLFU (Einziger, Friedman, Manes 2017), counted in bytes: newcomers enter a window of one percent, and leave it for
the main part, a segmented LRU, only where `policy.cache` finds them worth more than what would have to go.

Of a person it holds none but what goes by itself: no inputs, for keys are their digests under a random key of the process,
and results in memory only, within `max_bytes`, for the seconds of their route at most (`tick`), and never longer than
their deployment (`keep_only`). Nothing is shared between teams. Threads: one.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final, Generic, TypeVar

import msgspec

from datahall.policy import cache as policy
from datahall.serve.decisions import PolicyLog
from datahall.serve.sketch import FrequencySketch

MAX_CACHE_BYTES = 32 << 20
ENTRY_BYTES: Final = 900
"""What an entry costs beside its value: key, places in three dictionaries and the queue of expiry."""
WINDOW_SHARE, PROTECTED_SHARE = 0.01, 0.8
"""Of all bytes; and of the main part's, for what was asked for again while it was there."""
_SAMPLES_PER_ENTRY: Final = 10
_MIN_ENTRIES: Final = 512
_EVICTED: Final = policy.Evicted()

Value = TypeVar("Value")


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache has done since it was made, and what it holds."""

    num_hits: int
    num_misses: int
    num_admitted: int
    """Of the contests for room in the main part."""
    num_rejected: int
    num_expired: int
    num_entries: int
    num_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of look-ups that were answered, 0.0 without any."""
        return self.num_hits / max(1, self.num_hits + self.num_misses)


class _Entry(Generic[Value]):
    __slots__ = ("deployment", "expires_at_ns", "key", "num_bytes", "part", "stored_at_ns", "value")

    def __init__(
        self, key: bytes, value: Value, num_bytes: int, deployment: str, stored_at_ns: int, expires_at_ns: int
    ) -> None:
        self.key, self.value, self.num_bytes, self.deployment = key, value, num_bytes, deployment
        self.stored_at_ns, self.expires_at_ns = stored_at_ns, expires_at_ns
        self.part: _Part[Value]


class _Part(Generic[Value]):
    """One LRU list with its bytes; the least recently used entry comes first."""

    __slots__ = ("entries", "max_bytes", "num_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.entries: OrderedDict[bytes, _Entry[Value]] = OrderedDict()
        self.max_bytes, self.num_bytes = max_bytes, 0

    def add(self, entry: _Entry[Value]) -> None:
        self.entries[entry.key] = entry
        self.num_bytes += entry.num_bytes
        entry.part = self

    def remove(self, entry: _Entry[Value]) -> None:
        del self.entries[entry.key]
        self.num_bytes -= entry.num_bytes

    def oldest(self) -> _Entry[Value]:
        return next(iter(self.entries.values()))


class ResponseCache(Generic[Value]):
    """Keeps values under digests, at most `max_bytes` of them as `num_bytes` and ENTRY_BYTES count."""

    def __init__(
        self,
        max_bytes: int = MAX_CACHE_BYTES,
        *,
        draw: Callable[[], float] = random.random,
        log: PolicyLog | None = None,
        secret: bytes | None = None,
    ) -> None:
        """`secret` keys the digests; by default nobody can know it."""
        self._secret = secret or os.urandom(32)
        self._draw, self._log = draw, log
        self._window: _Part[Value] = _Part(int(max_bytes * WINDOW_SHARE))
        self._probation: _Part[Value] = _Part(max_bytes - self._window.max_bytes)
        """Its bound is that of the whole main part, of which the protected one may take a share."""
        self._protected: _Part[Value] = _Part(int(self._probation.max_bytes * PROTECTED_SHARE))
        self._entries: dict[bytes, _Entry[Value]] = {}
        self._expiry: list[tuple[int, bytes]] = []
        self._sketch = FrequencySketch(max(_MIN_ENTRIES, max_bytes // (2 * ENTRY_BYTES)))
        self._num_hits = self._num_misses = self._num_admitted = self._num_rejected = self._num_expired = 0

    def scope(self, *parts: str) -> Scope:
        """Return what makes keys for one team's requests for one bundle in one form; `parts` name them."""
        return Scope(self._secret, parts)

    def get(self, key: bytes, *, seconds: float, now_ns: int) -> Value | None:
        """Return what was put under `key` less than `seconds` ago, None if there is nothing. Monotonic nanoseconds."""
        self._sketch.add(key)
        entry = self._entries.get(key)
        if entry is None:
            self._num_misses += 1
            return None
        if now_ns >= entry.expires_at_ns or now_ns - entry.stored_at_ns >= seconds * 1e9:
            self._num_misses += 1
            self._num_expired += 1
            self._forget(entry)
            return None
        self._num_hits += 1
        if entry.part is self._probation:
            self._protect(entry)
        else:
            entry.part.entries.move_to_end(key)
        return entry.value

    def put(self, key: bytes, value: Value, *, num_bytes: int, deployment: str, seconds: float, now_ns: int) -> None:
        """Offer a value of `num_bytes`; whether it stays is decided by how often its key is asked for."""
        if (old := self._entries.get(key)) is not None:
            self._forget(old)
        expires_at_ns = now_ns + int(seconds * 1e9)
        entry = _Entry(key, value, num_bytes + ENTRY_BYTES, deployment, now_ns, expires_at_ns)
        self._entries[key] = entry
        heapq.heappush(self._expiry, (expires_at_ns, key))
        if entry.num_bytes > self._window.max_bytes:  # it would empty the window and leave it all the same
            self._contest(entry, now_ns)
        else:
            self._window.add(entry)
            while self._window.num_bytes > self._window.max_bytes:
                candidate = self._window.oldest()
                self._window.remove(candidate)
                self._contest(candidate, now_ns)
        if self._sketch.num_added >= _SAMPLES_PER_ENTRY * max(_MIN_ENTRIES, len(self._entries)):
            self._sketch.halve()
        if len(self._expiry) > 2 * len(self._entries) + _MIN_ENTRIES:  # mostly of what went before it expired
            self._expiry = [(each.expires_at_ns, each.key) for each in self._entries.values()]
            heapq.heapify(self._expiry)

    def tick(self, now_ns: int) -> None:
        """Forget what has expired; called ten times a second."""
        while self._expiry and self._expiry[0][0] <= now_ns:
            _, key = heapq.heappop(self._expiry)
            entry = self._entries.get(key)
            if entry is not None and entry.expires_at_ns <= now_ns:
                self._num_expired += 1
                self._forget(entry)

    def keep_only(self, deployments: Collection[str]) -> None:
        """Forget what other deployments answered."""
        for entry in [each for each in self._entries.values() if each.deployment not in deployments]:
            self._forget(entry)

    def stats(self) -> CacheStats:
        """Return what the cache has done and holds."""
        return CacheStats(
            num_hits=self._num_hits,
            num_misses=self._num_misses,
            num_admitted=self._num_admitted,
            num_rejected=self._num_rejected,
            num_expired=self._num_expired,
            num_entries=len(self._entries),
            num_bytes=self._window.num_bytes + self._num_main_bytes,
        )

    @property
    def _num_main_bytes(self) -> int:
        return self._probation.num_bytes + self._protected.num_bytes

    def _forget(self, entry: _Entry[Value]) -> None:
        entry.part.remove(entry)
        del self._entries[entry.key]

    def _protect(self, entry: _Entry[Value]) -> None:
        self._probation.remove(entry)
        self._protected.add(entry)
        while self._protected.num_bytes > self._protected.max_bytes:
            oldest = self._protected.oldest()
            self._protected.remove(oldest)
            self._probation.add(oldest)

    def _contest(self, entry: _Entry[Value], now_ns: int) -> None:
        """Put an entry that is in no part into the main one, or forget it."""
        free = self._probation.max_bytes - self._num_main_bytes
        if entry.num_bytes > free:
            candidate, draw = self._contender(entry), self._draw()
            victims = self._victims(candidate, free, now_ns, lucky=draw < policy.LUCKY_DRAW)
            view = policy.CacheView(candidate, free, tuple(self._contender(victim) for victim in victims))
            answered = policy.decide(None, view, _EVICTED, now_ns, draw)
            if self._log is not None and self._log.due():
                self._log.keep((None, view, _EVICTED, now_ns, draw), answered)
            if not answered[1]:
                self._num_rejected += 1
                del self._entries[entry.key]
                return
            self._num_admitted += 1
            for victim in victims:
                self._forget(victim)
        self._probation.add(entry)

    def _victims(self, candidate: policy.Contender, free: int, now_ns: int, *, lucky: bool) -> list[_Entry[Value]]:
        """Return who would go, the least recently used first; ends early where the candidate cannot win any more."""
        found: list[_Entry[Value]] = []
        frequency = 0
        lucky = lucky and candidate.frequency >= policy.LUCKY_FREQUENCY
        for part in (self._probation, self._protected):
            for victim in part.entries.values():
                if free >= candidate.num_bytes or (frequency >= candidate.frequency and not lucky):
                    return found
                found.append(victim)
                free += victim.num_bytes
                if victim.expires_at_ns > now_ns:
                    frequency += self._sketch.estimate(victim.key)
        return found

    def _contender(self, entry: _Entry[Value]) -> policy.Contender:
        return policy.Contender(self._sketch.estimate(entry.key), entry.num_bytes, entry.expires_at_ns)


class Scope:
    """Makes keys from inputs: digests that begin with who asks and what answers, so that no two scopes share one."""

    __slots__ = ("_prefix",)

    def __init__(self, secret: bytes, parts: tuple[str, ...]) -> None:
        named = msgspec.msgpack.encode(parts)  # which tells ("a", "bc") from ("ab", "c")
        self._prefix = hmac.digest(secret, named, "sha256")

    def key(self, body: bytes) -> bytes:
        """Return the key of an input's exact bytes, 16 bytes long: SHA-256 behind a secret prefix of 32 bytes.

        It never leaves the process, so nobody can search for two inputs that share one.
        """
        return hashlib.sha256(self._prefix + body).digest()[:16]
