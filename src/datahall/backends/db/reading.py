"""The reading side of a catalogue, the same in SQLite and Postgres: records, entries, tree, calls."""

from __future__ import annotations

import hmac
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, TextClause, func, select, text

from datahall.backends.db.acts import check_repeated, voucher
from datahall.backends.db.tables import RECORD_TABLES, calls, checkpoints, entries, touched, vouchers
from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.records import Checkpoint, Entry, R, Record
from datahall.core.records.base import noun_of
from datahall.ledger.bodies import read_entry, read_record

_PLACES_PER_QUERY = 400  # two variables each; SQLite's oldest limit is 999


class Reads:
    """What Catalogue and LedgerStore answer, over a reading connection that a backend opens.

    Threads: any number read, each on a connection of its own and without waiting for writers.
    """

    where: str
    """What people call this database: a path, or a URL without its password."""
    _entry_key: bytes

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """Yield a connection in a read transaction."""

    def get(self, kind: type[R], record_id: str) -> R:
        """Return one record. Raises NotFoundError; IntegrityError where its row does not match its ledger entry."""
        about = select(touched.c.seq).where(touched.c.kind == kind.KIND, touched.c.id == record_id)
        newest = select(entries.c.body).where(entries.c.seq.in_(about)).order_by(entries.c.seq.desc()).limit(1)
        with self._reading() as connection:  # one moment: between two, a row could come that the first did not see
            row = connection.execute(_rows(kind, {"id": record_id})).one_or_none()
            said = connection.execute(newest).scalar_one_or_none() if row is None else None
        if row is not None:
            return _checked(kind, row)
        if said is not None and _said_of(entry := read_entry(said), kind.KIND, record_id) is not None:
            raise _mismatch(kind.KIND, record_id, f"its row is gone, but entry {entry.seq} did not delete it")
        raise NotFoundError(f"there is no {noun_of(kind)} '{record_id}'")

    def find(self, kind: type[R], **equals: str | int) -> list[R]:
        """Return the records whose indexed fields equal `equals`, ordered by the entry that last wrote them.

        `id` counts as indexed. Raises IntegrityError where a row does not match its ledger entry.
        """
        with self._reading() as connection:
            rows = connection.execute(_rows(kind, equals)).all()
        return [_checked(kind, row) for row in rows]

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries with start <= seq < stop; sequence numbers begin at 0 and have no gap."""
        return [read_entry(body) for _, body in self._bodies(*_between(start, stop))]

    def touching(self, kind: str, record_id: str) -> list[Entry]:
        """Return the entries that changed one record, oldest first."""
        mine = select(touched.c.seq).where(touched.c.kind == kind, touched.c.id == record_id)
        return [read_entry(body) for _, body in self._bodies(entries.c.seq.in_(mine))]

    def reply(self, call_id: str, request: str) -> bytes | None:
        """Return the sealed answer to a call that was done before, None for a new one.

        Raises ConflictError where the same key was used for another request.
        """
        with self._reading() as connection:
            row = connection.execute(select(calls.c.request, calls.c.reply).where(calls.c.id == call_id)).one_or_none()
        if row is None:
            return None
        check_repeated(row.request, request)
        return bytes(row.reply)

    def pending(self, limit: int) -> list[tuple[int, bytes]]:
        """Return `(seq, canonical bytes)` of at most `limit` entries that are not in the tree, in order.

        Raises IntegrityError where one of them was written by somebody without the hall's key: it is never signed.
        """
        size = select(func.coalesce(func.max(checkpoints.c.size), 0)).scalar_subquery()
        query = (
            select(entries.c.seq, entries.c.body, vouchers.c.mac)
            .outerjoin(vouchers, vouchers.c.seq == entries.c.seq)
            .where(entries.c.seq >= size)
            .order_by(entries.c.seq)
            .limit(limit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            if not hmac.compare_digest(row.mac or b"", voucher(self._entry_key, row.seq, row.body)):
                raise IntegrityError(
                    f"entry {row.seq} was not written by this hall",
                    where=self.where,
                    hint="somebody else wrote into the file: see what with datahall verify, then restore a backup",
                )
        return [(row.seq, row.body) for row in rows]

    def is_empty(self) -> bool:
        """Return whether nothing was ever written."""
        with self._reading() as connection:
            return connection.execute(select(entries.c.seq).limit(1)).first() is None and self.checkpoint() is None

    def leaf_bytes(self, start: int, stop: int) -> list[bytes]:
        """Return the canonical bytes of the integrated entries with start <= seq < stop.

        Raises IntegrityError if one is missing.
        """
        size = select(func.coalesce(func.max(checkpoints.c.size), 0)).scalar_subquery()
        found = self._bodies(*_between(start, stop), entries.c.seq < size)
        if len(found) != stop - start:
            raise IntegrityError(f"the tree has {len(found)} of the entries {start} to {stop - 1}", where=self.where)
        return [body for _, body in found]

    def nodes(self, places: list[tuple[int, int]]) -> list[bytes]:
        """Return the hashes of complete subtrees at `(level, index)`. Raises IntegrityError if one is missing."""
        found: dict[tuple[int, int], bytes] = {}
        with self._reading() as connection:
            for first in range(0, len(places), _PLACES_PER_QUERY):
                some = places[first : first + _PLACES_PER_QUERY]
                for level, idx, value in connection.execute(_at_places(len(some)), _named(some)):
                    found[level, idx] = bytes(value)
        missing = [place for place in places if place not in found]
        if missing:
            raise IntegrityError(f"the tree lacks the node {missing[0]}", where=self.where)
        return [found[place] for place in places]

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, None before the first."""
        with self._reading() as connection:
            row = connection.execute(select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        return Checkpoint(origin=row.origin, size=row.size, root=row.root, note=row.note)

    def _bodies(self, *where: ColumnElement[bool]) -> list[tuple[int, bytes]]:
        query = select(entries.c.seq, entries.c.body).where(*where).order_by(entries.c.seq)
        with self._reading() as connection:
            return [(row.seq, row.body) for row in connection.execute(query)]


def _rows(kind: type[Record], equals: Mapping[str, str | int]) -> Select[Any]:
    """Return the query for records, each with the entry that it names and the number of the newest that touched it."""
    unknown = set(equals) - {"id", *kind.INDEX}
    assert not unknown, f"{kind.KIND} has no index on {sorted(unknown)}"
    table = RECORD_TABLES[kind.KIND]
    newest = (
        select(func.max(touched.c.seq))
        .where(touched.c.kind == kind.KIND, touched.c.id == table.c.id)
        .correlate(table)
        .scalar_subquery()
    )
    return (
        select(table.c.id, table.c.seq, table.c.body, entries.c.body.label("entry"), newest.label("newest"))
        .outerjoin(entries, entries.c.seq == table.c.seq)
        .where(*(table.c[name] == value for name, value in equals.items()))
        .order_by(table.c.seq, table.c.id)
    )


@cache
def _at_places(num: int) -> TextClause:
    """Return the query for nodes at `num` places. `(level, idx) IN (...)` would make SQLite read the whole table."""
    rows = ", ".join(f"(:level{number}, :idx{number})" for number in range(num))
    return text(
        f"SELECT level, idx, hash FROM (VALUES {rows}) AS wanted "  # noqa: S608  (numbers of ours)
        "JOIN nodes ON level = wanted.column1 AND idx = wanted.column2"
    )


def _named(places: list[tuple[int, int]]) -> dict[str, int]:
    levels = {f"level{number}": level for number, (level, _) in enumerate(places)}
    return levels | {f"idx{number}": idx for number, (_, idx) in enumerate(places)}


def _between(start: int, stop: int | None) -> Iterable[ColumnElement[bool]]:
    yield entries.c.seq >= start
    if stop is not None:
        yield entries.c.seq < stop


def _checked(kind: type[R], row: Row[*tuple[Any, ...]]) -> R:
    """Return the record of `row` if it is what the newest entry that touched it says."""
    if row.entry is None or row.newest != row.seq:
        raise _mismatch(kind.KIND, row.id, f"its row names entry {row.seq}, the newest to touch it is {row.newest}")
    body = row.body.encode()
    if _said_of(read_entry(row.entry), kind.KIND, row.id) != digest_bytes(body):
        raise _mismatch(kind.KIND, row.id, f"its row is not what entry {row.seq} wrote")
    return read_record(kind, body)


def _said_of(entry: Entry, kind: str, record_id: str) -> str | None:
    return next((mark.digest for mark in entry.touched if (mark.kind, mark.id) == (kind, record_id)), None)


def _mismatch(kind: str, record_id: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{kind} '{record_id}' was changed behind the ledger: {what}", hint="see everything with: datahall verify"
    )
