"""The first moments of too much: a calm hall that is asked for far more at once, on a virtual clock, door and lane as they are."""

import functools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datahall.core.errors import DatahallError
from datahall.core.records import KeyGrant
from datahall.serve.admission import Refusal
from datahall.serve.batch import BatchQueue, BatchSettings, Item
from tests.serve.test_admission_load import door
from tests.serve.virtual import MS, S, World

GRANT = KeyGrant(key_id="k", principal="p", team="lab", scopes=(), expires_at_ns=None)
ROW_NS = 3 * MS
"""A row takes so long however many come together: such a model says that batches of one row are best."""
PER_S = S / ROW_NS
SECONDS = 8
GOODPUT = {2: 0.95, 5: 0.92, 10: 0.90}


class ByWindows(BatchQueue):
    """The control: a queue that stands, or no longer does, by the least and the longest wait of one window after another."""

    least_ns = most_ns = end_ns = 0

    def take(self, now_ns, num_idle):
        if not len(self):
            self.least_ns = 0
            self._standing = self._standing and now_ns < self.end_ns
        return super().take(now_ns, num_idle)

    def _shed(self, now_ns):
        target_ns, waited_ns = self._target_ns, now_ns - self._waiting[0].since_ns
        self.least_ns, self.most_ns = min(self.least_ns, waited_ns), max(self.most_ns, waited_ns)
        if now_ns >= self.end_ns:
            self._standing = self.most_ns > target_ns / 2 if self._standing else self.least_ns > target_ns
            self.least_ns = self.most_ns = waited_ns
            self.end_ns = now_ns + int(self._interval_ns)
        shed = []
        while self._standing and len(self) > 1 and now_ns - self._waiting[0].since_ns > target_ns:
            shed.append(self._pop())
        return tuple(shed)

    def _relent(self, now_ns):
        pass


class Hall(World):
    """One replica, and clients who come at random whether or not others are answered."""

    def __init__(self, queue=BatchQueue, seed=1, **settings):
        super().__init__(1, seed, **settings)
        self.lane._queue = queue(self.lane._queue.settings)
        self.lane._changed()
        self.door = door()
        self.draw = random.Random(seed)  # noqa: S311  a simulation, which must be repeatable
        self.took_ns, self.num_refused = [], 0

    def connect(self, address, *, bundle, changed):
        link = super().connect(address, bundle=bundle, changed=changed)
        link.base_ns, link.row_ns, link.max_rows = 0, ROW_NS, 1
        return link

    def offer(self, times, seconds=SECONDS):
        """Offer so many times what can be answered; return how long each answer took, in ms, and how many were refused."""
        self.took_ns, self.num_refused = [], 0
        end_ns = self.timers.ns + seconds * S

        def come():
            if self.timers.ns < end_ns:
                self.enter()
                self.timers.call_later(self.draw.expovariate(times * PER_S), come)

        come()
        self.timers.run(seconds * S)
        return sorted(took_ns / MS for took_ns in self.took_ns), self.num_refused

    def enter(self):
        now = self.timers.ns
        place = self.door.enter(GRANT, self.lane.route, now, deadline_ns=now + 30 * S)
        if isinstance(place, Refusal):
            self.num_refused += 1
            return
        client = self.ask()
        client.place = place
        if client.outcomes:
            self.left(client, failed=True)

    def _answered(self, lane, calls, outcome, replica):
        for call in calls:
            self.left(call.context, failed=isinstance(outcome, DatahallError))

    def left(self, client, *, failed):
        took_ns = self.timers.ns - client.since_ns
        client.place.leave(self.timers.ns, sample_ns=None if failed else took_ns)
        if failed:
            self.num_refused += 1
        else:
            self.took_ns.append(took_ns)


def p99(took_ms):
    return took_ms[int(0.99 * len(took_ms))]


@functools.cache
def onset(times, queue=BatchQueue, seed=1, **settings):
    """Return what `offer` does from the very moment on in which a calm hall is asked for so much."""
    hall = Hall(queue, seed, **settings)
    hall.offer(0.8, 4)
    return hall.offer(times)


@functools.cache
def calm(queue=BatchQueue, seed=1):
    """Return the 99th percentile at 0.8 times what can be answered, and which part was refused."""
    took_ms, num_refused = Hall(queue, seed).offer(0.8, 3 * SECONDS)
    return p99(took_ms), num_refused / (len(took_ms) + num_refused)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("times", [2, 5, 10])
def test_from_its_first_moment_on_too_much_makes_few_wait(times, seed):
    took_ms, _ = onset(times, seed=seed)
    assert p99(took_ms) <= 2 * calm(seed=seed)[0]
    assert len(took_ms) >= GOODPUT[times] * PER_S * SECONDS


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_queue_that_judges_by_windows_makes_more_than_one_in_a_hundred_wait(seed):
    """It notices after one to two windows, and forgets whenever it is empty as one ends."""
    took_ms, _ = onset(2, ByWindows, seed)
    assert p99(took_ms) > 2 * calm(ByWindows, seed)[0]


@pytest.mark.parametrize("times", [2, 5, 10])
def test_so_does_one_that_judges_by_longer_intervals(times):
    took_ms, _ = onset(times, interval_ns=500 * MS)
    assert p99(took_ms) > 2 * calm()[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_that_costs_those_nothing_who_ask_for_what_can_be_answered(seed):
    assert calm(seed=seed)[1] < min(0.01, calm(ByWindows, seed)[1])


@pytest.mark.parametrize("times", [2, 10])
def test_a_second_after_too_much_nearly_all_are_answered_again(times):
    hall = Hall()
    hall.offer(times, 2)
    took_ms, num_refused = hall.offer(0.8, 4)
    assert num_refused <= 0.05 * len(took_ms)


@example([(1, 0)] * 8 + [(1, at * MS) for at in range(1, 93)] + [(1, 97 * MS)] * 100, 1)
@example([(10, 0)] * 20, 10)
@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 200 * MS)), min_size=1, max_size=60), st.integers(1, 25))
def test_a_burst_that_is_worked_off_within_two_intervals_is_never_refused(burst, max_rows):
    queue = BatchQueue(BatchSettings(max_rows=max_rows, linger=0.0))
    queue.finished(max_rows, max_rows, max_rows * MS, 0)
    coming, left = [], 200
    for rows, at_ns in sorted(burst, key=lambda one: one[1]):
        num_rows = min(rows, max_rows, left)  # a row takes a millisecond, and there is time for `left` more
        if num_rows:
            coming.append((min(at_ns, (200 - left) * MS), num_rows))
            left -= num_rows
    now = 0
    while coming or len(queue):
        while coming and coming[0][0] <= now:
            at_ns, num_rows = coming.pop(0)
            assert queue.offer(Item(at_ns, num_rows, 30 * S, at_ns), 1) == "taken"
        taken = queue.take(now, 1)
        assert not taken.shed
        assert not queue.standing
        num_rows = sum(one.num_rows for batch in taken.batches for one in batch)
        now += num_rows * MS
        queue.finished(1, num_rows, num_rows * MS, now)
    assert now <= 200 * MS
