"""The catalogue and the ledger's store in one SQLite file: no record changes without its entry."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, tuple_, update
from sqlalchemy import delete as delete_from

from datahall.backends.db.engines import open_engines, said_plainly
from datahall.backends.db.tables import RECORD_TABLES, checkpoints, entries, nodes, touched, vouchers
from datahall.core.canonical import digest_bytes
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError
from datahall.core.ports import Clock
from datahall.core.records import Act, Change, Checkpoint, Entry, R, Record, Touched
from datahall.core.records.base import noun_of
from datahall.ledger.bodies import entry_body, read_entry, read_record, record_body

_PLACES_PER_QUERY = 400  # two variables each; SQLite's oldest limit is 999


class SqliteCatalogue:
    """A hall's truth in the SQLite file at `path`; fulfils Catalogue and LedgerStore.

    Threads: any number read, each on a connection of its own and without waiting; writers take turns.
    Durability: `act` and `integrate` return once their transaction has reached the disk (WAL, synchronous FULL).
    Ownership: hold the hall's HallLock first; a second process that writes waits 5 s and is then refused.
    """

    def __init__(self, path: Path, clock: Clock, *, entry_key: bytes = b"") -> None:
        """Open the file. `entry_key` authenticates entries until the tree holds them: only who has it can add any."""
        self.path = path
        self._clock = clock
        self._entry_key = entry_key
        self._turn = threading.Lock()
        self._writer, self._readers = open_engines(path)

    def close(self) -> None:
        """Close every connection; what was acknowledged is on the disk already."""
        self._readers.dispose()
        self._writer.dispose()

    # Catalogue

    def get(self, kind: type[R], record_id: str) -> R:
        """Return one record. Raises NotFoundError; IntegrityError where its row does not match its ledger entry."""
        found = self.find(kind, id=record_id)
        if found:
            return found[0]
        history = self.touching(kind.KIND, record_id)
        if history and _said_of(history[-1], kind.KIND, record_id) is not None:
            raise _mismatch(kind.KIND, record_id, f"its row is gone, but entry {history[-1].seq} did not delete it")
        raise NotFoundError(f"there is no {noun_of(kind)} '{record_id}'")

    def find(self, kind: type[R], **equals: str | int) -> list[R]:
        """Return the records whose indexed fields equal `equals`, ordered by the entry that last wrote them.

        `id` counts as indexed. Raises IntegrityError where a row does not match its ledger entry.
        """
        unknown = set(equals) - {"id", *kind.INDEX}
        assert not unknown, f"{kind.KIND} has no index on {sorted(unknown)}"
        table = RECORD_TABLES[kind.KIND]
        newest = (
            select(func.max(touched.c.seq))
            .where(touched.c.kind == kind.KIND, touched.c.id == table.c.id)
            .correlate(table)
            .scalar_subquery()
        )
        query = (
            select(table.c.id, table.c.seq, table.c.body, entries.c.body.label("entry"), newest.label("newest"))
            .outerjoin(entries, entries.c.seq == table.c.seq)
            .where(*(table.c[name] == value for name, value in equals.items()))
            .order_by(table.c.seq, table.c.id)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return [_checked(kind, row) for row in rows]

    def act(self, act: Act) -> Entry:
        """Write all changes of `act` and its entry, or nothing.

        Raises ConflictError where a record is not what its change's `old` says.
        """
        with self._writing() as connection:
            seq = connection.execute(select(func.coalesce(func.max(entries.c.seq) + 1, 0))).scalar_one()
            marks = tuple(_apply(connection, change, seq) for change in act.changes)
            assert len({(mark.kind, mark.id) for mark in marks}) == len(marks), "an act changes a record once"
            entry = Entry(
                seq=seq,
                kind=act.kind,
                at_ns=self._clock.now_ns(),
                actor=act.actor,
                app=act.app,
                body=act.body,
                touched=marks,
            )
            body = entry_body(entry)
            connection.execute(insert(entries).values(seq=seq, kind=act.kind, app=act.app, body=body))
            connection.execute(insert(vouchers).values(seq=seq, mac=self._mac(seq, body)))
            if marks:
                rows = [{"kind": mark.kind, "id": mark.id, "seq": seq} for mark in marks]
                connection.execute(insert(touched), rows)
        return read_entry(body)

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries with start <= seq < stop; sequence numbers begin at 0 and have no gap."""
        return [read_entry(body) for _, body in self._bodies(*_between(start, stop))]

    def touching(self, kind: str, record_id: str) -> list[Entry]:
        """Return the entries that changed one record, oldest first."""
        mine = select(touched.c.seq).where(touched.c.kind == kind, touched.c.id == record_id)
        return [read_entry(body) for _, body in self._bodies(entries.c.seq.in_(mine))]

    # LedgerStore

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
            if not hmac.compare_digest(row.mac or b"", self._mac(row.seq, row.body)):
                raise IntegrityError(
                    f"entry {row.seq} was not written by this hall",
                    where=str(self.path),
                    hint="somebody else wrote into the file: see what with datahall verify, then restore a backup",
                )
        return [(row.seq, row.body) for row in rows]

    def leaf_bytes(self, start: int, stop: int) -> list[bytes]:
        """Return the canonical bytes of the integrated entries with start <= seq < stop.

        Raises IntegrityError if one is missing.
        """
        size = select(func.coalesce(func.max(checkpoints.c.size), 0)).scalar_subquery()
        found = self._bodies(*_between(start, stop), entries.c.seq < size)
        if len(found) != stop - start:
            raise IntegrityError(
                f"the tree has {len(found)} of the entries {start} to {stop - 1}", where=str(self.path)
            )
        return [body for _, body in found]

    def nodes(self, places: list[tuple[int, int]]) -> list[bytes]:
        """Return the hashes of complete subtrees at `(level, index)`. Raises IntegrityError if one is missing."""
        found: dict[tuple[int, int], bytes] = {}
        with self._reading() as connection:
            for first in range(0, len(places), _PLACES_PER_QUERY):
                some = places[first : first + _PLACES_PER_QUERY]
                for row in connection.execute(select(nodes).where(tuple_(nodes.c.level, nodes.c.idx).in_(some))):
                    found[row.level, row.idx] = row.hash
        missing = [place for place in places if place not in found]
        if missing:
            raise IntegrityError(f"the tree lacks the node {missing[0]}", where=str(self.path))
        return [found[place] for place in places]

    def integrate(self, nodes: dict[tuple[int, int], bytes], checkpoint: Checkpoint) -> None:
        """Write new complete subtrees and the checkpoint that covers them, in one transaction.

        Raises ConflictError where another sequencer was first.
        """
        rows: list[dict[str, Any]] = [
            {"level": level, "idx": idx, "hash": value} for (level, idx), value in nodes.items()
        ]
        with self._writing() as connection:
            _write_tree(connection, rows, checkpoint)
            connection.execute(delete_from(vouchers).where(vouchers.c.seq < checkpoint.size))

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, None before the first."""
        with self._reading() as connection:
            row = connection.execute(select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).one_or_none()
        if row is None:
            return None
        return Checkpoint(origin=row.origin, size=row.size, root=row.root, note=row.note)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with said_plainly(self.path), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with said_plainly(self.path), self._turn, self._writer.begin() as connection:
            yield connection

    def _mac(self, seq: int, body: bytes) -> bytes:
        return hmac.digest(self._entry_key, seq.to_bytes(8, "big") + body, "sha256")

    def _bodies(self, *where: ColumnElement[bool]) -> list[tuple[int, bytes]]:
        query = select(entries.c.seq, entries.c.body).where(*where).order_by(entries.c.seq)
        with self._reading() as connection:
            return [(row.seq, row.body) for row in connection.execute(query)]


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


def _apply(connection: Connection, change: Change, seq: int) -> Touched:
    """Put the new record of `change` in the old one's place, if that is what is stored."""
    record = change.new or change.old
    assert record is not None, "a change has an old or a new record"
    if change.old is not None:
        assert (type(change.old), change.old.id) == (type(record), record.id), "a change is about one record"
    table = RECORD_TABLES[record.KIND]
    stored = connection.execute(select(table.c.seq, table.c.body).where(table.c.id == record.id)).one_or_none()
    _expect(record, change.old, None if stored is None else stored.body, seq if stored is None else stored.seq)
    if change.new is None:
        connection.execute(delete_from(table).where(table.c.id == record.id))
        return Touched(kind=record.KIND, id=record.id, digest=None)
    body = record_body(change.new)
    values = {"seq": seq, "body": body.decode()}
    if stored is None:
        connection.execute(insert(table).values(id=record.id, **values))
    else:
        connection.execute(update(table).where(table.c.id == record.id).values(**values))
    return Touched(kind=record.KIND, id=record.id, digest=digest_bytes(body))


