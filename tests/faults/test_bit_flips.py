"""One bit of a stored object, a record, an entry or the tree is flipped: each time it is noticed, and never served."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import NamedTuple

import pytest

from datahall.backends.blobs.local import LocalBlobStore
from datahall.core.errors import DatahallError, IntegrityError
from datahall.core.records import CATALOGUE_RECORDS, Act, App, Change, Evidence
from datahall.ledger.anchor import Anchors
from datahall.ledger.bodies import read_entry
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import VerifyError, verify_hall
from datahall.testing.catalogue import app
from tests.faults.workload import ORIGIN, SIGNER, damage, open_catalogue

NUM_FLIPS, NUM_SHORT = 500, 60  # of each: objects, and the database
TEAM = "ward"
SIZES = (0, 1, 100, 5_000, 300_000, 1_500_000)
NUM_RECORDS = 40
KINDS = (App, Evidence)


def flipped(data, draw):
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


class Objects:
    """Stored objects of every size, and what is in each."""

    def __init__(self, folder):
        self.store = LocalBlobStore(folder)
        draw = random.Random(1)  # noqa: S311  (bytes to store, no secret)
        contents = [draw.randbytes(size // 2) + bytes(size - size // 2) for size in SIZES]
        self.held = [(self.store.put(data, team=TEAM), data) for data in contents]


@pytest.fixture
def objects(tmp_path):
    return Objects(tmp_path / "blobs")


def serves(objects, seed):
    """Flip a bit of an object's file; return what was wrong with what happened, "" if it was noticed."""
    draw = random.Random(seed)  # noqa: S311  (a repeatable accident)
    grant, data = draw.choice(objects.held)
    path = objects.store.path(grant.object, team=TEAM)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, draw))
    try:
        got = objects.store.get(grant, team=TEAM)
    except IntegrityError:
        return ""
    finally:
        path.write_bytes(whole)
    return f"--seed {seed}: {'the flip was not noticed' if got == data else 'other bytes were served'}"


def test_no_flipped_bit_of_an_object_is_served(objects, seeds):
    assert [what for seed in seeds(NUM_SHORT) if (what := serves(objects, seed))] == []


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_of_many_flipped_bits_of_objects_none_is_served(objects, seeds):
    assert [what for seed in seeds(NUM_FLIPS) if (what := serves(objects, seed))] == []


class Hall(NamedTuple):
    """A database at rest: its bytes, where in them a value lies that counts, and what it holds."""

    data: bytes
    places: list[tuple[str, int, int]]
    """Table, first byte, number of bytes."""
    records: dict[tuple[str, str], object]
    entries: list


def evidence(number):
    return Evidence(
        id=f"evd_{number}", app="a", bundle="b" * 64, claim="accuracy", step="s", envelope="e" * 300, key_id="k" * 64
    )


@pytest.fixture(scope="module")
def hall(memory):
    """A hall with records under a checkpoint, and a few entries that are not integrated yet."""
    folder = memory()
    with closing(open_catalogue(folder)) as catalogue:
        for number in range(NUM_RECORDS):
            made = evidence(number) if number % 2 else app(f"app-{number:03d}", digest="d" * 64)
            changes = (Change(new=made),)
            catalogue.act(Act(kind="app.declared", actor="somebody", body={"note": f"n{number}"}, changes=changes))
            if number == NUM_RECORDS - 4:
                integrate(catalogue, SIGNER, ORIGIN)
        records = {(kind.KIND, found.id): found for kind in CATALOGUE_RECORDS for found in catalogue.find(kind)}
        entries = catalogue.entries()
    assert damage(folder) == ""
    data = (folder / "hall.db").read_bytes()
    return Hall(data, list(places(folder / "hall.db", data)), records, entries)


