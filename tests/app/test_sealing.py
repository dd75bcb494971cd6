"""Finished stretches of the answer log get into blob store and ledger, whatever else lies in their folder."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from datahall.app.archive import Archive
from datahall.app.control import Control
from datahall.app.sealing import Sealer, seal_on
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.durable import step
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, StorageFullError, UnavailableError
from datahall.core.failpoints import armed
from datahall.core.ids import HALL_TEAM, is_name
from datahall.core.records import AnswerSegment, Artifact
from datahall.security.access import issue_key
from datahall.security.keys import KeyRing
from datahall.serve.answers import AnswerIdParts
from datahall.serve.segment_files import segment_files
from datahall.serve.segments import AnswerLog
from datahall.testing.answers import some_answer
from datahall.testing.clock import AutoClock

KEY = b"0123456789abcdef"
FIRST_NS = 3_600_000_000_000 * 5 - 2_000_000  # two answers before a full hour


class Failing(SqliteCatalogue):
    """A catalogue that can be made to fail, and stopped just before or after an act."""

    fails: Exception | None = None

    def act(self, act):
        if self.fails is not None:
            raise self.fails
        done = []
        step("test.act", lambda: done.append(super(Failing, self).act(act)))
        return done[0]


class Stoppable(MemoryBlobStore):
    """A blob store that can be stopped just before or after each change."""

    def put(self, data, *, team):
        done = []
        step("test.put", lambda: done.append(super(Stoppable, self).put(data, team=team)))
        return done[0]

    def delete(self, object_name, *, team):
        step("test.delete", lambda: super(Stoppable, self).delete(object_name, team=team))


class Stopped(BaseException):
    """Ends a pass as the end of the process would: no handler of ours sees it."""


class Place:
    """A hall's answer log, blob store, catalogue and keys, without the rest of a hall."""

    def __init__(self, folder):
        self.answers = folder / "answers"
        self.answers.mkdir()
        self.catalogue = Failing(folder / "hall.db", AutoClock())
        self.blobs = Stoppable()
        self.keys = KeyRing.open(folder / "keys", create=True)
        self.vault = Vault(self.catalogue, self.blobs, self.keys)
        self.sealer = self.make_sealer()

    def make_sealer(self):
        return Sealer(self.catalogue, self.vault, self.answers, KEY, AutoClock())

    def archive(self):
        return Archive(self.catalogue, self.vault, self.answers, KEY)

    def write(self, *, num, size=1, gateway="g1"):
        """Write `num` segments of `size` answers, a millisecond apart."""
        log = AnswerLog(self.answers, gateway, KEY, now_ns=0)
        for _ in range(num):
            log.append([answer(log.next_sequence + offset, gateway) for offset in range(size)])
            log.close(1)

    def sealed(self):
        return [segment.id for segment in self.catalogue.find(AnswerSegment)]

    def is_readable_once(self, sequence):
        """Whether the record is found, and lies in one place that is recorded or in one file, not in neither."""
        return self.archive().find(parts_of(sequence)).sequence == sequence


def answer(sequence, gateway="g1"):
    return some_answer(sequence, gateway=gateway, at_ns=at(sequence), salt=bytes(8) + b"%8d" % sequence)


def at(sequence):
    return FIRST_NS + sequence * 1_000_000


def parts_of(sequence, gateway="g1"):
    return AnswerIdParts(gateway=gateway, sequence=sequence, route_revision=1, at_ns=at(sequence))


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.catalogue.close()


def test_each_segment_is_moved_once(place):
    place.write(num=3)
    assert [place.sealer.seal(), place.sealer.seal()] == [3, 0]
    assert segment_files(place.answers) == []
    place.write(num=1)
    assert place.sealer.seal() == 1
    assert place.make_sealer().seal() == 0
    assert len(place.sealed()) == 4
    assert len(place.blobs.list(team=HALL_TEAM)) == 4


def test_a_record_is_found_wherever_it_lies(place):
    place.write(num=2, size=2)
    assert place.sealer.seal() == 2
    place.write(num=1, size=2)  # sealed, not moved
    log = AnswerLog(place.answers, "g1", KEY, now_ns=0)
    log.append([answer(6), answer(7)])
    archive = place.archive()
    assert [archive.find(parts_of(sequence)) for sequence in range(8)] == [answer(sequence) for sequence in range(8)]
    roots = [archive.look(parts_of(sequence)).root for sequence in range(8)]
    assert roots[0] == roots[1] == place.catalogue.get(AnswerSegment, "g1-000000000000000").root
    assert (roots[4] is None, roots[6]) == (False, None), "an open segment has no root yet"
    log.close(1)
    place.sealer.seal()
    assert roots[:6] == [archive.look(parts_of(sequence)).root for sequence in range(6)], "moving changes no root"


def test_what_was_never_written_is_lost_and_says_so(place):
    place.write(num=1)
    place.sealer.seal()
    assert place.archive().look(parts_of(1)).state == "lost"
    other_time = AnswerIdParts(gateway="g1", sequence=0, route_revision=1, at_ns=at(5))
    assert place.archive().look(other_time).state == "lost"
    with pytest.raises(NotFoundError, match="is lost"):
        place.archive().find(other_time)


