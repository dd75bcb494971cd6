"""What the response cache keeps and what it costs: its hit rate beside LRU's and the optimum, and microseconds a call.

The optimum is Belady's (1966): it knows the future, and no cache can do better on equally large entries. It also says
what a decision costs that is not logged, because that is what every request pays.
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import tempfile
import timeit
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

from datahall.serve.cache import ENTRY_BYTES, ResponseCache
from datahall.serve.decisions import DecisionFiles

NUM_KEYS, NUM_REQUESTS = 20_000, 100_000
VALUE_BYTES = 300
ENTRY = ENTRY_BYTES + VALUE_BYTES
BODY = b'{"rows": [%b]}' % (b"0.125, " * 60)


def trace(skew: float, *, seed: int, scans: bool) -> list[bytes]:
    """Return requests by Zipf's law; with `scans`, a third is for keys that are asked for once."""
    rng = random.Random(seed)  # noqa: S311  a workload, no secret
    keys = [rng.randbytes(16) for _ in range(NUM_KEYS)]
    weights = list(accumulate(1 / (rank + 1) ** skew for rank in range(NUM_KEYS)))
    asked = rng.choices(keys, cum_weights=weights, k=NUM_REQUESTS)
    return [rng.randbytes(16) if scans and number % 3 == 0 else key for number, key in enumerate(asked)]


def ours(asked: list[bytes], num_entries: int) -> float:
    """Return the hit rate of the response cache with room for so many entries."""
    cache: ResponseCache[bytes] = ResponseCache(num_entries * ENTRY, draw=random.Random(1).random, secret=bytes(16))  # noqa: S311  a workload
    for key in asked:
        if cache.get(key, seconds=1e6, now_ns=0) is None:
            cache.put(key, key, num_bytes=VALUE_BYTES, deployment="dep", seconds=1e6, now_ns=0)
    return cache.stats().hit_rate


def lru(asked: list[bytes], num_entries: int) -> float:
    """Return the hit rate of keeping what was asked for last."""
    held: OrderedDict[bytes, None] = OrderedDict()
    num_hits = 0
    for key in asked:
        if key in held:
            num_hits += 1
            held.move_to_end(key)
            continue
        held[key] = None
        if len(held) > num_entries:
            held.popitem(last=False)
    return num_hits / len(asked)


def optimum(asked: list[bytes], num_entries: int) -> float:
    """Return the hit rate of giving up what will be asked for last of all (Belady)."""
    following: list[int] = [0] * len(asked)
    seen: dict[bytes, int] = {}
    for number in range(len(asked) - 1, -1, -1):
        following[number] = seen.get(asked[number], len(asked) + number)
        seen[asked[number]] = number
    held: dict[bytes, int] = {}
    farthest: list[tuple[int, bytes]] = []
    num_hits = 0
    for number, key in enumerate(asked):
        num_hits += key in held
        held[key] = following[number]
        heapq.heappush(farthest, (-following[number], key))
        while len(held) > num_entries:
            at, last = heapq.heappop(farthest)
            if held.get(last) == -at:  # else it was asked for since
                del held[last]
    return num_hits / len(asked)


def us_per_call() -> dict[str, float]:
    """Return what each step costs: the best of many short rounds, for others use this machine too."""
    cache: ResponseCache[int] = ResponseCache(2_000 * ENTRY, secret=bytes(16))
    known, strangers, newcomers = ([bytes([kind]) + os.urandom(15) for _ in range(1_000)] for kind in range(3))
    for key in known:
        for _ in range(3):
            cache.get(key, seconds=1e6, now_ns=0)
        cache.put(key, 1, num_bytes=VALUE_BYTES, deployment="dep", seconds=1e6, now_ns=0)
    look_up = "for key in keys: get(key, seconds=1e6, now_ns=0)"
    costs = {
        f"digest of {len(BODY)} bytes": _us(
            "for _ in range(1_000): key(body)", key=cache.scope("team", "dep", "bundle", "predict").key, body=BODY
        ),
        "look-up, hit": _us(look_up, get=cache.get, keys=known),
        "look-up, miss": _us(look_up, get=cache.get, keys=strangers),
    }
    for _ in range(3):  # filled to the brim with what is asked for as often as any newcomer
        for key in [os.urandom(16) for _ in range(1_000)]:
            cache.put(key, 1, num_bytes=VALUE_BYTES, deployment="dep", seconds=1e6, now_ns=0)
    put = f"for key in keys: put(key, 1, num_bytes={VALUE_BYTES}, deployment='dep', seconds=1e6, now_ns=0)"
    costs["put into a full cache, with its contest"] = _us(put, put=cache.put, keys=newcomers)
    with tempfile.TemporaryDirectory() as folder:
        log = DecisionFiles(Path(folder), "g1").of("cache")
        asked = _us("for _ in range(1_000):\n    if log.due(): pass", log=log)
        costs["a decision that is not kept"] = asked - _us("for _ in range(1_000):\n    pass")
    return costs


def _us(statement: str, **names: object) -> float:
    """Return the microseconds of one of the thousand times that `statement` does something."""
    return min(timeit.repeat(statement, globals=names, number=1, repeat=200)) * 1e3


def main() -> int:
    """Print hit rates as shares of all requests, then costs."""
    print(
        f"hit rates over {NUM_REQUESTS:,} requests for {NUM_KEYS:,} keys by Zipf's law, cache of 1 % and 5 % of them:"
    )
    for scans in (False, True):
        for skew in (0.7, 0.9, 1.1):
            asked = trace(skew, seed=int(skew * 10), scans=scans)
            for share in (0.01, 0.05):
                num = int(NUM_KEYS * share)
                rates = (lru(asked, num), ours(asked, num), optimum(asked, num))
                what = f"skew {skew}{', a third of them a scan' if scans else ''}, {num:,} entries"
                print(
                    f"  {what}: LRU {rates[0]:.3f}, ours {rates[1]:.3f} ({rates[1] / rates[0]:.2f}x), "
                    f"optimum {rates[2]:.3f} (ours {rates[1] / rates[2]:.2f} of it)"
                )
    for what, cost in us_per_call().items():
        print(f"{what}: {cost:.3f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
