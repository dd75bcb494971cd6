"""A segment says nothing to whoever lacks the key, and nothing in it can be changed, moved or cut off unseen."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from datahall.core.errors import IntegrityError, NotFoundError, StorageFullError
from datahall.core.records import Answer
from datahall.serve.answers import AnswerIdParts
from datahall.serve.segment_files import find_local, read_segment, segment_files
from datahall.serve.segment_format import HEADER_BYTES, SegmentSeal, open_seal
from datahall.serve.segments import AnswerLog

KEY = b"0123456789abcdef"
WORDS = ("erika", "ward-7", "triage@1.2.3", "SALTSALTSALTSALT")


def answer(sequence, gateway="g1", at_ns=1_000_000):
    return Answer(
        id=f"ans_{sequence}",
        gateway=gateway,
        sequence=sequence,
        at_ns=at_ns,
        principal=WORDS[0],
        team=WORDS[1],
        app="triage",
        version=WORDS[2],
        deployment="d",
        bundle="b" * 64,
        replica="r",
        route_revision=3,
        salt=WORDS[3].encode(),
        input_digest=b"1" * 32,
        output_digest=b"2" * 32,
        num_rows=1,
        latency_us=5,
    )


def test_a_segment_of_another_version_is_told_of_and_not_taken_for_a_torn_one(tmp_path):
    path = tmp_path / "g1-000000000000000.open"
    path.write_bytes(b"DHANSW1\n" + bytes(100))
    with pytest.raises(IntegrityError, match="another version"):
        read_segment(path, KEY)
    with pytest.raises(IntegrityError, match="another version"):
        AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    assert path.exists()


def write(log, num, at_ns=1_000_000):
    log.append([answer(log.next_sequence + offset, log.gateway, at_ns) for offset in range(num)])


def segment_of(folder, *, nums=(2, 3), gateway="g1"):
    """Return a sealed segment of one write for each number of answers."""
    folder.mkdir(exist_ok=True)
    log = AnswerLog(folder, gateway, KEY, now_ns=0)
    for num in nums:
        write(log, num)
    log.close(1)
    return segment_files(folder, gateway)[-1]


def test_what_was_written_comes_back_and_says_nothing_on_the_disk(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 3)
    (path,) = segment_files(tmp_path)
    while_open = path.read_bytes()
    log.close(0)
    (path,) = segment_files(tmp_path)
    segment = read_segment(path, KEY)
    assert segment.answers == tuple(answer(sequence) for sequence in range(3))
    for word in WORDS:
        assert word.encode() in segment.raw[0], "the check would see it in clear"
        assert word.encode() not in while_open + path.read_bytes()


def test_a_flipped_bit_anywhere_in_a_sealed_segment_is_refused(tmp_path):
    path = segment_of(tmp_path)
    whole = path.read_bytes()
    draw = random.Random(1)  # noqa: S311  a seeded choice of places
    for at in [*range(HEADER_BYTES + 16), *(draw.randrange(len(whole)) for _ in range(300)), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(IntegrityError):
            read_segment(path, KEY)
    path.write_bytes(whole)
    assert len(read_segment(path, KEY).raw) == 5


def test_a_segment_cut_between_two_writes_is_refused(tmp_path):
    path = segment_of(tmp_path, nums=(1, 1))
    whole = path.read_bytes()
    end = 4 + 16
    frame = (len(whole) - HEADER_BYTES - end) // 2
    path.write_bytes(whole[: HEADER_BYTES + frame])
    with pytest.raises(IntegrityError, match="its end is missing"):
        read_segment(path, KEY)
    path.write_bytes(whole[: HEADER_BYTES + frame] + whole[-end:])
    with pytest.raises(IntegrityError):
        read_segment(path, KEY)
    path.write_bytes(whole[:HEADER_BYTES] + whole[HEADER_BYTES + frame :])  # the first write is taken out
    with pytest.raises(IntegrityError):
        read_segment(path, KEY)


def test_a_segment_under_another_name_or_key_is_refused(tmp_path):
    path = segment_of(tmp_path)
    with pytest.raises(IntegrityError, match=r"answers\.key"):
        read_segment(path, b"another key, 16+")
    for name in ("g2-000000000000000.sealed", "g1-000000000000005.sealed"):
        (tmp_path / name).write_bytes(path.read_bytes())
        with pytest.raises(IntegrityError, match="of this hall, gateway and place"):
            read_segment(tmp_path / name, KEY)


def test_a_write_of_another_segment_is_refused(tmp_path):
    one, two = segment_of(tmp_path / "one"), segment_of(tmp_path / "two")
    mine, other = one.read_bytes(), two.read_bytes()
    assert len(mine) == len(other)
    one.write_bytes(mine[:HEADER_BYTES] + other[HEADER_BYTES:])
    with pytest.raises(IntegrityError):
        read_segment(one, KEY)


def test_the_wrong_key_never_costs_a_record(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 3)
    (path,) = segment_files(tmp_path)
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=r"answers\.key"):
        AnswerLog(tmp_path, "g1", b"another key, 16+", now_ns=0)
    assert path.read_bytes() == before, "a restart under a wrong key takes nothing for torn"
    os.close(log._descriptor)
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == 3


def counters(path):
    data = path.read_bytes()
    seal = open_seal(data, KEY, "g1", 0)
    found, offset = [], HEADER_BYTES
    while offset + 12 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        found.append(int.from_bytes(data[offset + 4 : offset + 12], "big"))
        offset += 12 + length
    return seal.salt, found


def test_no_nonce_is_used_twice_even_where_a_write_failed(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    real, log._descriptor = log._descriptor, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StorageFullError):
        write(log, 1)  # part of this frame could be on a real disk
    os.close(log._descriptor)
    log._descriptor = real
    write(log, 1)
    assert counters(segment_files(tmp_path)[0])[1] == [0, 2]
    os.close(real)
    again = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(again, 1)
    salts = {path.read_bytes()[8:24] for path in segment_files(tmp_path)}
    assert len(salts) == 2, "after a restart another file, so another key"
    os.close(again._descriptor)


def test_equal_records_look_different_in_every_segment():
    frames = {SegmentSeal(KEY, "g1", 0).frame(b"\x91\xa4same", offset=HEADER_BYTES, index=0) for _ in range(5)}
    assert len(frames) == 5


def test_numbers_go_on_when_every_segment_has_moved_away(tmp_path):
    path = segment_of(tmp_path)
    path.unlink()
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == 5
    (tmp_path / "g1.next").unlink()  # the control: nothing else knows
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == 0


def test_a_marker_that_is_no_number_is_told(tmp_path):
    segment_of(tmp_path)
    (tmp_path / "g1.next").write_text("many")
    with pytest.raises(IntegrityError, match="number of the gateway's next answer"):
        AnswerLog(tmp_path, "g1", KEY, now_ns=0)


@pytest.mark.parametrize("left", [0, 20, HEADER_BYTES])
def test_a_segment_that_was_only_begun_leaves_nothing(tmp_path, left):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    os.close(log._descriptor)
    (path,) = segment_files(tmp_path)
    os.truncate(path, left)
    again = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    assert (again.next_sequence, again.num_torn_bytes, segment_files(tmp_path)) == (0, left % HEADER_BYTES, [])


def test_what_was_ended_but_not_renamed_is_sealed_as_it_is(tmp_path):
    path = segment_of(tmp_path)
    whole = path.read_bytes()
    path.rename(path.with_suffix(".open"))
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == 5
    assert path.read_bytes() == whole


def test_a_file_that_somebody_removed_holds_up_no_other(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0)
    write(log, 1)
    segment_files(tmp_path)[0].unlink()
    log.close(1)
    write(log, 1)
    log.close(2)
    assert [path.name for path in segment_files(tmp_path)] == ["g1-000000000000001.sealed"]


def write_until_refused(log):
    for _ in range(100):
        write(log, 1)


def test_a_full_spool_takes_no_answer_until_segments_have_moved(tmp_path):
    log = AnswerLog(tmp_path, "g1", KEY, now_ns=0, max_spool_bytes=3_000)
    for now in range(5):
        write(log, 1)
        log.rotate(now, force=now % 3 == 0)
    with pytest.raises(StorageFullError, match="no room") as refused:
        write_until_refused(log)
    assert refused.value.http_status == 507
    given = log.next_sequence
    assert 3 < given < 20
    with pytest.raises(StorageFullError):
        AnswerLog(tmp_path, "g2", KEY, now_ns=0, max_spool_bytes=0).check_room()
    log.close(200)
    kept = [one.sequence for path in segment_files(tmp_path, "g1") for one in read_segment(path, KEY).answers]
    assert kept == list(range(given)), "every answer that was given has its record"
    for path in segment_files(tmp_path, "g1"):
        path.unlink()
    with pytest.raises(StorageFullError):
        log.check_room()
    log.rotate(2_000_000_000)
    write(log, 1)


def test_an_answer_in_a_moved_segment_is_not_on_this_disk(tmp_path):
    path = segment_of(tmp_path)
    parts = AnswerIdParts(gateway="g1", sequence=1, route_revision=3, at_ns=1_000_000)
    assert find_local(tmp_path, parts, KEY)[1] == 1
    path.unlink()
    with pytest.raises(NotFoundError):
        find_local(tmp_path, parts, KEY)
    later = msgspec.structs.replace(parts, at_ns=2_000_000)
    segment_of(tmp_path)
    with pytest.raises(NotFoundError):
        find_local(tmp_path, later, KEY)
