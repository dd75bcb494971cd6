"""The queue under open-loop overload, simulated with a seed: almost all capacity goes into answers in time."""

from __future__ import annotations

import heapq
import itertools
import random

import msgspec
import pytest

from datahall.serve.batch import BatchQueue, BatchSettings, Item

MS = 1_000_000
PATIENCE_NS = 200 * MS
"""After so long a client has gone; all that is worked on for it later is lost."""
NUM_REPLICAS = 2
MAX_ROWS = 16
SECONDS = 8.0
CAPACITY_PER_S = NUM_REPLICAS * MAX_ROWS / (5e-3 + 0.2e-3 * MAX_ROWS)


def batch_ns(num_rows, rng):
    """5 ms and 0.2 ms a row, with a log-normal spread of 20 %."""
    return int((5 * MS + 0.2 * MS * num_rows) * rng.lognormvariate(-0.02, 0.2))


class Result(msgspec.Struct):
    goodput: float
    """Answers in time, as a part of the capacity."""
    p99_ms: float
    """Of the answers in time, from the first moment on."""
    num_offered: int
    num_out: int
    """Requests refused, given up, answered or still waiting at the end: each once."""


def simulate(queue, load, *, seed=1, told_ns=PATIENCE_NS):
    """Drive a queue with Poisson arrivals at `load` times the capacity; the queue is told of a deadline of `told_ns`.

    Refusals cost nothing here: what they cost is measured on the real gateway.
    """
    rng = random.Random(seed)  # noqa: S311  a simulation, which must be repeatable
    tie = itertools.count()
    events = [(0, next(tie), "arrival", ())]
    num_idle, num_offered, num_out = NUM_REPLICAS, 0, 0
    waits = []
    while events and events[0][0] < SECONDS * 1e9:
        now, _, kind, batch = heapq.heappop(events)
        if kind == "arrival":
            num_offered += 1
            num_out += queue.offer(Item(num_offered, 1, now + told_ns, now), NUM_REPLICAS) != "taken"
            heapq.heappush(events, (now + int(rng.expovariate(load * CAPACITY_PER_S) * 1e9), next(tie), "arrival", ()))
        elif kind == "answer":
            items, took = batch
            num_idle += 1
            num_out += len(items)
            waits += [now - item.since_ns for item in items if now - item.since_ns <= PATIENCE_NS]
            queue.finished(len(items), len(items), took, now)
        taken = queue.take(now, num_idle)
        num_out += len(taken.expired) + len(taken.shed)
        for items in taken.batches:
            num_idle -= 1
            took = batch_ns(len(items), rng)
            heapq.heappush(events, (now + took, next(tie), "answer", (items, took)))
        if num_idle and taken.wake_at_ns is not None:
            heapq.heappush(events, (max(now + 1, taken.wake_at_ns), next(tie), "wake", ()))
    num_out += len(queue) + sum(len(batch[0]) for _, _, kind, batch in events if kind == "answer")
    p99_ms = sorted(waits)[int(0.99 * len(waits))] / MS if waits else float("inf")
    return Result(len(waits) / SECONDS / CAPACITY_PER_S, p99_ms, num_offered, num_out)


@pytest.fixture(scope="module")
def calm():
    """The same hall at 80 % load."""
    return simulate(BatchQueue(BatchSettings(max_rows=MAX_ROWS)), 0.8)


@pytest.mark.parametrize("load", [2, 5, 10])
def test_overload_leaves_goodput_and_waits_as_they_were(load, calm):
    result = simulate(BatchQueue(BatchSettings(max_rows=MAX_ROWS)), load)
    assert result.goodput >= 0.95
    assert result.p99_ms <= 2 * calm.p99_ms
    assert result.num_out == result.num_offered


@pytest.mark.parametrize("load", [2, 5, 10])
def test_a_queue_that_drops_nothing_would_answer_only_those_who_have_gone(load):
    endless = BatchSettings(max_rows=MAX_ROWS, max_requests=10**9, max_waiting_rows=10**9, target_ns=10**15)
    result = simulate(BatchQueue(endless), load, told_ns=10**15)
    assert result.goodput < 0.5
