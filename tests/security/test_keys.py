"""The key ring is made once, stays private, and wraps each data key for one object of one team."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, UserError
from datahall.security import keys as keys_module
from datahall.security.access import hash_key, is_key_text
from datahall.security.keys import KeyRing

FILES = ["answers.key", "master.key", "owner.key", "signing.key"]
DATA_KEY = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def ring(folder: Path) -> KeyRing:
    return KeyRing.open(folder, create=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def secrets_of(ring: KeyRing) -> tuple[object, ...]:
    return ring.signer.private_raw(), ring.answer_key, ring.owner_key, ring._masters


def test_keys_are_made_once_and_are_private(folder: Path, ring: KeyRing):
    assert names_in(folder) == FILES
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in FILES)
    assert secrets_of(KeyRing.open(folder)) == secrets_of(ring)
    assert secrets_of(KeyRing.open(folder, create=True)) == secrets_of(ring)
    assert len(ring.answer_key) == 32
    assert is_key_text(ring.owner_key)
    assert (folder / "owner.key").read_text().strip() == ring.owner_key
    assert ring.owner_key_hash == hash_key(ring.owner_key)


def test_two_halls_share_no_key(tmp_path: Path):
    one, two = (secrets_of(KeyRing.open(tmp_path / name, create=True)) for name in ("one", "two"))
    assert all(mine != theirs for mine, theirs in zip(one, two, strict=True))


def test_processes_that_start_at_once_agree_on_the_keys(folder: Path):
    found: list[tuple[object, ...]] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(secrets_of(KeyRing.open(folder, create=True)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(one == found[0] for one in found)
    assert names_in(folder) == FILES


def test_opening_makes_nothing(folder: Path):
    with pytest.raises(NotFoundError, match="restore the keys folder"):
        KeyRing.open(folder)
    assert not folder.exists()


def test_a_lost_master_key_is_never_replaced_in_silence(folder: Path, ring: KeyRing):
    (folder / "master.key").unlink()
    with pytest.raises(IntegrityError, match="master key is gone"):
        KeyRing.open(folder, create=True)
    assert not (folder / "master.key").exists()


def test_a_first_start_that_was_cut_short_is_completed(folder: Path, ring: KeyRing):
    (folder / "owner.key").unlink()
    again = KeyRing.open(folder, create=True)
    assert secrets_of(again)[:2] == secrets_of(ring)[:2]
    assert is_key_text(again.owner_key)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_use_is_refused_with_the_line_to_run(folder: Path, ring: KeyRing, name: str, mode: int):
    (folder / name).chmod(mode)
    with pytest.raises(UserError) as caught:
        KeyRing.open(folder)
    assert f"chmod 600 '{folder / name}'" in caught.value.hint
    (folder / name).chmod(0o600)
    KeyRing.open(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", [b"", b"%%%", b"c2hvcnQ=\n", b"\xff\xfe", bytes(100)])
def test_a_file_without_a_key_is_named(folder: Path, ring: KeyRing, name: str, data: bytes):
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        KeyRing.open(folder)
    assert caught.value.where == str(folder / name)


def test_a_fifo_in_the_place_of_a_key_does_not_hang(folder: Path, ring: KeyRing):
    (folder / "answers.key").unlink()
    os.mkfifo(folder / "answers.key", 0o600)
    with pytest.raises(IntegrityError, match="not a file"):
        KeyRing.open(folder)


def test_a_data_key_comes_back_only_for_its_object_and_team(ring: KeyRing):
    wrapped = ring.wrap(DATA_KEY, team="ward", object="a")
    assert ring.unwrap(wrapped, team="ward", object="a") == DATA_KEY
    assert DATA_KEY not in wrapped
    assert wrapped != ring.wrap(DATA_KEY, team="ward", object="a")
    for team, name in (("lab", "a"), ("ward", "b"), ("war", "da"), ("warda", "")):
        with pytest.raises(IntegrityError):
            ring.unwrap(wrapped, team=team, object=name)


def test_every_altered_byte_of_a_wrapped_key_is_refused(ring: KeyRing):
    wrapped = ring.wrap(DATA_KEY, team="ward", object="a")
    for altered in [
        *(wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in range(len(wrapped))),
        *(wrapped[:length] for length in range(len(wrapped))),
        wrapped + b"\0",
    ]:
        with pytest.raises(IntegrityError):
            ring.unwrap(altered, team="ward", object="a")


def test_without_binding_a_key_would_fit_another_object(ring: KeyRing, monkeypatch: pytest.MonkeyPatch):
    """Negative control of the two tests above: what they rely on is the associated data."""
    monkeypatch.setattr(keys_module, "_bound", lambda *_: b"")
    assert ring.unwrap(ring.wrap(DATA_KEY, team="ward", object="a"), team="lab", object="b") == DATA_KEY


def test_another_hall_s_keys_unwrap_nothing(ring: KeyRing, tmp_path: Path):
    other = KeyRing.open(tmp_path / "other", create=True)
    with pytest.raises(IntegrityError, match="does not have"):
        other.unwrap(ring.wrap(DATA_KEY, team="ward", object="a"), team="ward", object="a")


def test_after_a_rotation_old_wraps_open_and_new_ones_use_the_new_key(folder: Path, ring: KeyRing):
    before = ring.wrap(DATA_KEY, team="ward", object="a")
    ring.rotate()
    after = ring.wrap(DATA_KEY, team="ward", object="a")
    assert before[:9] != after[:9]
    for opened in (ring, KeyRing.open(folder)):
        assert opened.unwrap(before, team="ward", object="a") == DATA_KEY
        assert opened.unwrap(after, team="ward", object="a") == DATA_KEY
        assert opened.wrap(DATA_KEY, team="ward", object="a")[:9] == after[:9]
    assert (folder / "master.key").stat().st_mode & 0o777 == 0o600


def at_once(works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("apart", [True, False])
def test_rotations_at_once_lose_no_key(folder: Path, ring: KeyRing, apart: bool):
    """Each wraps once it has rotated, as a rotation of the hall does; `apart` as two processes."""
    rings = [KeyRing.open(folder) if apart else ring for _ in range(6)]
    start, wrapped = threading.Barrier(len(rings)), []

    def work(one: KeyRing) -> None:
        start.wait()
        for _ in range(10):
            one.rotate()
            wrapped.append(one.wrap(DATA_KEY, team="ward", object="a"))

    at_once([partial(work, one) for one in rings])
    fresh = KeyRing.open(folder)
    assert fresh.num_masters == 61
    assert {fresh.unwrap(each, team="ward", object="a") for each in wrapped} == {DATA_KEY}


def test_without_starting_from_the_file_a_rotation_loses_another_s_key(folder: Path, ring: KeyRing, monkeypatch):
    """The control: the same, but each starts from what it remembers."""
    other = KeyRing.open(folder)
    monkeypatch.setattr(KeyRing, "_alone", lambda self: nullcontext(dict(self._masters)))
    ring.rotate()
    wrapped = ring.wrap(DATA_KEY, team="ward", object="a")
    other.rotate()
    with pytest.raises(IntegrityError, match="does not have"):
        KeyRing.open(folder).unwrap(wrapped, team="ward", object="a")


def test_a_retirement_destroys_the_keys_that_it_names_and_no_other(folder: Path, ring: KeyRing):
    first = ring.wrap(DATA_KEY, team="ward", object="a")
    ring.rotate()
    old = ring.older
    between = KeyRing.open(folder)
    between.rotate()
    second = ring.wrap(DATA_KEY, team="ward", object="a")
    assert ring.retire(old) == 1
    assert ring.retire(old) == 0
    assert ring.num_masters == KeyRing.open(folder).num_masters == 2
    assert KeyRing.open(folder).unwrap(second, team="ward", object="a") == DATA_KEY
    with pytest.raises(IntegrityError, match="does not have"):
        KeyRing.open(folder).unwrap(first, team="ward", object="a")


def test_the_newest_key_is_never_destroyed(ring: KeyRing):
    wrapped = ring.wrap(DATA_KEY, team="ward", object="a")
    with pytest.raises(ConflictError):
        ring.retire([wrapped[1:9].hex()])
    assert ring.unwrap(wrapped, team="ward", object="a") == DATA_KEY


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_two_pairs_of_team_and_object_share_a_binding(team: str, name: str, team2: str, name2: str):
    equal = keys_module._bound(b"", team, name) == keys_module._bound(b"", team2, name2)
    assert equal == ((team, name) == (team2, name2))


def test_no_secret_is_in_the_repr(ring: KeyRing):
    assert ring.owner_key not in repr(ring)
    assert ring.signer.private_raw().hex() not in repr(ring)