def test_a_clock_that_was_set_hides_nothing(place):
    log = AnswerLog(place.answers, "g1", KEY, now_ns=0)
    late = msgspec.structs.replace(answer(1), at_ns=at(0) * 9)
    log.append([answer(0), late])
    log.close(1)
    place.sealer.seal()
    jumped = AnswerIdParts(gateway="g1", sequence=1, route_revision=1, at_ns=at(0) * 9)
    assert place.archive().find(jumped) == late


def test_the_hall_s_own_team_is_nobody_else_s(place):
    assert not is_name(HALL_TEAM)
    place.write(num=1)
    place.sealer.seal()
    (artifact,) = place.catalogue.find(Artifact)
    assert artifact.team == HALL_TEAM
    with pytest.raises(Exception, match="name of a team"):
        issue_key(name="n", principal="p", team=HALL_TEAM, scopes=("read",), clock=AutoClock())


def test_an_object_whose_key_was_retired_before_it_had_a_name_is_stored_anew(place):
    place.write(num=1)
    place.catalogue.fails = UnavailableError("not now")
    assert place.sealer.attempt() == 0
    place.catalogue.fails = None
    Control(SimpleNamespace(catalogue=place.catalogue, keys=place.keys, vault=place.vault)).rotate_keys(retire=True)
    assert (place.sealer.attempt(), "retired_master" in place.sealer.problems[0]) == (0, True)
    assert (place.sealer.attempt(), place.sealer.problems) == (1, ())
    assert place.is_readable_once(0)


def test_a_stray_file_is_passed_over(place):
    for name in ("x.sealed", "g1-x.sealed", "g1-1.sealed", "-.open", ".sealed"):
        (place.answers / name).write_bytes(b"")
    place.write(num=2)
    assert (place.sealer.seal(), place.sealer.problems) == (2, ())