def places(path, data):
    """Yield where in the file each value of the tables lies; a value that is in an index too lies in two places."""
    columns = {
        "entries": ["body"],
        "vouchers": ["mac"],
        "nodes": ["hash"],
        "checkpoints": ["root", "note"],
        **{f"record_{kind.KIND}": ["body"] for kind in KINDS},
    }
    with closing(sqlite3.connect(path)) as connection:
        for table, names in columns.items():
            for name in names:
                for (value,) in connection.execute(f"SELECT {name} FROM {table}"):  # noqa: S608  (names of ours)
                    sought = value.encode() if isinstance(value, str) else value
                    at = data.find(sought)
                    while at >= 0:
                        yield table, at, len(sought)
                        at = data.find(sought, at + 1)


def notices(hall, folder, seed):
    """Flip a bit of a value in the database's file; return what was wrong, "" if it was noticed and never served."""
    draw = random.Random(seed)  # noqa: S311  (a repeatable accident)
    table, at, size = draw.choice(hall.places)
    data = bytearray(hall.data)
    data[at + draw.randrange(size)] ^= 1 << draw.randrange(8)
    folder.mkdir()
    (folder / "hall.db").write_bytes(data)
    noticed = is_found_from_outside(folder)
    try:
        with closing(open_catalogue(folder)) as catalogue:
            for read in (
                lambda: catalogue.pending(1000),
                lambda: Anchors(catalogue, catalogue, SIGNER.public_key).ids("app"),
            ):
                noticed |= refuses(read)
            for (_, name), record in hall.records.items():
                noticed |= refuses(lambda: catalogue.get(type(record), name), record)  # noqa: B023  (called at once)
            for kind in KINDS:
                expected = [record for (of, _), record in hall.records.items() if of == kind.KIND]
                noticed |= refuses(lambda: catalogue.find(kind), expected)  # noqa: B023  (called at once)
    except AssertionError as error:
        return f"--seed {seed} (in {table}): {error}"
    except DatahallError:
        noticed = True
    return "" if noticed else f"--seed {seed} (in {table}): the flip was not noticed"


def refuses(read, expected=None):
    """Whether a read is refused. Raises AssertionError where it gives anything but what was written."""
    try:
        found = read()
    except DatahallError:
        return True
    assert expected is None or found == expected, "something else was served"
    return False


def is_found_from_outside(folder):
    try:
        return damage(folder) != ""
    except (VerifyError, sqlite3.DatabaseError):
        return True


def test_no_flipped_bit_of_a_record_or_an_entry_goes_unnoticed_or_is_served(hall, tmp_path, seeds):
    chosen = seeds(NUM_SHORT)
    assert [what for seed in chosen if (what := notices(hall, tmp_path / f"{seed}", seed))] == []


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_of_many_flipped_bits_of_records_and_entries_none_goes_unnoticed_or_is_served(hall, tmp_path, seeds):
    chosen = seeds(NUM_FLIPS)
    assert [what for seed in chosen if (what := notices(hall, tmp_path / f"{seed}", seed))] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"seq":0}', b'{"seq":"\xff"}', b"null"])
def test_bytes_that_are_no_entry_are_said_to_be_damaged(body):
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_entry(body)


def test_the_flips_reach_whatever_counts(hall):
    assert {table for table, _, _ in hall.places} == {
        "entries",
        "vouchers",
        "nodes",
        "checkpoints",
        "record_app",
        "record_evidence",
    }


def test_whoever_reads_without_the_checks_is_served_what_was_flipped(hall, tmp_path):
    """The control: the same flips, read with plain SQL."""
    num_served, records = 0, [place for place in hall.places if place[0].startswith("record_")]
    bodies = bodies_of(tmp_path / "whole", hall.data)
    for seed in range(30):
        draw = random.Random(seed)  # noqa: S311  (a repeatable accident)
        _, at, size = draw.choice(records)
        data = bytearray(hall.data)
        data[at + draw.randrange(size)] ^= 1 << draw.randrange(8)
        num_served += bodies_of(tmp_path / f"{seed}", bytes(data)) != bodies
    assert num_served == 30
    report = verify_hall(tmp_path / "whole", SIGNER.public_key)
    assert report.problems == []


def bodies_of(path, data):
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return [connection.execute(f"SELECT body FROM record_{kind.KIND}").fetchall() for kind in KINDS]  # noqa: S608
