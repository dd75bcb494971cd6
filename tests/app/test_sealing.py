"""Finished stretches of the answer log get into the ledger, whatever else lies in their folder."""

from __future__ import annotations

import pytest

from datahall.app.sealing import Sealer, seal_on
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import UnavailableError
from datahall.core.records import Answer, AnswerSegment
from datahall.serve.segments import AnswerLog
from datahall.testing.clock import AutoClock


class Counted(SqliteCatalogue):
    """A catalogue that counts what it is asked, and can be made to fail."""

    num_gets = 0
    fails: Exception | None = None

    def get(self, kind, record_id):
        self.num_gets += 1
        return super().get(kind, record_id)

    def act(self, act):
        if self.fails is not None:
            raise self.fails
        return super().act(act)


@pytest.fixture
def catalogue(tmp_path):
    made = Counted(tmp_path / "hall.db", AutoClock())
    yield made
    made.close()


@pytest.fixture
def answers(tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    return folder


def write_segments(folder, *, num, gateway="g1"):
    log = AnswerLog(folder, gateway, now_ns=0)
    for _ in range(num):
        fields = dict.fromkeys(Answer.__struct_fields__, "x")
        numbers = {"sequence": log.next_sequence, "at_ns": 1, "route_revision": 1, "num_rows": 1, "latency_us": 1}
        log.append([Answer(**{**fields, **numbers, "gateway": gateway, "salt": b"s" * 16})])
        log.close(1)


def sealed(catalogue):
    return [segment.id for segment in catalogue.find(AnswerSegment)]


def test_each_segment_is_sealed_once_and_asked_for_once(catalogue, answers):
    write_segments(answers, num=3)
    sealer = Sealer(catalogue, answers, AutoClock())
    assert [sealer.seal(), sealer.seal()] == [3, 0]
    assert catalogue.num_gets == 3
    write_segments(answers, num=1)
    assert (sealer.seal(), catalogue.num_gets) == (1, 4)
    assert Sealer(catalogue, answers, AutoClock()).seal() == 0, "what an earlier holder sealed stays as it is"
    assert len(sealed(catalogue)) == 4


def test_a_stray_file_is_passed_over(catalogue, answers):
    for name in ("x.sealed", "g1-x.sealed", "g1-1.sealed", "-.open", ".sealed"):
        (answers / name).write_bytes(b"")
    write_segments(answers, num=2)
    sealer = Sealer(catalogue, answers, AutoClock())
    assert (sealer.seal(), sealer.problems) == (2, ())


def test_a_damaged_segment_is_told_and_the_next_ones_are_sealed(catalogue, answers):
    write_segments(answers, num=3)
    first = min(answers.iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    sealer = Sealer(catalogue, answers, AutoClock())
    assert [sealer.seal(), sealer.seal()] == [2, 0]
    (problem,) = sealer.problems
    assert first.name in problem
    assert "cannot be sealed" in problem
    first.write_bytes(whole)
    assert (sealer.seal(), sealer.problems) == (1, ())
    assert len(sealed(catalogue)) == 3


@pytest.mark.parametrize("error", [UnavailableError("the disk is full"), ValueError("the disk is full")])
def test_no_error_ends_the_sealing_for_good(catalogue, answers, error):
    write_segments(answers, num=1)
    catalogue.fails = error
    problems: list[str] = []
    seen = []

    def wait():
        seen.append(list(problems))
        if len(seen) == 2:
            catalogue.fails = None
        return len(seen) == 3

    seal_on(Sealer(catalogue, answers, AutoClock()), wait, problems)
    assert [len(problems) for problems in seen] == [0, 1, 0]
    assert "the disk is full" in seen[1][0]
    assert len(sealed(catalogue)) == 1