def test_a_damaged_segment_is_told_and_the_next_ones_are_sealed(place):
    place.write(num=3)
    first = segment_files(place.answers)[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    assert [place.sealer.seal(), place.sealer.seal()] == [2, 0]
    (problem,) = place.sealer.problems
    assert first.name in problem
    assert "cannot be sealed" in problem
    first.write_bytes(whole)
    assert (place.sealer.seal(), place.sealer.problems) == (1, ())
    assert len(place.sealed()) == 3


def test_another_segment_of_a_known_name_stays_where_it_is(place):
    place.write(num=1)
    place.sealer.seal()
    (place.answers / "g1.next").unlink()  # as after a folder was emptied by hand: numbers begin anew
    place.write(num=1, size=2)
    assert place.sealer.seal() == 0
    assert "another segment of this name" in place.sealer.problems[0]
    assert place.is_readable_once(1)


@pytest.mark.parametrize("error", [UnavailableError("the disk is full"), ValueError("the disk is full")])
def test_no_error_ends_the_sealing_for_good(place, error):
    place.write(num=1)
    place.catalogue.fails = error
    problems: list[str] = []
    seen = []

    def wait():
        seen.append(list(problems))
        if len(seen) == 3:
            place.catalogue.fails = None
        return len(seen) == 4

    seal_on(place.sealer, wait, problems)
    assert [len(problems) for problems in seen] == [0, 1, 1, 0]
    assert "the disk is full" in seen[1][0]
    assert len(place.sealed()) == 1
    assert len(place.blobs.list(team=HALL_TEAM)) == 1, "the object of the failed act was used, not stored again"


def test_without_a_blob_store_segments_wait_and_are_read_where_they_are(place, monkeypatch):
    place.write(num=2)

    def refuse(_data, *, team):
        raise StorageFullError(f"no room for {team}")

    with monkeypatch.context() as patched:
        patched.setattr(place.blobs, "put", refuse)
        assert place.sealer.attempt() == 0
    assert "no room for" in place.sealer.problems[0]
    assert [place.is_readable_once(sequence) for sequence in range(2)] == [True, True]
    assert len(segment_files(place.answers)) == 2
    assert (place.sealer.attempt(), place.sealer.problems) == (2, ())
    assert segment_files(place.answers) == []


def steps_of(work):
    """Return the names of all durable steps' ends that `work` reaches."""
    names = []
    with armed(names.append):
        work()
    return names


def test_a_pass_that_ends_at_any_step_loses_nothing_and_seals_nothing_twice(tmp_path):
    (tmp_path / "dry").mkdir()
    dry = Place(tmp_path / "dry")
    dry.write(num=2, size=3)
    names = steps_of(dry.sealer.seal)
    dry.catalogue.close()
    assert [name for name in names if not name.startswith("db.")][:6] == [
        "test.put:before",
        "test.put:after",
        "test.act:before",
        "test.act:after",
        "answers.moved/remove:before",
        "answers.moved/remove:after",
    ]
    for number in range(len(names)):
        (tmp_path / str(number)).mkdir()
        place = Place(tmp_path / str(number))
        place.write(num=2, size=3)
        left = [number]

        def stop(_name, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with armed(stop), pytest.raises(Stopped):
            place.sealer.seal()
        assert all(place.is_readable_once(sequence) for sequence in range(6))
        place.make_sealer().seal()
        assert all(place.is_readable_once(sequence) for sequence in range(6))
        assert (segment_files(place.answers), len(place.sealed())) == ([], 2)
        place.catalogue.close()


def test_removed_before_it_is_recorded_a_segment_would_be_lost(place):
    """The control: the wrong order of steps is what the test above would notice."""
    place.write(num=1)
    place.catalogue.fails = UnavailableError("down")
    place.sealer.attempt()
    segment_files(place.answers)[0].unlink()
    with pytest.raises(NotFoundError):
        place.is_readable_once(0)


def test_an_erased_record_is_gone_and_everything_else_holds(place):
    place.write(num=2, size=5)
    place.sealer.seal()
    archive = place.archive()
    before = place.catalogue.get(AnswerSegment, "g1-000000000000000")
    old = place.catalogue.get(Artifact, f"{HALL_TEAM}/{before.digest}")
    grant = place.vault.grant(HALL_TEAM, before.digest)
    assert archive.erase("g1", [parts_of(1), parts_of(3), parts_of(7)], actor="owner") == 3
    assert archive.erase("g1", [parts_of(1), parts_of(4)], actor="owner") == 1, "what was erased before is passed over"
    for archive in (archive, place.archive()):  # noqa: B020  the one with a warm cache, and a new one
        for sequence in (1, 3, 4, 7):
            assert archive.look(parts_of(sequence)).state == "erased"
            with pytest.raises(NotFoundError, match="was erased"):
                archive.find(parts_of(sequence))
        for sequence in (0, 2, 5, 6, 8, 9):
            assert archive.find(parts_of(sequence)) == answer(sequence)
        assert archive.look(parts_of(0)).root == before.root, "the leaves of the erased ones still stand for them"
    after = place.catalogue.get(AnswerSegment, before.id)
    assert (after.root, after.num_erased, before.num_erased) == (before.root, 3, 0)
    with pytest.raises(NotFoundError):
        place.catalogue.get(Artifact, old.id)
    with pytest.raises(NotFoundError):
        place.blobs.get(grant, team=HALL_TEAM)
    left = b"".join(place.vault.read(HALL_TEAM, segment.digest) for segment in place.catalogue.find(AnswerSegment))
    assert b"ans_0" in left
    for sequence in (1, 3, 4, 7):
        assert b"ans_%d" % sequence not in left
        assert answer(sequence).salt not in left, "without the salt nobody can test a guess against the leaf"


def test_without_its_leaf_an_erased_record_would_break_the_root(place):
    place.write(num=1, size=3)
    place.sealer.seal()
    archive = place.archive()
    archive.erase("g1", [parts_of(1)], actor="owner")
    segment = place.catalogue.find(AnswerSegment)[0]
    stored = archive._load(segment)
    stored.leaves[1] = bytes(32)
    assert archive.look(parts_of(0)).root != segment.root


def test_what_has_not_moved_cannot_be_erased_yet_and_nothing_is(place):
    place.write(num=1, size=2)
    place.sealer.seal()
    log = AnswerLog(place.answers, "g1", KEY, now_ns=0)
    log.append([answer(2)])
    with pytest.raises(ConflictError, match="minute old"):
        place.archive().erase("g1", [parts_of(0), parts_of(2)], actor="owner")
    assert place.is_readable_once(0)
    log.close(1)


def test_an_erasure_that_ends_at_any_step_is_all_or_nothing(tmp_path):
    (tmp_path / "dry").mkdir()
    dry = Place(tmp_path / "dry")
    dry.write(num=1, size=3)
    dry.sealer.seal()
    names = steps_of(lambda: dry.archive().erase("g1", [parts_of(1)], actor="owner"))
    dry.catalogue.close()
    assert "test.delete:before" in names
    for number in range(len(names)):
        (tmp_path / str(number)).mkdir()
        place = Place(tmp_path / str(number))
        place.write(num=1, size=3)
        place.sealer.seal()
        left = [number]

        def stop(_name, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with armed(stop), pytest.raises(Stopped):
            place.archive().erase("g1", [parts_of(1)], actor="owner")
        states = [place.archive().look(parts_of(sequence)).state for sequence in range(3)]
        assert states in (["kept", "kept", "kept"], ["kept", "erased", "kept"])
        place.archive().erase("g1", [parts_of(1)], actor="owner")
        assert place.archive().look(parts_of(1)).state == "erased"
        assert place.archive().look(parts_of(2)).root == place.catalogue.find(AnswerSegment)[0].root
        place.catalogue.close()


def test_a_stored_segment_that_was_altered_is_refused(place):
    place.write(num=1)
    place.sealer.seal()
    (name,) = place.blobs.list(team=HALL_TEAM)
    stored = place.blobs.read_stored(name, team=HALL_TEAM)
    place.blobs.write_stored(name, stored[:-1] + bytes([stored[-1] ^ 1]), team=HALL_TEAM)
    with pytest.raises(IntegrityError):
        place.archive().find(parts_of(0))
