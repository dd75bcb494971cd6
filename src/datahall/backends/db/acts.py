"""Acts as rows: made ready outside the transaction, checked before the first row is written, written together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from datahall.backends.db.statements import Cursor, Statements
from datahall.core.canonical import canonical_json, digest_bytes
from datahall.core.errors import ConflictError, FencedError, RepeatedError
from datahall.core.records import Act, Change, Checkpoint, Entry, Lease, Record, Touched
from datahall.ledger.bodies import entry_body, record_body


class _Row(NamedTuple):
    """One change, made ready outside the transaction: what must be stored before, what shall be stored after."""

    kind: str
    id: str
    old: str | None
    new: str | None


class PreparedAct:
    """An act with all its bytes but the entry's, which needs its number and time."""

    def __init__(self, act: Act) -> None:
        """Raises ValueError and msgspec.ValidationError for what has no canonical form: here, where it holds nobody up."""
        canonical_json(act.body)
        self.act = act
        self.rows = [_row(change) for change in act.changes]
        self.marks = tuple(
            Touched(kind=row.kind, id=row.id, digest=None if row.new is None else digest_bytes(row.new.encode()))
            for row in self.rows
        )
        self.excluded = tuple(place for change in act.changes if change.new for place in change.new.excluded_by())
        assert len({(row.kind, row.id) for row in self.rows}) == len(self.rows), "an act changes a record once"

    @property
    def places(self) -> set[tuple[str, str]]:
        """The records (kind, id) that the act rests on."""
        return {(row.kind, row.id) for row in self.rows} | set(self.excluded)

    def body(self, seq: int, at_ns: int) -> bytes:
        """Return the entry's bytes."""
        act = self.act
        return entry_body(
            Entry(seq=seq, kind=act.kind, at_ns=at_ns, actor=act.actor, app=act.app, body=act.body, touched=self.marks)
        )


class Batch:
    """Acts that share a transaction: what they rest on is read at once, each is judged in turn, all is written at once.

    An act that is refused leaves nothing behind, so no savepoints are needed.
    """

    def __init__(self, cursor: Cursor, sql: Statements, acts: Sequence[PreparedAct]) -> None:
        """Read every record that one of `acts` rests on."""
        self._cursor, self._sql = cursor, sql
        self._admitted: list[tuple[int, PreparedAct]] = []
        self._calls: dict[str, str] = {}
        self._rows: dict[tuple[str, str], tuple[int, str]] = {}
        self._changed: dict[tuple[str, str], str | None] = {}
        ids: dict[str, set[str]] = {}
        for kind, record_id in (place for act in acts for place in act.places):
            ids.setdefault(kind, set()).add(record_id)
        for kind in sorted(ids):
            found = sql.stored(cursor, kind, sorted(ids[kind]))
            self._rows |= {(kind, record_id): row for record_id, row in found.items()}

    def check(self, act: PreparedAct) -> None:
        """Raise ConflictError, FencedError or RepeatedError unless all that the act rests on holds."""
        call, fence = act.act.call, act.act.fence
        if call is not None:
            done = self._calls.get(call.id) or self._sql.call(self._cursor, call.id)
            if done is not None:
                check_repeated(done, call.request)
                raise RepeatedError("this call was done before")
        if fence is not None:
            check_fence(self._cursor, self._sql, fence)
        for kind, record_id in act.excluded:
            if (kind, record_id) in self._rows:
                raise ConflictError(f"{kind} '{record_id}' stands in the way", hint="make what it is about again")
        for row in act.rows:
            _expect(row, self._rows.get((row.kind, row.id)))

    def admit(self, act: PreparedAct, seq: int) -> None:
        """Take an act that was checked as the entry `seq`; those after it rest on what it leaves."""
        self._admitted.append((seq, act))
        if act.act.call is not None:
            self._calls[act.act.call.id] = act.act.call.request
        for row in act.rows:
            place = row.kind, row.id
            self._changed[place] = row.new
            if row.new is None:
                self._rows.pop(place, None)
            else:
                self._rows[place] = (seq, row.new)

    def write(self, at_ns: int, key: bytes) -> list[bytes]:
        """Write everything; return the admitted acts' entries. `key` authenticates them until the tree holds them."""
        cursor, sql = self._cursor, self._sql
        puts: dict[str, list[tuple[str, int, str]]] = {}
        for (kind, record_id), new in self._changed.items():
            if new is None:
                sql.drop(cursor, kind, record_id)
            else:
                puts.setdefault(kind, []).append((record_id, *self._rows[kind, record_id]))
        for kind, rows in puts.items():
            sql.put(cursor, kind, rows)
        bodies = [act.body(seq, at_ns) for seq, act in self._admitted]
        pairs = list(zip(self._admitted, bodies, strict=True))
        entries = [(seq, act.act.kind, act.act.app, body) for (seq, act), body in pairs]
        sql.insert(cursor, "entries", "seq, kind, app, body", entries)
        sql.insert(cursor, "vouchers", "seq, mac", [(seq, voucher(key, seq, body)) for (seq, _), body in pairs])
        marks = [(row.kind, row.id, seq) for seq, act in self._admitted for row in act.rows]
        sql.insert(cursor, "touched", "kind, id, seq", marks)
        calls = [(seq, act.act.call) for seq, act in self._admitted if act.act.call is not None]
        sql.insert(
            cursor,
            "calls",
            "id, seq, request, reply",
            [(call.id, seq, call.request, call.reply) for seq, call in calls],
        )
        return bodies


