"""The response cache: its bounds in bytes and time, who shares it, and what it keeps when it is full."""

import random
import tracemalloc
from collections import Counter, OrderedDict
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.records import Route
from datahall.serve.cache import ENTRY_BYTES, ResponseCache
from datahall.serve.cached import AnswerCache, keep
from datahall.serve.protocols.prepared import Asked, Prepared
from datahall.serve.rows import Rows
from datahall.serve.sketch import MAX_COUNT, FrequencySketch

SECOND = 1_000_000_000


def seeded(seed):
    return random.Random(seed)  # noqa: S311  (traces and draws, no secrets)


def made(max_bytes=100 * (ENTRY_BYTES + 100), **changes):
    return ResponseCache(max_bytes, **{"draw": seeded(1).random, "secret": b"s" * 16, **changes})


def put(cache, key, value="v", *, num_bytes=100, seconds=10.0, now_ns=0, deployment="dep_1"):
    cache.put(key, value, num_bytes=num_bytes, deployment=deployment, seconds=seconds, now_ns=now_ns)


def key(number):
    return seeded(number).randbytes(16)


steps = st.lists(
    st.tuples(
        st.sampled_from(["get", "put", "tick", "keep_only"]),
        st.integers(0, 40),
        st.integers(0, 30_000),
        st.integers(0, SECOND),
    ),
    max_size=80,
)


@given(steps)
def test_it_never_holds_more_bytes_than_its_bound_nor_gives_what_was_not_put(steps):
    cache, last, now = made(50_000), {}, 0
    for action, number, num_bytes, passed_ns in steps:
        now += passed_ns
        name = key(number)
        if action == "get":
            found = cache.get(name, seconds=3.0, now_ns=now)
            if found is not None:
                value, put_at, deployment = last[name]
                assert found == value
                assert now - put_at < 3 * SECOND
                assert deployment is not None
        elif action == "put":
            deployment = f"dep_{number % 2}"
            put(cache, name, object(), num_bytes=num_bytes, seconds=3.0, now_ns=now, deployment=deployment)
            entry = cache._entries.get(name)
            last[name] = (entry.value if entry else None, now, deployment)
        elif action == "tick":
            cache.tick(now)
            assert all(entry.expires_at_ns > now for entry in cache._entries.values())
        else:
            cache.keep_only({"dep_0"})
            last = {k: (v, at, d if d == "dep_0" else None) for k, (v, at, d) in last.items()}
        assert_whole(cache, 50_000)


def assert_whole(cache, max_bytes):
    """The parts hold each entry once, and their sums are right."""
    parts = (cache._window, cache._probation, cache._protected)
    held = [entry for part in parts for entry in part.entries.values()]
    assert Counter(entry.key for entry in held) == Counter(cache._entries.keys())
    assert sum(entry.num_bytes for entry in held) == cache.stats().num_bytes <= max_bytes
    assert all(entry.part.entries[entry.key] is entry for entry in held)


def test_what_it_counts_is_what_it_takes(kit):
    route = Route(
        app="flowers",
        team="lab",
        deployment="dep_1",
        version="flowers@1.0.0",
        manifest=kit.manifest(),
        bundle="b" * 64,
        replicas=(),
        cache_seconds=60.0,
    )
    cache = AnswerCache(2_000_000, log=None)
    scope = cache.scope("lab")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(5_000):
        # One answer of a batch, as it comes from a replica: to keep it must not be to keep all.
        probability = np.random.default_rng(number).random((64, 2)).tolist()
        batch = Prepared({"label": ["large"] * 64, "probability": probability})
        answer = SimpleNamespace(id=f"ans_{number:060}", replica="rep_1")
        kept = keep(batch, 3, 4, Asked(Rows(1, [[0.5]]), f"request {number}"), answer)
        cache.keep(scope.key(b"%d" % number), kept, route, number)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert cache.stats().num_entries > 500
    assert 1_000_000 < taken <= 2_000_000


def test_an_answer_is_kept_for_its_seconds_and_not_one_nanosecond_more():
    cache = made()
    put(cache, key(1), now_ns=5 * SECOND)
    assert cache.get(key(1), seconds=10.0, now_ns=15 * SECOND - 1) == "v"
    assert cache.get(key(1), seconds=10.0, now_ns=15 * SECOND) is None
    assert cache.stats().num_entries == 0


def test_a_route_that_shortens_its_seconds_is_obeyed_at_once():
    cache = made()
    put(cache, key(1), seconds=3_600.0)
    assert cache.get(key(1), seconds=10.0, now_ns=11 * SECOND) is None


