# ruff: noqa: D102  (a test's name is its docstring)
"""What every blob store must do: a suite that a backend's tests subclass with their own `store` fixture."""

from __future__ import annotations

import random
from typing import Protocol

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, NotFoundError, UserError
from datahall.core.ports import BlobStore
from datahall.core.records import Grant
from datahall.security.sealing import FRAME_BYTES

NUM_FLIPS = 1000
STORED_FRAME_BYTES = FRAME_BYTES + 16
HEADER_BYTES = 8


class TamperableStore(BlobStore, Protocol):
    """A store whose sealed bytes a test can read and replace, as an intruder on its disk could."""

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored."""

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        """Put other bytes in its place."""


class BlobStoreContract:
    """Subclass it, override the `store` fixture, and the tests below run against your backend."""

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

    @pytest.mark.parametrize("size", [FRAME_BYTES - 1, FRAME_BYTES, 3 * FRAME_BYTES + 7])
    def test_large_objects_come_back(self, store: TamperableStore, size: int) -> None:
        data = random.Random(size).randbytes(size)  # noqa: S311  incompressible, so several frames
        grant = store.put(memoryview(data), team="ward")
        assert store.get(grant, team="ward") == data

    def test_equal_bytes_make_two_objects_that_share_no_key(self, store: TamperableStore) -> None:
        one, two = store.put(b"same", team="ward"), store.put(b"same", team="ward")
        assert one.object != two.object
        assert one.key != two.key
        assert store.list(team="ward") == sorted([one.object, two.object])
        with pytest.raises(IntegrityError):
            store.get(msgspec.structs.replace(one, object=two.object), team="ward")

    def test_stored_bytes_are_small_and_say_nothing(self, store: TamperableStore) -> None:
        grant = store.put(b"Erika Mustermann " * 100_000, team="ward")
        stored = store.read_stored(grant.object, team="ward")
        assert b"Mustermann" not in stored
        assert len(stored) < 10_000

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
        renamed = msgspec.structs.replace(grant, object=f"{grant.digest}.{'0' * 32}")
        store.write_stored(renamed.object, store.read_stored(grant.object, team="ward"), team="ward")
        with pytest.raises(IntegrityError):
            store.get(renamed, team="ward")

    def test_a_thousand_flipped_bytes_are_refused(self, store: TamperableStore) -> None:
        grant = store.put(random.Random(1).randbytes(5000), team="ward")  # noqa: S311  test data
        stored = store.read_stored(grant.object, team="ward")
        draw = random.Random(2)  # noqa: S311  a seeded choice of places
        accepted = []
        for _ in range(NUM_FLIPS):
            at, by = draw.randrange(len(stored)), draw.randrange(1, 256)
            altered = stored[:at] + bytes([stored[at] ^ by]) + stored[at + 1 :]
            if self._reads(store, grant, altered):
                accepted.append((at, by))
        assert accepted == []
        assert self._reads(store, grant, stored), "the check must accept what was not altered"

    def test_cut_extended_and_rearranged_objects_are_refused(self, store: TamperableStore) -> None:
        grant = store.put(random.Random(3).randbytes(3 * FRAME_BYTES + 100), team="ward")  # noqa: S311  test data
        stored = store.read_stored(grant.object, team="ward")
        head, body = stored[:HEADER_BYTES], stored[HEADER_BYTES:]
        frames = [body[at : at + STORED_FRAME_BYTES] for at in range(0, len(body), STORED_FRAME_BYTES)]
        assert len(frames) == 4
        one, two, three, last = frames
        for altered in (
            b"",
            head,
            body,
            stored[:-1],
            stored[: -len(last)],
            head + one,
            stored + b"\0",
            stored + last,
            stored + bytes(STORED_FRAME_BYTES),
            head + two + one + three + last,
            head + one + one + three + last,
            head + one + three + last,
            head + last,
            head + one + two + last + three,
            head + stored,
        ):
            assert not self._reads(store, grant, altered)

    def test_a_frame_of_another_object_is_refused(self, store: TamperableStore) -> None:
        data = random.Random(4).randbytes(FRAME_BYTES + 100)  # noqa: S311  test data
        one, two = store.put(data, team="ward"), store.put(data, team="ward")
        mine, other = (store.read_stored(grant.object, team="ward") for grant in (one, two))
        cut = HEADER_BYTES + STORED_FRAME_BYTES
        assert not self._reads(store, one, mine[:cut] + other[cut:])
        assert not self._reads(store, one, other)

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
            {"object": f"{grant.digest}.../../{'0' * 25}"},
            {"object": "../../../etc/passwd"},
            {"object": f"{grant.object}/../../x"},
        ):
            with pytest.raises(IntegrityError):
                store.get(msgspec.structs.replace(grant, **lie), team="ward")

    @pytest.mark.parametrize("team", ["", ".", "..", "../lab", "a/b", "/etc", ".hidden", "a\0b", "a\n", "x" * 65])
    def test_a_team_s_name_stays_a_name(self, store: TamperableStore, team: str) -> None:
        with pytest.raises(UserError):
            store.put(b"data", team=team)
        with pytest.raises(UserError):
            store.list(team=team)

    @pytest.mark.parametrize(
        "name",
        ["", "..", "../../keys/master.key", "0" * 64, f"{'0' * 64}.{'g' * 32}", f"{'0' * 64}.{'0' * 32}/../../x"],
    )
    def test_only_objects_can_be_deleted(self, store: TamperableStore, name: str) -> None:
        with pytest.raises(UserError):
            store.delete(name, team="ward")

    def _reads(self, store: TamperableStore, grant: Grant, altered: bytes) -> bool:
        store.write_stored(grant.object, altered, team="ward")
        try:
            store.get(grant, team="ward")
        except IntegrityError:
            return False
        return True