def voucher(key: bytes, seq: int, body: bytes) -> bytes:
    """Return what shows that the hall itself wrote an entry which the signed tree does not hold yet.

    Keyed BLAKE2b (RFC 7693, 2.9), 32 bytes: a third of the time of HMAC-SHA-256, and every act pays for it.
    """
    return hashlib.blake2b(seq.to_bytes(8, "big") + body, key=key, digest_size=32).digest()


def check_repeated(done: str, request: str) -> None:
    """Raise ConflictError where an idempotency key was used for another request."""
    if done != request:
        raise ConflictError("this idempotency key was used for another request", hint="give every request its own key")


def check_fence(cursor: Cursor, sql: Statements, fence: Lease) -> None:
    """Raise FencedError unless `fence` is still held by its holder under its token."""
    found = sql.lease(cursor, fence.name)
    if found is None or (found[0], found[1]) != (fence.holder, fence.token):
        raise FencedError(f"the lease '{fence.name}' has passed to somebody else", hint="leave the work to its holder")


def write_tree(
    cursor: Cursor, sql: Statements, nodes: dict[tuple[int, int], bytes], checkpoint: Checkpoint, fence: Lease | None
) -> None:
    """Write complete subtrees and the head over them. Raises ConflictError where another sequencer was first."""
    if fence is not None:
        check_fence(cursor, sql, fence)
    newest: int = sql.one(cursor, "SELECT coalesce(max(size), 0) FROM checkpoints")
    if checkpoint.size <= newest:
        raise ConflictError(f"the tree has {newest} entries already", hint="integrate what is pending now")
    rows = [(level, idx, value) for (level, idx), value in nodes.items()]
    sql.insert(cursor, "nodes", "level, idx, hash", rows)
    head = (checkpoint.size, checkpoint.origin, checkpoint.root, checkpoint.note)
    sql.insert(cursor, "checkpoints", "size, origin, root, note", [head])
    sql.run(cursor, "DELETE FROM vouchers WHERE seq < ?", checkpoint.size)


def _row(change: Change) -> _Row:
    record = change.new or change.old
    assert record is not None, "a change has an old or a new record"
    if change.old is not None:
        assert (type(change.old), change.old.id) == (type(record), record.id), "a change is about one record"
    return _Row(record.KIND, record.id, _text(change.old), _text(change.new))


def _text(record: Record | None) -> str | None:
    return None if record is None else record_body(record).decode()


def _expect(row: _Row, stored: tuple[int, str] | None) -> None:
    if row.old is None and stored is not None:
        raise ConflictError(f"{row.kind} '{row.id}' exists already (entry {stored[0]})")
    if row.old is not None and stored is None:
        raise ConflictError(f"{row.kind} '{row.id}' is not there any more")
    if row.old is not None and stored is not None and stored[1] != row.old:
        raise ConflictError(
            f"{row.kind} '{row.id}' was changed by somebody else (entry {stored[0]})",
            hint="read it again, then try again",
        )
