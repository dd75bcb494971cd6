"""What kill -9 and power cuts can take from the answer log: no given answer's record, and at most the last 0.1 s."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import textwrap

import pytest

from datahall.core.errors import IntegrityError, StorageFullError
from datahall.core.failpoints import armed
from datahall.serve.segment_files import OPEN, read_segment, segment_files
from datahall.serve.segments import AnswerLog
from datahall.testing.answers import some_answer

KEY = b"0123456789abcdef"
NUM_KILLS = 50

# Forks a writer for each line that it reads: imports cost more than all else, and a fork has them. The writer tells the
# sequence of each answer only once `append` has returned, as the gateway does; small segments make it seal often. With
# `buffered`, records wait in the process for 4 KiB of them: the control.
WRITER = """
import os, sys
from pathlib import Path
from datahall.serve.segments import AnswerLog
from datahall.testing.answers import some_answer

buffered = sys.argv[1] == "buffered"

class Log(AnswerLog):
    held = b""

    def _write(self, data):
        if not buffered:
            return super()._write(data)
        self.held += data
        self._num_bytes += len(data)
        if len(self.held) >= 4096:
            os.pwrite(self._descriptor, self.held, self._num_bytes - len(self.held))
            self.held = b""

def write(folder):
    log = Log(folder, "g1", b"0123456789abcdef", now_ns=0, max_records=10**9 if buffered else 250)
    for number in range(10**9):
        first = log.next_sequence
        log.append([some_answer(first + more) for more in range(number % 4 + 1)])
        os.write(1, b"%d\\n" % (log.next_sequence - 1))
        log.rotate(0)

