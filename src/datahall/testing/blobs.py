# ruff: noqa: D102  (a test's name is its docstring)
"""What every blob store must do: a suite that a backend's tests subclass with their own `store` fixture."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, NotFoundError, UserError
from datahall.core.ports import BlobStore
from datahall.core.records import Grant
from datahall.security.frames import FRAME_BYTES, FRAME_EXTRA_BYTES, TAG_BYTES
from datahall.security.sealing import MAGIC

STORED_FRAME_BYTES = FRAME_BYTES + FRAME_EXTRA_BYTES


class TamperableStore(BlobStore, Protocol):
    """A store whose sealed bytes a test can read and replace, as an intruder on its disk could."""

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored."""

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        """Put other bytes in its place."""


class BlobStoreContract:
    """Subclass it, override the `store` fixture, and the tests below run against your backend."""

    num_flips: ClassVar[int] = 1000

    @pytest.fixture
    def store(self) -> TamperableStore:
        """Return an empty store."""
        raise NotImplementedError

    def test_what_was_put_comes_back(self, store: TamperableStore) -> None:
        # The examples share one store: objects never meet, which is part of the law.
        @settings(max_examples=40, deadline=None)
        @given(st.binary(max_size=4096))
        @example(b"")
        def law(data: bytes) -> None:
            grant = store.put(data, team="ward")
            assert (grant.digest, grant.size_bytes) == (digest_bytes(data), len(data))
            assert store.get(grant, team="ward") == data

        law()

    @pytest.mark.parametrize("size", [FRAME_BYTES - 1, FRAME_BYTES, 3 * FRAME_BYTES, 3 * FRAME_BYTES + 7])
    def test_large_objects_come_back(self, store: TamperableStore, size: int) -> None:
        data = random.Random(size).randbytes(size)  # noqa: S311  incompressible, so several frames
        grant = store.put(memoryview(data), team="ward")
        assert store.get(grant, team="ward") == data

    def test_bytes_that_pass_through_are_the_bytes_put_whole(self, store: TamperableStore) -> None:
        sizes = st.one_of(st.integers(0, 50), st.integers(FRAME_BYTES - 3, FRAME_BYTES + 3), st.just(2 * FRAME_BYTES))

        @settings(max_examples=25, deadline=None)
        @given(st.lists(sizes, max_size=4))
        @example([])
        @example([0, 0])
        def law(lengths: list[int]) -> None:
            chunks = [bytes([number]) * length for number, length in enumerate(lengths)]
            grant, whole = store.write(chunks, team="ward"), b"".join(chunks)
            assert (grant.digest, grant.size_bytes) == (digest_bytes(whole), len(whole))
            assert store.get(grant, team="ward") == whole
            assert b"".join(store.read(grant, team="ward")) == whole

        law()

    def test_a_buffer_that_is_filled_again_while_it_passes_through_is_stored_as_it_was(
        self, store: TamperableStore
    ) -> None:
        buffer, parts = bytearray(FRAME_BYTES), [bytes([number]) * FRAME_BYTES for number in range(6)]

        def reusing() -> Iterator[memoryview]:
            for part in parts:
                buffer[:] = part
                yield memoryview(buffer)

        assert store.get(store.write(reusing(), team="ward"), team="ward") == b"".join(parts)

    def test_a_range_is_the_slice(self, store: TamperableStore) -> None:
        data = half_compressible(3 * FRAME_BYTES + 12_345, seed=5)
        grant = store.put(data, team="ward")
        edges = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, len(data) - 1, len(data)]
        places = st.one_of(st.sampled_from(edges), st.integers(0, len(data) + 5))

        @settings(max_examples=40, deadline=None)
        @given(places, st.one_of(st.none(), places))
        def law(start: int, stop: int | None) -> None:
            assert b"".join(store.read(grant, team="ward", start=start, stop=stop)) == data[start:stop]

        law()
        for start, stop in ((-1, 5), (0, -1)):
            with pytest.raises(UserError):
                b"".join(store.read(grant, team="ward", start=start, stop=stop))

    def test_a_reader_may_leave_early(self, store: TamperableStore) -> None:
        grant = store.put(bytes(8 * FRAME_BYTES), team="ward")
        pieces = store.read(grant, team="ward")
        assert next(pieces) == bytes(FRAME_BYTES)
        del pieces
        assert b"".join(store.read(grant, team="ward", start=5, stop=9)) == bytes(4)

    def test_a_source_that_fails_leaves_nothing(self, store: TamperableStore) -> None:
        def failing() -> Iterator[bytes]:
            yield bytes(3 * FRAME_BYTES)
            raise OSError(errno.EIO, "the source's own disk")

        with pytest.raises(OSError, match="the source's own disk"):
            store.write(failing(), team="ward")
        assert store.list(team="ward") == []

    def test_many_threads_may_share_a_store(self, store: TamperableStore) -> None:
        def there_and_back(number: int) -> bool:
            data = bytes([number]) * (FRAME_BYTES + number)
            return store.get(store.put(data, team="ward"), team="ward") == data

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(there_and_back, range(12)))
        assert len(store.list(team="ward")) == 12

    def test_equal_bytes_make_two_objects_that_share_no_key(self, store: TamperableStore) -> None:
        one, two = store.put(b"same", team="ward"), store.put(b"same", team="ward")
        assert one.object != two.object
        assert one.key != two.key
        assert store.list(team="ward") == sorted([one.object, two.object])
        with pytest.raises(IntegrityError):
            store.get(msgspec.structs.replace(one, object=two.object), team="ward")

    def test_stored_bytes_are_small_and_say_nothing(self, store: TamperableStore) -> None:
        text, noise = b"Erika Mustermann " * 100_000, random.Random(6).randbytes(50_000)  # noqa: S311  test data
        for data in (text, noise):
            grant = store.put(data, team="ward")
            stored = store.read_stored(grant.object, team="ward")
            assert [at for at in range(0, 50_000, 8) if data[at : at + 8] in stored] == []
            assert grant.key not in stored
            assert len(stored) < (10_000 if data is text else len(noise) + 200)
            assert grant.digest[:8] not in grant.object

    def test_objects_can_be_deleted_twice(self, store: TamperableStore) -> None:
        grant = store.put(b"gone", team="ward")
        store.delete(grant.object, team="ward")
        store.delete(grant.object, team="ward")
        assert store.list(team="ward") == []
        with pytest.raises(NotFoundError):
            store.get(grant, team="ward")

    def test_teams_do_not_see_each_other(self, store: TamperableStore) -> None:
        grant = store.put(b"ours", team="ward")
        assert store.list(team="lab") == []
        with pytest.raises(NotFoundError):
            store.get(grant, team="lab")

    def test_an_object_moved_to_another_team_is_refused(self, store: TamperableStore) -> None:
        grant = store.put(b"ours", team="ward")
        store.write_stored(grant.object, store.read_stored(grant.object, team="ward"), team="lab")
        with pytest.raises(IntegrityError):
            store.get(grant, team="lab")
        assert store.get(grant, team="ward") == b"ours"

    def test_an_object_under_another_name_is_refused(self, store: TamperableStore) -> None:
        grant = store.put(b"old model", team="ward")
        renamed = msgspec.structs.replace(grant, object="0" * 32)
        store.write_stored(renamed.object, store.read_stored(grant.object, team="ward"), team="ward")
        with pytest.raises(IntegrityError):
            store.get(renamed, team="ward")

    def test_a_thousand_flipped_bytes_are_refused_whole_and_in_ranges(self, store: TamperableStore) -> None:
        data = bytes(FRAME_BYTES) + random.Random(1).randbytes(4000)  # noqa: S311  two frames, the first one small
        grant = store.put(data, team="ward")
        stored = store.read_stored(grant.object, team="ward")
        second = len(stored) - _index_bytes(2) - (4000 + FRAME_EXTRA_BYTES)
        draw = random.Random(2)  # noqa: S311  a seeded choice of places
        accepted = []
        for _ in range(self.num_flips):
            at, by = draw.randrange(len(stored)), draw.randrange(1, 256)
            altered = stored[:at] + bytes([stored[at] ^ by]) + stored[at + 1 :]
            if self._reads(store, grant, altered):
                accepted.append((at, by, "whole"))
            # What lies in the first frame's bytes is found by whoever reads that frame; likewise in the second's.
            start = 0 if at < second else FRAME_BYTES
            if self._reads(store, grant, None, start=start, stop=start + 10):
                accepted.append((at, by, "range"))
        assert accepted == []
        assert self._reads(store, grant, stored), "the check must accept what was not altered"

    def test_a_damaged_frame_hurts_nobody_who_reads_another(self, store: TamperableStore) -> None:
        data = random.Random(7).randbytes(3 * FRAME_BYTES)  # noqa: S311  test data
        grant = store.put(data, team="ward")
        stored = bytearray(store.read_stored(grant.object, team="ward"))
        stored[len(MAGIC) + STORED_FRAME_BYTES + 1000] ^= 1
        store.write_stored(grant.object, bytes(stored), team="ward")
        assert b"".join(store.read(grant, team="ward", stop=FRAME_BYTES)) == data[:FRAME_BYTES]
        assert b"".join(store.read(grant, team="ward", start=2 * FRAME_BYTES)) == data[2 * FRAME_BYTES :]
        with pytest.raises(IntegrityError, match="frame 2"):
            b"".join(store.read(grant, team="ward", start=FRAME_BYTES, stop=FRAME_BYTES + 1))

    def test_cut_extended_and_rearranged_objects_are_refused(self, store: TamperableStore) -> None:
        grant = store.put(random.Random(3).randbytes(3 * FRAME_BYTES + 100), team="ward")  # noqa: S311  test data
        stored = store.read_stored(grant.object, team="ward")
        one, two, three, last, index = _parts(stored, 4)
        body = one + two + three + last
        for altered in (
            b"",
            MAGIC,
            index,
            MAGIC + index,
            stored[len(MAGIC) :],
            b"DHBLOB1\n" + body + index,
            MAGIC + body,
            stored[:-1],
            stored[: -len(index)],
            MAGIC + one + index,
            MAGIC + one + two + three + index,
            stored + b"\0",
            stored + index,
            stored + last + index,
            MAGIC + body + bytes(STORED_FRAME_BYTES) + index,
            MAGIC + two + one + three + last + index,
            MAGIC + one + one + three + last + index,
            MAGIC + last + one + two + three + index,
            MAGIC + one + two + last + three + index,
            MAGIC + body[1:] + b"\0" + index,
            MAGIC + stored,
        ):
            assert not self._reads(store, grant, altered)
            assert not self._reads(store, grant, None, start=0, stop=grant.size_bytes)
        assert self._reads(store, grant, stored)

    def test_a_piece_of_another_object_is_refused(self, store: TamperableStore) -> None:
        data = random.Random(4).randbytes(FRAME_BYTES + 100)  # noqa: S311  test data
        one, two = store.put(data, team="ward"), store.put(data, team="ward")
        mine, other = (_parts(store.read_stored(grant.object, team="ward"), 2) for grant in (one, two))
        for spliced in (
            MAGIC + mine[0] + other[1] + mine[2],
            MAGIC + other[0] + mine[1] + mine[2],
            MAGIC + mine[0] + mine[1] + other[2],
            MAGIC + b"".join(other),
        ):
            assert not self._reads(store, one, spliced)

    def test_a_grant_that_lies_is_refused(self, store: TamperableStore) -> None:
        grant = store.put(bytes(1_000_000), team="ward")
        for lie in (
            {"size_bytes": 999_999},
            {"size_bytes": 1_000_001},
            {"size_bytes": -1},
            {"size_bytes": 1 << 60},
            {"key": bytes(32)},
            {"key": b"short"},
            {"digest": "0" * 64},
            {"digest": "x"},
            {"object": f"{grant.digest[:20]}/../../{'0' * 6}"},
            {"object": "../../../etc/passwd"},
            {"object": f"{grant.object}/../../x"},
        ):
            liar = msgspec.structs.replace(grant, **lie)
            with pytest.raises(IntegrityError):
                store.get(liar, team="ward")
            if "digest" not in lie:  # a range does not look at it
                with pytest.raises(IntegrityError):
                    b"".join(store.read(liar, team="ward", start=3, stop=5))

    @pytest.mark.parametrize("team", ["", ".", "..", "../lab", "a/b", "/etc", ".hidden", "a\0b", "a\n", "x" * 65])
    def test_a_team_s_name_stays_a_name(self, store: TamperableStore, team: str) -> None:
        with pytest.raises(UserError):
            store.put(b"data", team=team)
        with pytest.raises(UserError):
            store.list(team=team)

    @pytest.mark.parametrize(
        "name",
        ["", "..", "../../keys/master.key", "0" * 31, "0" * 33, "g" * 32, "A" * 32, f"{'0' * 32}/../../x"],
    )
    def test_only_objects_can_be_deleted(self, store: TamperableStore, name: str) -> None:
        with pytest.raises(UserError):
            store.delete(name, team="ward")

    def test_what_is_missing_is_said_before_the_first_byte(self, store: TamperableStore) -> None:
        grant = store.put(b"gone", team="ward")
        store.delete(grant.object, team="ward")
        with pytest.raises(NotFoundError):
            store.read(grant, team="ward")

    def _reads(
        self, store: TamperableStore, grant: Grant, altered: bytes | None, *, start: int | None = None, stop: int = 0
    ) -> bool:
        """Whether the object is read once `altered` lies in its place (None: what lies there now)."""
        if altered is not None:
            store.write_stored(grant.object, altered, team="ward")
        try:
            if start is None:
                store.get(grant, team="ward")
            else:
                b"".join(store.read(grant, team="ward", start=start, stop=stop))
        except IntegrityError:
            return False
        return True


def _parts(stored: bytes, num: int) -> list[bytes]:
    """Return the frames of an object of incompressible bytes, and its index."""
    body, index = stored[len(MAGIC) : -_index_bytes(num)], stored[-_index_bytes(num) :]
    frames = [body[at : at + STORED_FRAME_BYTES] for at in range(0, len(body), STORED_FRAME_BYTES)]
    assert len(frames) == num
    return [*frames, index]


def _index_bytes(num: int) -> int:
    return 4 * num + TAG_BYTES


def half_compressible(size_bytes: int, *, seed: int) -> bytes:
    """Return bytes half of which are noise, so that each frame holds some of both."""
    draw = random.Random(seed)  # noqa: S311  test data
    return b"".join(draw.randbytes(2048) + bytes(2048) for _ in range(size_bytes // 4096 + 1))[:size_bytes]
