"""The queue's laws: nothing is lost or doubled, no batch is too large, and a lone request never waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.serve.batch import BatchQueue, BatchSettings, Item

MS = 1_000_000
SETTINGS = BatchSettings(max_requests=8, max_rows=10)


def item(key, num_rows=1, deadline_ns=10**12, since_ns=0):
    return Item(key, num_rows, deadline_ns, since_ns)


def keys(batches):
    return [[one.key for one in batch] for batch in batches]


def test_what_waits_goes_together_at_once():
    queue = BatchQueue(SETTINGS)
    for key in range(3):
        assert queue.offer(item(key), 1) == "taken"
    assert keys(queue.take(0, 1).batches) == [[0, 1, 2]]


def filling(num_active, offers):
    """Return what `is_filling` says at each look, between which so many requests come."""
    queue = BatchQueue(SETTINGS)
    queue.finished(num_active, num_active, MS // 10, 0)
    said, number = [], 0
    for num_new in offers:
        for _ in range(num_new):
            queue.offer(item(number), 1)
            number += 1
        said.append(queue.is_filling())
    return said


def test_a_batch_grows_while_each_look_finds_more_of_those_who_were_active():
    assert filling(4, [1, 1, 0]) == [True, True, False]
    assert filling(4, [1, 3]) == [True, False]
    assert filling(6, [2, 2, 1, 0]) == [True, True, True, False]


def test_a_lone_request_goes_at_the_first_look():
    assert filling(1, [1]) == [False]
    assert filling(0, [1]) == [False]


def test_the_next_batch_fills_as_the_first_did():
    queue = BatchQueue(SETTINGS)
    queue.finished(4, 4, MS // 10, 0)
    for number in range(2):
        queue.offer(item(number), 1)
        assert queue.is_filling()
        assert keys(queue.take(0, 1).batches) == [[number]]


def test_a_full_batch_waits_for_nothing():
    queue = BatchQueue(SETTINGS)
    queue.finished(8, 80, MS // 10, 0)
    queue.offer(item(0, num_rows=10), 1)
    assert not queue.is_filling()


@given(st.integers(0, 20), st.lists(st.integers(0, 3), max_size=30))
def test_a_batch_is_looked_at_no_oftener_than_requests_come(num_active, offers):
    assert sum(filling(num_active, offers)) <= min(sum(offers), max(0, num_active - 1))


def test_rows_bound_a_batch_and_a_large_request_goes_alone():
    queue = BatchQueue(SETTINGS)
    for key, rows in enumerate([6, 4, 1, 50, 2]):
        queue.offer(item(key, rows), 1)
    assert keys(queue.take(0, 9).batches) == [[0, 1], [2], [3], [4]]


def test_a_full_queue_refuses():
    queue = BatchQueue(SETTINGS)
    assert not queue.full(1)
    assert [queue.offer(item(key), 1) for key in range(9)] == ["taken"] * 8 + ["full"]
    assert queue.full(1)


def test_rows_fill_a_queue_too_but_one_large_request_is_taken():
    queue = BatchQueue(BatchSettings(max_waiting_rows=100))
    assert queue.offer(item("a", 1000), 1) == "taken", "it is alone"
    assert queue.offer(item("b"), 1) == "full"
    queue.drain()
    assert [queue.offer(item(key, 50), 1) for key in range(2)] == ["taken"] * 2
    assert queue.full(1)
    queue.drain()
    assert [queue.offer(item(key, rows), 1) for key, rows in enumerate((99, 2, 1))] == ["taken", "full", "taken"]


def test_without_an_idle_replica_nothing_goes_and_the_deadline_wakes():
    queue = BatchQueue(SETTINGS)
    queue.offer(item("a", deadline_ns=5), 1)
    taken = queue.take(0, 0)
    assert (taken.batches, taken.wake_at_ns) == ((), 5)
    taken = queue.take(5, 1)
    assert [one.key for one in taken.expired] == ["a"]
    assert not taken.batches


def test_a_lone_client_never_waits_even_for_a_slow_model():
    queue = BatchQueue(SETTINGS)
    now = 0
    for key in range(5):
        queue.offer(item(key), 1)
        assert keys(queue.take(now, 1).batches) == [[key]]
        now += 50 * MS
        queue.finished(1, 1, 50 * MS, now)


def test_several_clients_of_a_slow_model_are_waited_for_but_not_long():
    queue = BatchQueue(SETTINGS)
    queue.finished(3, 3, 40 * MS, 100 * MS)
    queue.offer(item("a"), 1)
    taken = queue.take(100 * MS, 1)
    assert (taken.batches, taken.wake_at_ns) == ((), 120 * MS)
    queue.offer(item("b"), 1)
    assert not queue.take(110 * MS, 1).batches
    queue.offer(item("c"), 1)
    assert keys(queue.take(111 * MS, 1).batches) == [["a", "b", "c"]], "all that were active are back"
    queue.finished(3, 3, 40 * MS, 200 * MS)
    queue.offer(item("d"), 1)
    assert keys(queue.take(220 * MS, 1).batches) == [["d"]], "half of the last batch's time is over"


def test_a_fast_model_is_never_waited_for():
    queue = BatchQueue(SETTINGS)
    queue.finished(3, 3, MS // 2, 0)
    queue.offer(item("a"), 1)
    assert keys(queue.take(0, 1).batches) == [["a"]]


def test_retry_after_is_bounded():
    queue = BatchQueue(SETTINGS)
    assert queue.retry_after_s() == 1
    queue.finished(1, 1, 3600 * 10**9, 0)
    assert queue.retry_after_s() == 30


def test_a_new_queue_has_the_bounds_that_were_measured():
    assert BatchSettings() == BatchSettings(
        max_requests=4096,
        max_waiting_rows=200_000,
        max_rows=256,
        slow_ns=MS,
        linger=0.5,
        target_ns=5 * MS,
        target_batches=2.0,
        crowd_ns=200 * MS,
        cheap_ns=150_000,
        interval_ns=100 * MS,
    )
    queue = BatchQueue()
    assert queue.settings == BatchSettings()
    assert queue.max_rows == 256
    assert not queue.standing
    assert not queue.full(1)


def test_a_model_with_a_cap_of_its_own_gets_no_larger_batches():
    queue = BatchQueue(SETTINGS)
    queue.cap(4)
    for key in range(8):
        queue.offer(item(key), 1)
    assert [len(batch) for batch in queue.take(0, 9).batches] == [4, 4]
    queue.cap(1)
    assert queue.max_rows == 1
    queue.cap(50)
    assert queue.max_rows == 10, "the settings bound it still"
    queue.cap(0)
    assert queue.max_rows == 10, "0 is unknown"


def filled(num_requests, *, took_ns=100 * MS, deadline_ns=10**12):
    """A queue whose full batches of 10 rows take `took_ns`, with requests waiting since 0."""
    queue = BatchQueue(BatchSettings(max_rows=10))
    queue.finished(10, 10, took_ns, 0)
    for key in range(num_requests):
        assert queue.offer(item(key, deadline_ns=deadline_ns), 1) == "taken"
    return queue


def test_the_predicted_wait_is_the_full_batches_before_and_its_own():
    assert BatchQueue(SETTINGS).wait_ns(1) == 0, "nothing is known"
    assert filled(0).wait_ns(1) == 100 * MS
    assert filled(9).wait_ns(1) == 100 * MS
    assert filled(20).wait_ns(1) == 300 * MS
    assert filled(20).wait_ns(2) == 200 * MS
    assert filled(20).wait_ns(0) == 300 * MS


def test_what_would_come_too_late_is_refused_at_the_door():
    queue = filled(20)
    assert queue.offer(item("a", deadline_ns=300 * MS), 1) == "late"
    assert queue.offer(item("a", deadline_ns=300 * MS + 1), 1) == "taken"
    assert filled(0).offer(item("a", deadline_ns=1), 1) == "taken", "alone it is tried: the prediction may be old"


def test_what_cannot_be_answered_in_time_any_more_is_given_up_but_the_last_is_tried():
    queue = filled(3, deadline_ns=150 * MS)
    assert not queue.take(60 * MS, 0).expired, "nobody could start it anyway"
    taken = queue.take(60 * MS, 1)
    assert [one.key for one in taken.expired] == [0, 1]
    assert keys(taken.batches) == [[2]]


def standing(at_ns=10**9):
    """A queue that stands 100 ms after `at_ns`: a batch of 10 takes 10 ms, the target is 20, and 100 wait."""
    queue = filled(0, took_ns=10 * MS)
    for key in range(110):
        queue.offer(item(key), 1)
    assert not queue.take(at_ns, 1).shed, "one look is no interval"
    return queue, at_ns


def test_a_standing_queue_sheds_what_has_waited_too_long_and_refuses_what_would():
    queue, now = standing()
    assert not queue.take(now + 99 * MS, 0).shed
    for key in range(110, 115):
        queue.offer(item(key, since_ns=now), 1)
    now += 100 * MS
    taken = queue.take(now, 1)
    assert queue.standing
    assert [one.key for one in taken.shed] == list(range(10, 114)), "all have waited for more than 20 ms"
    assert keys(taken.batches) == [[114]], "the last is tried"
    assert [queue.offer(item(key, since_ns=now), 1) for key in range(150, 181)] == ["taken"] * 30 + ["full"]
    assert not queue.full(2), "two replicas answer more"


@pytest.mark.parametrize("num_idle", [0, -1])
def test_while_nobody_is_idle_nothing_is_shed_or_judged(num_idle):
    queue, now = standing()
    taken = queue.take(now + 100 * MS, num_idle)
    assert (taken.shed, taken.batches, taken.wake_at_ns) == ((), (), 10**12)
    assert not queue.standing


def test_whoever_has_any_time_left_waits_while_nobody_is_idle():
    end = 150 * MS
    queue = filled(2, deadline_ns=end)
    assert not queue.take(end - 1, 0).expired
    assert len(queue.take(end, 0).expired) == 2
    queue.offer(item("a", deadline_ns=end), 1)
    assert keys(queue.take(end - 1, 1).batches) == [["a"]], "alone it is tried to the last"


def test_what_a_small_batch_needs_is_what_small_batches_took():
    queue = filled(0)
    queue.finished(2, 2, 10 * MS, 0)
    for key in range(2):
        queue.offer(item(key, deadline_ns=150 * MS), 1)
    assert keys(queue.take(120 * MS, 1).batches) == [[0, 1]]


def test_the_target_follows_a_model_that_has_become_slower_at_once():
    queue = filled(0, took_ns=10 * MS)
    queue.finished(10, 10, 100 * MS, 0)
    for look_ms in (1000, 1400, 1800):
        queue.drain()
        for key in range(30):
            queue.offer(item(key, since_ns=(look_ms - 200) * MS), 1)
        assert not queue.take(look_ms * MS, 1).shed
        assert not queue.standing, "they have waited 200 ms, which is two batches"


def test_it_is_judged_by_two_targets_if_they_are_longer_than_the_interval():
    queue = filled(50)
    queue.take(1000 * MS, 1)
    queue.put_back(tuple(item(key) for key in range(10)))
    queue.take(1319 * MS, 1)
    queue.put_back(tuple(item(key) for key in range(10)))
    assert not queue.standing
    queue.take(1320 * MS, 1)
    assert queue.standing, "the target is two batches of 100 ms, and 320 ms times 500 are (2 * 200 ms)^2"


@pytest.mark.parametrize(
    ("after_ms", "num_rows", "stands"),
    [(100, 100, True), (99, 100, False), (100, 99, False), (20, 500, True), (19, 500, False), (200, 50, True)],
)
@pytest.mark.parametrize("num_replicas", [1, 2])
def test_the_more_waits_the_sooner_it_stands(after_ms, num_rows, stands, num_replicas):
    """A batch of 10 takes 10 ms, so a row waits as many milliseconds for a replica as there are before it."""
    queue = filled(0, took_ns=10 * MS)
    for key in range(12):
        queue.offer(item(key), num_replicas)
    queue.take(21 * MS, 1)
    for key in range(num_rows * num_replicas - 2):  # ten have gone
        queue.offer(item(key), num_replicas)
    queue.take((21 + after_ms) * MS, 1)
    assert queue.standing is stands


@pytest.mark.parametrize("waited_ms", [20, 21, None])
def test_time_counts_from_when_the_head_began_to_wait_too_long(waited_ms):
    queue = filled(0, took_ns=10 * MS)
    for look_ms, head_ms in ((1000, 21), (1100, waited_ms), (1150, 21)):
        queue.drain()
        for key in range(0 if head_ms is None else 110):
            queue.offer(item(key, since_ns=(look_ms - head_ms) * MS), 1)
        queue.take(look_ms * MS, 1)
    assert queue.standing is (waited_ms == 21)


def test_only_what_has_waited_longer_than_the_target_is_shed():
    queue, now = standing()
    queue.take(now + 100 * MS, 1)
    queue.drain()
    now += 150 * MS
    queue.offer(item("old", since_ns=now - 20 * MS - 1), 1)
    queue.offer(item("borderline", since_ns=now - 20 * MS), 1)
    queue.offer(item("new", since_ns=now), 1)
    taken = queue.take(now, 1)
    assert [one.key for one in taken.shed] == ["old"]
    assert keys(taken.batches) == [["borderline", "new"]]


def test_a_model_that_is_just_slow_enough_is_waited_for_until_all_are_back_or_a_batch_is_full():
    queue = BatchQueue(BatchSettings(max_rows=10))
    queue.offer(item("a"), 1)
    queue.finished(1, 1, MS, 0)
    assert not queue.take(0, 1).batches, "two are active: the one that was answered, and the one that waits"
    queue.offer(item("b", 9), 1)
    assert keys(queue.take(0, 1).batches) == [["a", "b"]]
    for key in range(2):
        queue.offer(item(key), 1)
    queue.finished(3, 3, MS, 0)
    for key in range(2, 5):
        assert not queue.take(0, 1).batches, "five are active"
        queue.offer(item(key), 1)
    assert keys(queue.take(0, 1).batches) == [[0, 1, 2, 3, 4]]
    queue.finished(5, 5, MS, 0)
    queue.offer(item("large", 10), 1)
    assert keys(queue.take(0, 1).batches) == [["large"]], "more would not fit into the batch"


@pytest.mark.parametrize(
    ("num_active", "num_waiting", "seconds"), [(2, 5, 10), (1, 2, 10), (2, 0, 4), (9, 5, 4), (1, 7, 25)]
)
def test_a_client_is_told_to_come_when_the_queue_should_be_empty(num_active, num_waiting, seconds):
    queue = BatchQueue(BatchSettings(target_batches=9.0))
    queue.finished(num_active, num_active, 3000 * MS, 0)
    for key in range(num_waiting):
        queue.offer(item(key), 1)
    assert queue.retry_after_s() == seconds


def test_what_is_put_back_counts_and_comes_first():
    queue = BatchQueue(BatchSettings(max_waiting_rows=100))
    queue.put_back((item("a", 60), item("b", 10)))
    assert [queue.offer(item(key, 15), 1) for key in "cde"] == ["taken", "taken", "full"]
    assert keys(queue.take(0, 1).batches) == [["a", "b", "c", "d"]]


@pytest.mark.parametrize(
    ("waits_ms", "stands"),
    [((10, 10, 10), False), ((10, 10, 11), True), ((1, 20, 9), False), ((20, 11, 0), True), ((None, None, 11), True)],
)
def test_a_queue_stands_until_in_an_interval_its_heads_waited_less_than_half_the_target(waits_ms, stands):
    queue, now = standing()
    queue.take(now + 100 * MS, 1)
    for look_ms, waited_ms in zip((150, 199, 200), waits_ms, strict=True):
        queue.drain()
        for key in range(0 if waited_ms is None else 2):
            queue.offer(item(key, since_ns=now + (look_ms - waited_ms) * MS), 1)
        assert queue.standing
        assert not queue.take(now + look_ms * MS, 1).shed
    assert queue.standing is stands


def test_a_queue_that_is_empty_as_an_interval_ends_still_stands_if_it_was_long():
    """At twice the load too a queue that is kept short is empty now and then."""
    queue, now = standing()
    queue.take(now + 100 * MS, 1)
    queue.drain()
    for key in range(2):
        queue.offer(item(key, since_ns=now + 139 * MS), 1)
    queue.take(now + 150 * MS, 1)
    queue.drain()
    queue.take(now + 200 * MS, 1)
    assert queue.standing
    queue.take(now + 300 * MS, 1)
    assert not queue.standing, "in this interval nobody waited"


def test_each_interval_is_judged_by_itself():
    queue, now = standing()
    for look_ms, waited_ms in ((100, 1000), (200, 20), (201, 0), (300, 0)):
        assert look_ms == 100 or queue.standing
        queue.drain()
        for key in range(20):
            queue.offer(item(key, since_ns=now + (look_ms - waited_ms) * MS), 1)
        queue.put_back(tuple(item(key, since_ns=now + (look_ms - waited_ms) * MS) for key in range(100)))
        queue.take(now + look_ms * MS, 1)
    assert not queue.standing
    queue.drain()
    queue.put_back(tuple(item(key, since_ns=now) for key in range(110)))
    queue.take(now + 450 * MS, 1)
    assert not queue.standing, "once it stands no more, its head has to wait too long for a while again"


def test_a_queue_without_requests_stands_no_more_after_its_interval():
    queue, now = standing()
    queue.take(now + 100 * MS, 1)
    queue.drain()
    queue.take(now + 199 * MS, 1)
    assert queue.standing
    queue.take(now + 200 * MS, 1)
    assert not queue.standing


@pytest.mark.parametrize(("crowd_ns", "sheds"), [(250 * MS, False), (0, True)])
def test_where_answers_are_cheap_a_crowd_may_wait_its_turn(crowd_ns, sheds):
    queue = BatchQueue(BatchSettings(max_rows=10, crowd_ns=crowd_ns))
    queue.finished(10, 10, MS, 0)
    for look_ms in (1000, 1100, 1200):
        queue.drain()
        for key in range(1000):
            queue.offer(item(key, since_ns=(look_ms - 200) * MS), 1)
        queue.offer(item("new", since_ns=look_ms * MS), 1)
        taken = queue.take(look_ms * MS, 1)
    assert bool(taken.shed) is sheds


def test_a_burst_alone_sheds_nothing():
    queue = filled(0, took_ns=10 * MS)
    for key in range(100):
        queue.offer(item(key), 1)
    now = 0
    while len(queue):
        now += 10 * MS
        taken = queue.take(now, 1)
        assert not taken.shed
        assert not taken.expired


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.integers(1, 14)),
            st.tuples(st.just("take"), st.integers(0, 3)),
            st.tuples(st.just("lose"), st.just(0)),
            st.tuples(st.just("wait"), st.integers(1, 40)),
        ),
        max_size=60,
    )
)
def test_every_request_leaves_exactly_once(events):
    queue = BatchQueue(SETTINGS)
    now = 0
    offered, left, running = set(), [], []
    for number, (event, value) in enumerate(events):
        if event == "offer" and queue.offer(item(number, value, now + 30 * MS, now), 1) == "taken":
            offered.add(number)
        elif event == "wait":
            now += value * MS
            for batch in running:
                left += [one.key for one in batch]
                queue.finished(len(batch), sum(one.num_rows for one in batch), 2 * MS, now)
            running = []
        elif event == "lose" and running:
            queue.put_back(running.pop())
        elif event == "take":
            taken = queue.take(now, value)
            left += [one.key for one in (*taken.expired, *taken.shed)]
            assert all(one.deadline_ns > now for batch in taken.batches for one in batch)
            assert len(taken.batches) <= value
            for batch in taken.batches:
                assert len(batch) == 1 or sum(one.num_rows for one in batch) <= SETTINGS.max_rows
            assert not len(queue) or taken.wake_at_ns is not None
            running += taken.batches
    left += [one.key for batch in running for one in batch] + [one.key for one in queue.drain()]
    assert sorted(left) == sorted(offered)