for line in sys.stdin:
    child = os.fork()
    if not child:
        write(Path(line.strip()))
    os.write(1, b"child %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


class Writers:
    """Starts writers, kills each after it has told of some answers, and returns the last that it told of."""

    def __init__(self, mode):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(self, folder, after):
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        given, child, num_told = -1, None, 0
        for line in self.process.stdout:
            if line.startswith("dead"):
                return given
            if line.startswith("child"):
                child = int(line.split()[1])
            else:
                given, num_told = int(line), num_told + 1
            if child is not None and num_told >= after:
                os.kill(child, 9)
                child, after = None, 10**9
        raise AssertionError("the writers ended")

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def writers(request):
    made = Writers(request.param)
    yield made
    made.end()


def kept_in(folder):
    return [one.sequence for path in segment_files(folder) for one in read_segment(path, KEY).answers]


@pytest.mark.parametrize("writers", ["plain"], indirect=True)
def test_killed_at_any_moment_a_gateway_loses_no_given_answer(writers, tmp_path):
    draw = random.Random(11)  # noqa: S311  seeded moments
    for kill in range(NUM_KILLS):
        given = writers.kill_one(tmp_path, draw.randrange(1, 90))
        kept = kept_in(tmp_path)
        assert kept == list(range(len(kept))), "no gap, nothing twice, whichever kill it was"
        assert given < len(kept), f"kill {kill} took the record of a given answer"
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == len(kept_in(tmp_path))


@pytest.mark.parametrize("writers", ["buffered"], indirect=True)
def test_with_records_held_in_the_process_the_same_kills_lose_some(writers, tmp_path):
    draw = random.Random(11)  # noqa: S311  seeded moments
    num_lost = 0
    for kill in range(10):
        folder = tmp_path / str(kill)
        folder.mkdir()
        given = writers.kill_one(folder, draw.randrange(1, 90))
        num_lost += given >= len(kept_in(folder))
    assert num_lost >= 8


class Disk:
    """Knows what would survive a power cut: what each file held when it was last synced, and the names synced."""

    def __init__(self, folder):
        self.folder = folder
        self.synced, self.named = {}, set()

    def __call__(self, name):
        if name.endswith("/sync:after") and name.startswith("answers.") and not name.startswith("answers.next"):
            for path in segment_files(self.folder):
                self.synced[path.stat().st_ino] = path.stat().st_size
        if name.endswith("/folder:after"):
            self.named = set(segment_files(self.folder))

    def cut_power(self, draw):
        """Leave of each open segment what was synced, then any part of the rest: whole, torn, or other bytes."""
        for path in segment_files(self.folder):
            if path.suffix == OPEN and path not in self.named and draw.random() < 0.5:
                path.unlink()
            elif path.suffix == OPEN:
                data = path.read_bytes()
                size = self.synced.get(path.stat().st_ino, 0)
                rest = data[size : size + draw.randrange(len(data) - size + 1)]
                end = draw.choice((rest, rest[:-1] + b"\\0" * 9, bytes(len(rest)), draw.randbytes(len(rest))))
                path.write_bytes(data[:size] + end)


class Unsynced(AnswerLog):
    """The control: a log that never asks the disk to keep anything."""

    def sync_work(self):
        return None


def live_until_power_fails(folder, kind, draw):
    """Give answers, tick every 100 ms and cut the power; return the times of those given, and of the cut, in ms."""
    disk = Disk(folder)
    given, now_ms, cut_ms = [], 0, draw.randrange(300, 1500)
    with armed(disk):
        log = kind(folder, "g1", KEY, now_ns=0, max_records=50)
        for now_ms in range(cut_ms):
            if draw.random() < 0.2:
                log.append([answer_at(log.next_sequence, now_ms)])
                given.append(now_ms)
            if now_ms % 100 == 99:
                work = log.sync_work()
                if work is not None:
                    work()
                log.rotate(now_ms * 1_000_000)
        os.close(log._descriptor) if log._descriptor >= 0 else None
    disk.cut_power(draw)
    return given, cut_ms


def answer_at(sequence, at_ms):
    return some_answer(sequence, at_ns=at_ms * 1_000_000)


def lost_ms(folder, kind, draw):
    """Return how long before the cut the oldest lost answer was given, 0 where none was lost."""
    given, cut_ms = live_until_power_fails(folder, kind, draw)
    kept = []
    AnswerLog(folder, "g1", KEY, now_ns=0)
    for path in segment_files(folder):
        kept += [one.at_ns // 1_000_000 for one in read_segment(path, KEY).answers]
    assert kept == given[: len(kept)], "what is kept is a beginning of what was given"
    return cut_ms - given[len(kept)] if len(kept) < len(given) else 0


def worst_of_many_cuts(tmp_path, kind):
    worst = 0
    for seed in range(16):
        folder = tmp_path / str(seed)
        folder.mkdir()
        worst = max(worst, lost_ms(folder, kind, random.Random(seed)))  # noqa: S311  seeded cuts
    return worst


def test_a_power_cut_takes_the_last_tenth_of_a_second_at_most(tmp_path):
    worst = worst_of_many_cuts(tmp_path, AnswerLog)
    assert 0 < worst <= 100, "some cuts take something, or they would show nothing"


def test_without_a_sync_a_power_cut_takes_more(tmp_path):
    assert worst_of_many_cuts(tmp_path, Unsynced) > 100


class ForgetfulDisk:
    """A disk that fails one sync and forgets what it should have kept, though it says of each later one that it is done.

    That is what Linux does with pages that it could not write (Rebello et al., "Can Applications Recover from fsync
    Failures?", 2020).
    """

    def __init__(self, folder, step):
        self.folder, self.step = folder, step
        self.kept = {}
        self.lost = {}
        self.held = []

    def __call__(self, name):
        if name == f"{self.step}:before" and not self.lost:
            for path in segment_files(self.folder):
                status = path.stat()
                self.lost[status.st_ino] = (self.kept.get(status.st_ino, 0), status.st_size)
                self.held.append(path.open("rb"))  # so that no other file is given its number
            raise OSError(errno.EIO, "Input/output error")
        if name in {"answers.tick/sync:after", "answers.seal/sync:after"}:
            self.kept |= {path.stat().st_ino: path.stat().st_size for path in segment_files(self.folder)}

    def cut_power(self):
        for file in self.held:
            file.close()
        for path in segment_files(self.folder):
            start, stop = self.lost.get(path.stat().st_ino, (0, 0))
            data = path.read_bytes()
            path.write_bytes(data[:start] + bytes(stop - start) + data[stop:])


class Retrying(AnswerLog):
    """The control: a log that syncs the same file again and believes what it is told."""

    def sync_work(self):
        self._dirty = (bool(self._unkept) and self._descriptor >= 0) or self._dirty
        self._unkept.clear()
        return super().sync_work()

    def seal_work(self):
        self._unkept.clear()
        return super().seal_work()


def tick(log, now_ns=0):
    """Do what the gateway's timer does; return whether the disk did its part."""
    try:
        if (work := log.sync_work()) is not None:
            work()
        log.end(now_ns)
        if (seal := log.seal_work()) is not None:
            seal()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("step", ["answers.tick/sync", "answers.seal/sync"])
@pytest.mark.parametrize("kind", [AnswerLog, Retrying])
def test_what_the_disk_failed_to_keep_is_written_into_another_file(tmp_path, step, kind):
    disk = ForgetfulDisk(tmp_path, step)
    log = kind(tmp_path, "g1", KEY, now_ns=0, max_age_ns=10)
    with armed(disk):
        log.append([answer_at(0, 0), answer_at(1, 1)])
        assert not tick(log, 10 if step == "answers.seal/sync" else 0)
        if kind is AnswerLog:
            with pytest.raises(StorageFullError, match="written anew"):
                log.append([answer_at(2, 2)])
        assert tick(log)
        log.append([answer_at(2, 2)])
        assert tick(log, 20)
        log.close(30)
    disk.cut_power()
    if kind is Retrying:
        with pytest.raises(IntegrityError):
            [read_segment(path, KEY) for path in segment_files(tmp_path)]
        return
    kept = [one.sequence for path in segment_files(tmp_path) for one in read_segment(path, KEY).answers]
    assert kept == [0, 1, 2]
    assert AnswerLog(tmp_path, "g1", KEY, now_ns=0).next_sequence == 3


def test_what_nobody_can_read_any_more_is_told_and_holds_up_no_answer(tmp_path):
    log, disk = AnswerLog(tmp_path, "g1", KEY, now_ns=0), ForgetfulDisk(tmp_path, "answers.tick/sync")
    with armed(disk):
        log.append([answer_at(0, 0)])
        log.append([answer_at(1, 1)])
        assert not tick(log)
        (path,) = segment_files(tmp_path)
        os.truncate(path, path.stat().st_size - 1)  # the page was dropped, and the disk has less
        with pytest.raises(IntegrityError, match="records of 1 answers"):
            tick(log)
        log.append([answer_at(2, 2)])
        log.close(1)
    disk.cut_power()
    kept = [one.sequence for path in segment_files(tmp_path) for one in read_segment(path, KEY).answers]
    assert kept == [0, 2]
