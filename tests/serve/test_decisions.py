"""A gateway's files of decisions: bounded, private, never in the way, and read back whatever happened to them."""

import os
import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.cache import CacheView, Contender, Evicted
from datahall.serve import decisions as module
from datahall.serve.decisions import DecisionFiles, decision_files, policy_code, read_decision_file

SECOND = 1_000_000_000
VIEW = CacheView(Contender(2, 300, 50), 0, (Contender(1, 300, 50),))


def keep(log, number=0):
    log.keep((None, VIEW, Evicted(), number, 0.25), (None, True, "so"))


def flush(files, monotonic_ns=0):
    work = files.flush(monotonic_ns)
    if work is not None:
        work()


def numbers(folder):
    return [one.now for path in decision_files(folder) for one in read_decision_file(path).decisions]


def test_what_was_decided_is_read_back_in_order_with_everything(tmp_path):
    files = DecisionFiles(tmp_path, "g1")
    log = files.of("cache")
    for number in range(5):
        keep(log, number)
        flush(files)
    [path] = decision_files(tmp_path)
    found = read_decision_file(path)
    assert [one.now for one in found.decisions] == list(range(5))
    one = found.decisions[0]
    assert (one.policy, one.draw, one.reason, one.code) == ("cache", 0.25, "so", policy_code())
    assert msgspec.msgpack.decode(one.view, type=CacheView) == VIEW
    assert msgspec.msgpack.decode(one.decision) is True
    assert found.num_lost_bytes == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (files.num_kept, files.num_dropped) == (5, 0)


def test_work_that_is_never_done_is_done_with_the_next_or_at_the_end_and_once(tmp_path):
    files = DecisionFiles(tmp_path, "g1")
    log = files.of("cache")
    never = []
    for number in range(3):
        keep(log, number)
        never.append(files.flush(0))
    assert numbers(tmp_path) == []
    never[1]()
    assert numbers(tmp_path) == [0, 1, 2]
    keep(log, 3)
    never.append(files.flush(0))
    files.close()
    for late in never:
        late()
    assert numbers(tmp_path) == [0, 1, 2, 3]
    assert (files.num_kept, files.num_dropped) == (4, 0)


def test_one_in_so_many_is_due_exactly_and_each_policy_counts_for_itself(tmp_path):
    files = DecisionFiles(tmp_path, "g1", sample_every=100)
    first, second = files.of("rate"), files.of("route")
    due = [(first.due(), second.due()) for _ in range(1_000)]
    assert [sum(column) for column in zip(*due, strict=True)] == [10, 10]


def test_refusals_are_kept_up_to_a_number_a_second(tmp_path):
    files = DecisionFiles(tmp_path, "g1")
    log = files.of("rate")
    for second in range(3):
        flush(files, second * SECOND)
        for _ in range(1_000):
            log.keep_some((None, VIEW, Evicted(), second, 0.0), (None, False, "no"))
    files.close()
    found = numbers(tmp_path)
    assert [found.count(second) for second in range(3)] == [module.MAX_REFUSALS_PER_S] * 3


@pytest.mark.parametrize("num_runs", [1, 7])
def test_the_pair_never_outgrows_its_bound_and_holds_the_newest(tmp_path, num_runs):
    """Also where each run of the gateway writes only a little."""
    for run in range(num_runs):
        files = DecisionFiles(tmp_path, "g1", max_bytes=20_000)
        log = files.of("cache")
        for number in range(700 // num_runs):
            keep(log, run * (700 // num_runs) + number)
            flush(files)
            assert sum(path.stat().st_size for path in decision_files(tmp_path)) <= 20_000
        files.close()
    found = numbers(tmp_path)
    last = num_runs * (700 // num_runs)
    assert found == list(range(last - len(found), last))
    assert len(found) > 50


def test_what_waits_is_bounded_and_the_rest_dropped_and_counted(tmp_path):
    files = DecisionFiles(tmp_path, "g1")
    log = files.of("cache")
    for number in range(10_000):
        keep(log, number)
    assert files._num_waiting_bytes <= module.MAX_WAITING_BYTES
    assert files.num_dropped > 0
    flush(files)
    assert files.num_kept + files.num_dropped == 10_000
    assert len(numbers(tmp_path)) == files.num_kept


def test_a_disk_that_takes_nothing_costs_decisions_only_and_is_told(tmp_path):
    files = DecisionFiles(tmp_path / "none", "g1")
    keep(files.of("cache"))
    flush(files)
    assert files.num_dropped == 1
    assert "No such file" in files.problem
    (tmp_path / "none").mkdir()
    keep(files.of("cache"))
    flush(files)
    assert (files.num_kept, files.problem) == (1, "")


def test_a_full_disk_drops_and_counts(tmp_path):
    (tmp_path / "full").mkdir()
    files = DecisionFiles(tmp_path / "full", "g1")
    files._descriptor = os.open("/dev/full", os.O_WRONLY)
    keep(files.of("cache"))
    flush(files)
    assert files.num_dropped == 1
    assert "No space left" in files.problem
    files.close()


def test_a_file_that_somebody_removed_is_begun_anew(tmp_path):
    files = DecisionFiles(tmp_path, "g1")
    log = files.of("cache")
    keep(log, 1)
    flush(files)
    for path in decision_files(tmp_path):
        path.unlink()
    keep(log, 2)
    flush(files)
    assert numbers(tmp_path) == [2]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "g1.a").symlink_to(tmp_path / "elsewhere")
    files = DecisionFiles(tmp_path, "g1")
    keep(files.of("cache"))
    flush(files)
    assert files.num_dropped == 1
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    files = DecisionFiles(folder, "g1")
    log = files.of("cache")
    for number in range(20):
        keep(log, number)
        flush(files)
    files.close()
    return (folder / "g1.a").read_bytes()


@given(cut=st.integers(min_value=0))
def test_a_torn_tail_is_passed_over_and_counted(tmp_path_factory, written, cut):
    cut %= len(written) + 1
    path = tmp_path_factory.mktemp("torn") / "g1.a"
    path.write_bytes(written[:cut])
    found = read_decision_file(path)
    whole = len(written) // 20
    assert [one.now for one in found.decisions] == list(range(cut // whole))
    assert found.num_lost_bytes == cut % whole


@given(place=st.integers(min_value=0), change=st.integers(1, 255), junk=st.binary(max_size=50))
def test_a_changed_byte_costs_its_own_block_only(tmp_path_factory, written, place, change, junk):
    place %= len(written)
    damaged = bytearray(written)
    damaged[place] ^= change
    path = tmp_path_factory.mktemp("damaged") / "g1.a"
    path.write_bytes(bytes(damaged[: len(written) // 2]) + junk + bytes(damaged[len(written) // 2 :]))
    found = read_decision_file(path)
    assert len(found.decisions) == 19
    assert found.num_lost_bytes == len(written) // 20 + len(junk)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_decisions_are_counted_not_believed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("strange") / "g1.a"
    path.write_bytes(data)
    assert read_decision_file(path).num_lost_bytes == len(data)
