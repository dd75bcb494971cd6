"""The queue's laws: nothing is lost or doubled, no batch is too large, and a lone request never waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datahall.serve.batch import BatchQueue, BatchSettings, Item

MS = 1_000_000
SETTINGS = BatchSettings(max_requests=8, max_rows=10)


def item(key, num_rows=1, deadline_ns=10**12):
    return Item(key, num_rows, deadline_ns)


def keys(batches):
    return [[one.key for one in batch] for batch in batches]


def test_what_waits_goes_together_at_once():
    queue = BatchQueue(SETTINGS)
    for key in range(3):
        assert queue.offer(item(key))
    assert keys(queue.take(0, 1).batches) == [[0, 1, 2]]


def test_rows_bound_a_batch_and_a_large_request_goes_alone():
    queue = BatchQueue(SETTINGS)
    for key, rows in enumerate([6, 4, 1, 50, 2]):
        queue.offer(item(key, rows))
    assert keys(queue.take(0, 9).batches) == [[0, 1], [2], [3], [4]]


def test_a_full_queue_refuses():
    queue = BatchQueue(SETTINGS)
    assert [queue.offer(item(key)) for key in range(9)] == [True] * 8 + [False]
    assert queue.full


def test_without_an_idle_replica_nothing_goes_and_the_deadline_wakes():
    queue = BatchQueue(SETTINGS)
    queue.offer(item("a", deadline_ns=5))
    taken = queue.take(0, 0)
    assert (taken.batches, taken.wake_at_ns) == ((), 5)
    taken = queue.take(5, 1)
    assert [one.key for one in taken.expired] == ["a"]
    assert not taken.batches


def test_a_lone_client_never_waits_even_for_a_slow_model():
    queue = BatchQueue(SETTINGS)
    now = 0
    for key in range(5):
        queue.offer(item(key))
        assert keys(queue.take(now, 1).batches) == [[key]]
        now += 50 * MS
        queue.finished(1, 50 * MS, now)


def test_several_clients_of_a_slow_model_are_waited_for_but_not_long():
    queue = BatchQueue(SETTINGS)
    queue.finished(3, 40 * MS, 100 * MS)
    queue.offer(item("a"))
    taken = queue.take(100 * MS, 1)
    assert (taken.batches, taken.wake_at_ns) == ((), 120 * MS)
    queue.offer(item("b"))
    assert not queue.take(110 * MS, 1).batches
    queue.offer(item("c"))
    assert keys(queue.take(111 * MS, 1).batches) == [["a", "b", "c"]], "all that were active are back"
    queue.finished(3, 40 * MS, 200 * MS)
    queue.offer(item("d"))
    assert keys(queue.take(220 * MS, 1).batches) == [["d"]], "half of the last batch's time is over"


def test_a_fast_model_is_never_waited_for():
    queue = BatchQueue(SETTINGS)
    queue.finished(3, MS // 2, 0)
    queue.offer(item("a"))
    assert keys(queue.take(0, 1).batches) == [["a"]]


def test_retry_after_is_bounded():
    queue = BatchQueue(SETTINGS)
    assert queue.retry_after_s() == 1
    queue.finished(1, 3600 * 10**9, 0)
    assert queue.retry_after_s() == 30


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
        if event == "offer" and queue.offer(item(number, value, now + 30)):
            offered.add(number)
        elif event == "wait":
            now += value
            for batch in running:
                left += [one.key for one in batch]
                queue.finished(len(batch), 2 * MS, now)
            running = []
        elif event == "lose" and running:
            queue.put_back(running.pop())
        elif event == "take":
            taken = queue.take(now, value)
            left += [one.key for one in taken.expired]
            assert all(one.deadline_ns > now for batch in taken.batches for one in batch)
            assert len(taken.batches) <= value
            for batch in taken.batches:
                assert len(batch) == 1 or sum(one.num_rows for one in batch) <= SETTINGS.max_rows
            assert not len(queue) or taken.wake_at_ns is not None
            running += taken.batches
    left += [one.key for batch in running for one in batch] + [one.key for one in queue.drain()]
    assert sorted(left) == sorted(offered)
