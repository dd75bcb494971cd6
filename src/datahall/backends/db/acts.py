"""One act as one piece of a transaction: everything is checked before the first row is written.

So an act that is refused leaves nothing behind, and many acts can share a transaction without savepoints.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from datahall.backends.db.statements import Cursor, Statements
from datahall.core.canonical import digest_bytes
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
        """Raises ValueError and msgspec.ValidationError for records that have no canonical form."""
        self.act = act
        self.rows = [_row(change) for change in act.changes]
        self.marks = tuple(
            Touched(kind=row.kind, id=row.id, digest=None if row.new is None else digest_bytes(row.new.encode()))
            for row in self.rows
        )
        self.places = {(row.kind, row.id) for row in self.rows}
        assert len(self.places) == len(self.rows), "an act changes a record once"
        self.entry = Entry(
            seq=0, kind=act.kind, at_ns=0, actor=act.actor, app=act.app, body=act.body, touched=self.marks
        )
        entry_body(self.entry)  # what has no canonical form is refused here, where it holds nobody up

    def check(self, cursor: Cursor, sql: Statements) -> None:
        """Raise ConflictError, FencedError or RepeatedError unless all that the act rests on holds."""
        act = self.act
        if act.call is not None and (done := sql.call(cursor, act.call.id)) is not None:
            check_repeated(done[0], act.call.request)
            raise RepeatedError("this call was done before")
        if act.fence is not None:
            check_fence(cursor, sql, act.fence)
        for kind, record_id in act.absent:
            if sql.stored(cursor, kind, record_id) is not None:
                raise ConflictError(f"{kind} '{record_id}' is there", hint="read it again, then try again")
        for row in self.rows:
            _expect(row, sql.stored(cursor, row.kind, row.id))

    def write(self, cursor: Cursor, sql: Statements, seq: int, at_ns: int, key: bytes) -> bytes:
        """Write rows and entry; return the entry's bytes. `key` authenticates it until the tree holds it."""
        for row in self.rows:
            if row.new is None:
                sql.drop(cursor, row.kind, row.id)
            else:
                sql.put(cursor, row.kind, row.id, seq, row.new, new=row.old is None)
        body = entry_body(
            Entry(
                seq=seq,
                kind=self.act.kind,
                at_ns=at_ns,
                actor=self.act.actor,
                app=self.act.app,
                body=self.act.body,
                touched=self.marks,
            )
        )
        sql.write_entry(cursor, seq, self.act.kind, self.act.app, body, voucher(key, seq, body))
        sql.write_touched(cursor, ((row.kind, row.id, seq) for row in self.rows))
        if self.act.call is not None:
            sql.write_call(cursor, self.act.call.id, seq, self.act.call.request, self.act.call.reply)
        return body


def voucher(key: bytes, seq: int, body: bytes) -> bytes:
    """Return what shows that the hall itself wrote an entry which the signed tree does not hold yet."""
    return hmac.digest(key, seq.to_bytes(8, "big") + body, "sha256")


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
    newest = sql.one(cursor, "SELECT coalesce(max(size), 0) FROM checkpoints")
    if checkpoint.size <= newest:
        raise ConflictError(f"the tree has {newest} entries already", hint="integrate what is pending now")
    rows = [(level, idx, value) for (level, idx), value in nodes.items()]
    sql.write_tree(cursor, rows, (checkpoint.size, checkpoint.origin, checkpoint.root, checkpoint.note))


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
