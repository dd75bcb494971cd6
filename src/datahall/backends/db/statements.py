"""The SQL of the writing side, handed to the driver as it is: an act runs it thousands of times a second.

Both databases take the same statements; executing them through SQLAlchemy costs more than SQLite's own work
(benchmarks/acts.py), so it stays with the reading side and the schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

CALLS_KEPT = 100_000
"""How many of the newest acts keep their idempotency keys. Counted, not timed: no clock that jumps can forget one."""


class Cursor(Protocol):
    """What the drivers of both databases have in common (PEP 249)."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""

    def execute(self, sql: Any, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def executemany(self, sql: Any, parameters: Any, /) -> Any:
        """Run one statement for each of the parameters."""

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""


class Statements:
    """Reads and writes rows through a driver's cursor; `mark` is the driver's parameter, `lock` holds what is read.

    On Postgres `lock` is `FOR UPDATE`: what was read stays as it is until this transaction ends. SQLite has one writer.
    """

    def __init__(self, *, mark: str = "?", lock: str = "") -> None:
        self._mark, self._lock = mark, lock
        self._next_seq = "SELECT coalesce(max(seq) + 1, 0) FROM entries"
        self._entry = self._sql("INSERT INTO entries (seq, kind, app, body) VALUES (?, ?, ?, ?)")
        self._voucher = self._sql("INSERT INTO vouchers (seq, mac) VALUES (?, ?)")
        self._touched = self._sql("INSERT INTO touched (kind, id, seq) VALUES (?, ?, ?)")
        self._call = self._sql("SELECT request, reply FROM calls WHERE id = ?")
        self._add_call = self._sql("INSERT INTO calls (id, seq, request, reply) VALUES (?, ?, ?, ?)")
        self._lease = self._sql(f"SELECT holder, token, beats, ttl_ms FROM leases WHERE name = ? {lock}")  # noqa: S608  (a name of ours)
        self._records: dict[tuple[str, str], str] = {}

    def next_seq(self, cursor: Cursor) -> int:
        """Return the sequence number after the newest entry's; only where there is one writer."""
        return _one(cursor, self._next_seq, ())

    def write_entry(self, cursor: Cursor, seq: int, kind: str, app: str | None, body: bytes, mac: bytes) -> None:
        """Write an entry and the voucher that the hall itself wrote it."""
        cursor.execute(self._entry, (seq, kind, app, body))
        cursor.execute(self._voucher, (seq, mac))

    def write_touched(self, cursor: Cursor, rows: Iterable[tuple[str, str, int]]) -> None:
        """Write which records (kind, id) an entry changed."""
        for row in rows:
            cursor.execute(self._touched, row)

    def stored(self, cursor: Cursor, kind: str, record_id: str) -> tuple[int, str] | None:
        """Return `(seq, body)` of a record, None where there is none."""
        sql = self._of(kind, "stored", f"SELECT seq, body FROM record_{kind} WHERE id = ? {self._lock}")  # noqa: S608  (a name of ours)
        cursor.execute(sql, (record_id,))
        row: tuple[int, str] | None = cursor.fetchone()
        return row

    def put(self, cursor: Cursor, kind: str, record_id: str, seq: int, body: str, *, new: bool) -> None:
        """Write a record's row."""
        if new:
            sql = self._of(kind, "insert", f"INSERT INTO record_{kind} (seq, body, id) VALUES (?, ?, ?)")  # noqa: S608  (a name of ours)
        else:
            sql = self._of(kind, "update", f"UPDATE record_{kind} SET seq = ?, body = ? WHERE id = ?")  # noqa: S608  (a name of ours)
        cursor.execute(sql, (seq, body, record_id))

    def drop(self, cursor: Cursor, kind: str, record_id: str) -> None:
        """Delete a record's row."""
        cursor.execute(self._of(kind, "delete", f"DELETE FROM record_{kind} WHERE id = ?"), (record_id,))  # noqa: S608  (a name of ours)

    def call(self, cursor: Cursor, call_id: str) -> tuple[str, bytes] | None:
        """Return `(request, reply)` of a call that was done, None for a new one."""
        cursor.execute(self._call, (call_id,))
        row: tuple[str, bytes] | None = cursor.fetchone()
        return row

    def write_call(self, cursor: Cursor, call_id: str, seq: int, request: str, reply: bytes) -> None:
        """Keep a call and its answer."""
        cursor.execute(self._add_call, (call_id, seq, request, reply))

    def lease(self, cursor: Cursor, name: str) -> tuple[str, int, int, int] | None:
        """Return `(holder, token, beats, ttl_ms)`, None where nobody ever had the lease."""
        cursor.execute(self._lease, (name,))
        row: tuple[str, int, int, int] | None = cursor.fetchone()
        return row

    def run(self, cursor: Cursor, sql: str, *parameters: Any) -> int:
        """Run any other statement, written with `?`; return how many rows it changed."""
        cursor.execute(self._sql(sql), parameters)
        return cursor.rowcount

    def one(self, cursor: Cursor, sql: str, *parameters: Any) -> Any:
        """Return the one value that a statement, written with `?`, answers."""
        return _one(cursor, self._sql(sql), parameters)

    def write_tree(self, cursor: Cursor, rows: list[tuple[int, int, bytes]], head: tuple[int, str, bytes, str]) -> None:
        """Write complete subtrees `(level, idx, hash)` and the head `(size, origin, root, note)` that covers them."""
        cursor.executemany(self._sql("INSERT INTO nodes (level, idx, hash) VALUES (?, ?, ?)"), rows)
        cursor.execute(self._sql("INSERT INTO checkpoints (size, origin, root, note) VALUES (?, ?, ?, ?)"), head)
        cursor.execute(self._sql("DELETE FROM vouchers WHERE seq < ?"), (head[0],))

    def _of(self, kind: str, what: str, sql: str) -> str:
        """Return the statement about one kind of record, made once."""
        made = self._records.get((kind, what))
        if made is None:
            made = self._records[kind, what] = self._sql(sql)
        return made

    def _sql(self, text: str) -> str:
        return text.replace("?", self._mark)


def _one(cursor: Cursor, sql: str, parameters: tuple[Any, ...]) -> Any:
    cursor.execute(sql, parameters)
    return cursor.fetchone()[0]