def test_what_nobody_asks_for_goes_when_it_expires():
    cache = made()
    put(cache, key(1), seconds=1.0)
    put(cache, key(2), seconds=2.0)
    cache.tick(SECOND)
    assert (cache.stats().num_entries, cache.stats().num_expired) == (1, 1)


def test_the_queue_of_expiry_stays_as_small_as_the_cache():
    cache = made()
    for number in range(20_000):
        put(cache, key(number % 3_000), seconds=1e6)
    assert len(cache._expiry) <= 2 * len(cache._entries) + 600


def test_it_is_dropped_with_its_deployment():
    cache = made()
    put(cache, key(1), deployment="dep_1")
    put(cache, key(2), deployment="dep_2")
    cache.keep_only({"dep_2"})
    assert cache.get(key(1), seconds=10.0, now_ns=0) is None
    assert cache.get(key(2), seconds=10.0, now_ns=0) == "v"


def test_teams_bundles_and_forms_never_share_a_key_whatever_their_names_and_inputs():
    cache = made()
    scopes = [("lab", "b1", "predict"), ("ward", "b1", "predict"), ("lab", "b2", "predict"), ("lab", "b1", "v2")]
    scopes += [("la", "bb1", "predict"), ("lab", "b1pre", "dict")]
    keys = {cache.scope(*parts).key(b"the same input") for parts in scopes}
    assert len(keys) == len(scopes)
    assert cache.scope("lab").key(b"x") == cache.scope("lab").key(b"x")
    assert cache.scope("lab").key(b"x") != made(secret=b"t" * 16).scope("lab").key(b"x")


def test_an_answer_that_alone_is_too_large_is_not_kept_and_displaces_nothing():
    cache = made()
    for number in range(20):
        put(cache, key(number))
    num_entries = cache.stats().num_entries
    put(cache, key(99), num_bytes=10_000_000)
    assert cache.get(key(99), seconds=10.0, now_ns=0) is None
    assert cache.stats().num_entries == num_entries


def hit_rate(trace, num_entries):
    cache = made(num_entries * (ENTRY_BYTES + 100))
    for name in trace:
        if cache.get(name, seconds=1e6, now_ns=0) is None:
            put(cache, name, seconds=1e6)
    return cache.stats().hit_rate


def lru_hit_rate(trace, num_entries):
    held, num_hits = OrderedDict(), 0
    for name in trace:
        if name in held:
            held.move_to_end(name)
            num_hits += 1
        else:
            held[name] = None
            if len(held) > num_entries:
                held.popitem(last=False)
    return num_hits / len(trace)


def zipf_and_scan(*, seed, scans):
    """20,000 requests over 2,000 keys; with `scans`, each third one is for a key that never comes again."""
    rng = seeded(seed)
    keys = [rng.randbytes(16) for _ in range(2_000)]
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(len(keys))))
    popular = rng.choices(keys, cum_weights=weights, k=20_000)
    return [rng.randbytes(16) if scans and number % 3 == 0 else name for number, name in enumerate(popular)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_scan_does_not_wash_out_what_is_popular_as_it_does_in_an_lru(seed):
    trace = zipf_and_scan(seed=seed, scans=True)
    assert hit_rate(trace, 100) > 1.3 * lru_hit_rate(trace, 100)
    assert hit_rate(trace, 100) > 0.9 * 2 / 3 * hit_rate(zipf_and_scan(seed=seed, scans=False), 100)


def test_what_was_popular_once_does_not_stay_for_ever():
    """The sketch forgets: after a change of what is asked for, the new ones are hit as the old ones were."""
    before, after = zipf_and_scan(seed=1, scans=False), zipf_and_scan(seed=2, scans=False)
    cache = made(100 * (ENTRY_BYTES + 100))
    for name in [*before, *after]:
        if cache.get(name, seconds=1e6, now_ns=0) is None:
            put(cache, name, seconds=1e6)
    first = cache.stats().num_hits
    for name in after:
        cache.get(name, seconds=1e6, now_ns=0)
    assert (cache.stats().num_hits - first) / len(after) > 0.9 * hit_rate(before, 100)


@given(st.lists(st.integers(0, 30), max_size=200))
def test_the_sketch_never_says_less_than_was_counted(numbers):
    sketch = FrequencySketch(16)
    for number in numbers:
        sketch.add(key(number))
    for number, count in Counter(numbers).items():
        assert sketch.estimate(key(number)) >= min(count, MAX_COUNT)


def test_the_sketch_is_exact_where_keys_are_few_and_halves():
    sketch = FrequencySketch(10_000)
    for number in range(10):
        for _ in range(number):
            sketch.add(key(number))
    assert [sketch.estimate(key(number)) for number in range(10)] == list(range(10))
    sketch.halve()
    assert [sketch.estimate(key(number)) for number in range(10)] == [number // 2 for number in range(10)]