def _expect(record: Record, old: Record | None, stored: str | None, stored_seq: int) -> None:
    if old is None and stored is not None:
        raise ConflictError(f"{record.KIND} '{record.id}' exists already (entry {stored_seq})")
    if old is not None and stored is None:
        raise ConflictError(f"{record.KIND} '{record.id}' is not there any more")
    if old is not None and stored is not None and stored.encode() != record_body(old):
        raise ConflictError(
            f"{record.KIND} '{record.id}' was changed by somebody else (entry {stored_seq})",
            hint="read it again, then try again",
        )


def _write_tree(connection: Connection, rows: list[dict[str, Any]], checkpoint: Checkpoint) -> None:
    newest = connection.execute(select(func.coalesce(func.max(checkpoints.c.size), 0))).scalar_one()
    if checkpoint.size <= newest:
        raise ConflictError(f"the tree has {newest} entries already", hint="integrate what is pending now")
    connection.execute(insert(nodes), rows)
    connection.execute(
        insert(checkpoints).values(
            size=checkpoint.size, origin=checkpoint.origin, root=checkpoint.root, note=checkpoint.note
        )
    )


if TYPE_CHECKING:
    from datahall.core.clock import SystemClock
    from datahall.core.ports import Catalogue, LedgerStore

    _catalogue: Catalogue = SqliteCatalogue(Path(), SystemClock())
    _store: LedgerStore = SqliteCatalogue(Path(), SystemClock())
