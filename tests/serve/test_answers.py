"""Ids that nobody can forge, and a log that has every answer before its client does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import IntegrityError, NotFoundError, UnavailableError
from datahall.serve.answers import AnswerIdParts, make_answer_id, open_answer_id
from datahall.serve.segment_files import find_local, first_sequence, read_segment, segment_files
from datahall.serve.segments import AnswerLog
from datahall.testing.answers import some_answer

KEY = b"0123456789abcdef"

parts = st.builds(
    AnswerIdParts,
    gateway=st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32),
    sequence=st.integers(0, 2**48 - 1),
    route_revision=st.integers(0, 2**40 - 1),
    at_ns=st.integers(0, 2**40).map(lambda ms: ms * 1_000_000),
)


@given(parts)
def test_an_id_says_what_was_put_in(given_parts):
    text = make_answer_id(given_parts, KEY)
    assert open_answer_id(text, KEY) == given_parts
    assert text.replace("_", "").replace("-", "").isalnum()
    with pytest.raises(IntegrityError):
        open_answer_id(text, b"another key, 16+")


@given(parts, st.data())
def test_an_altered_id_is_refused(given_parts, data):
    text = make_answer_id(given_parts, KEY)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="))
    altered = text[:place] + letter + text[place + 1 :]
    if altered != text:
        with pytest.raises(IntegrityError):
            open_answer_id(altered, KEY)


@given(st.text(max_size=150))
def test_any_text_is_refused_without_a_crash(text):
    for candidate in (text, "ans_" + text):
        with pytest.raises(IntegrityError):
            open_answer_id(candidate, KEY)


def answer(sequence, at_ns=1_000_000_000):
    parts = AnswerIdParts(gateway="g1", sequence=sequence, route_revision=3, at_ns=at_ns)
    return some_answer(sequence, id=make_answer_id(parts, KEY), at_ns=at_ns, route_revision=3, salt=os.urandom(16))


def write(log, count):
    log.append([answer(log.next_sequence + offset) for offset in range(count)])


def test_records_are_found_by_their_id(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0, max_records=10)
    for now in range(5):
        write(log, 7)
        log.sync_work()()
        log.rotate(now)
    names = [path.name for path in segment_files(tmp_path)]
    assert names == ["g1-000000000000000.sealed", "g1-000000000000014.sealed", "g1-000000000000028.open"]
    for sequence in range(35):
        given_parts = open_answer_id(answer(sequence).id, KEY)
        segment, index = find_local(tmp_path, given_parts, KEY)
        assert segment.answers[index].sequence == sequence
    with pytest.raises(NotFoundError):
        find_local(tmp_path, open_answer_id(answer(35).id, KEY), KEY)
    with pytest.raises(NotFoundError):
        find_local(tmp_path, open_answer_id(answer(3, at_ns=2_000_000_000).id, KEY), KEY)
    log.close(9)


def test_a_minute_old_segment_is_sealed_and_an_empty_one_is_not_made(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0, max_age_ns=60)
    assert log.rotate(100) is None
    write(log, 1)
    assert log.rotate(159) is None
    sealed = log.rotate(160)
    assert sealed is not None
    assert sealed.suffix == ".sealed"
    log.close(200)
    assert segment_files(tmp_path) == [sealed]


def test_a_sync_without_a_descriptor_to_spare_is_done_later(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    spare = os.open(tmp_path, os.O_RDONLY)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))  # no lower number is free
    try:
        with pytest.raises(OSError, match="Too many open files"):
            log.sync_work()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(spare)
    work = log.sync_work()
    assert work is not None
    work()
    assert log.sync_work() is None
    log.close(1)


def test_numbers_go_on_after_a_restart(tmp_path):
    for start in (0, 3, 6):
        log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
        assert log.next_sequence == start
        write(log, 3)
        log.close(0)
    assert AnswerLog(tmp_path, "other", KEY, now_ns=0).next_sequence == 0
    assert AnswerLog(tmp_path, "g", KEY, now_ns=0).next_sequence == 0


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_tail_is_cut_off_and_reported(tmp_path, cut):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    write(log, 1)
    path = segment_files(tmp_path)[0]
    whole = path.stat().st_size
    write(log, 3)
    os.close(log._descriptor)
    size = path.stat().st_size
    os.truncate(path, size - cut)
    assert len(read_segment(path, KEY).answers) == 2
    again = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    assert again.num_torn_bytes == size - cut - whole
    assert again.next_sequence == 2
    assert len(read_segment(segment_files(tmp_path)[0], KEY).answers) == 2
    assert [one.suffix for one in segment_files(tmp_path)] == [".sealed"]


def test_a_flipped_bit_in_a_sealed_segment_is_an_error(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 3)
    log.close(0)
    path = segment_files(tmp_path)[0]
    assert len(read_segment(path, KEY).answers) == 3
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        read_segment(path, KEY)


def test_a_log_that_cannot_be_written_says_so_and_keeps_its_number(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    real, log._descriptor = log._descriptor, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(UnavailableError, match="answer log"):
        write(log, 1)
    os.close(log._descriptor)
    log._descriptor = real
    assert log.next_sequence == 1
    write(log, 1)
    log.close(0)
    assert [one.sequence for one in read_segment(segment_files(tmp_path)[0], KEY).answers] == [0, 1]


WRITER = """
    import sys
    from pathlib import Path
    from datahall.serve.segments import AnswerLog
    from datahall.testing.answers import some_answer
    folder = Path(sys.argv[1])
    log = AnswerLog(folder, "g1", b"0123456789abcdef", now_ns=0)
    while True:
        sequence = log.next_sequence
        log.append([some_answer(sequence)])
        print(sequence, flush=True)
"""


def test_kill_9_loses_no_answer_that_was_given(tmp_path):
    """Each number printed stands for an answer that a client has: its record must be there."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    given_out = [int(process.stdout.readline()) for _ in range(200)]
    os.kill(process.pid, signal.SIGKILL)
    given_out += [int(line) for line in process.stdout.read().splitlines() if line.isdigit()]
    process.wait(10)
    process.stdout.close()
    kept = {one.sequence for one in read_segment(segment_files(Path(tmp_path))[0], KEY).answers}
    assert set(given_out[:-1]) <= kept  # the last line may be a torn print, never a torn answer
    again = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    assert again.next_sequence == max(kept) + 1
    assert first_sequence(segment_files(tmp_path)[0]) == 0
