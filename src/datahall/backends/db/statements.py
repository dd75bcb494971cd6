"""The SQL of the writing side, handed to the driver as it is: an act runs it thousands of times a second.

Both databases take the same statements; executing them through SQLAlchemy costs more than SQLite's own work
(benchmarks/acts.py), so it stays with the reading side and the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

CALLS_KEPT = 100_000
"""How many of the newest acts keep their idempotency keys. Counted, not timed: no clock that jumps can forget one."""


class Cursor(Protocol):
    """What the drivers of both databases have in common (PEP 249)."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""

    def execute(self, sql: Any, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""


_CHUNKS = (64, 16, 4, 1)
"""Rows a statement: each size is prepared once and kept by the driver, and 64 rows stay below SQLite's oldest limit of 999."""

Rows = Sequence[tuple[Any, ...]]


class Statements:
    """Reads and writes rows through a driver's cursor; `mark` is the driver's parameter.

    Many rows go in one statement: a driver lets go of the interpreter's lock in each, and with many threads waiting for
    it every statement costs a turn.
    """

    def __init__(self, *, mark: str = "?") -> None:
        self._mark = mark

    def next_seq(self, cursor: Cursor) -> int:
        """Return the sequence number after the newest entry's; only where there is one writer."""
        number: int = self.one(cursor, "SELECT coalesce(max(seq) + 1, 0) FROM entries")
        return number

    def stored(self, cursor: Cursor, kind: str, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Return record id to `(seq, body)` of those records of one kind that are there."""
        found: dict[str, tuple[int, str]] = {}
        for some in _chunks(ids):
            cursor.execute(self._stored(kind, len(some)), tuple(some))
            for record_id, seq, body in iter(cursor.fetchone, None):
                found[record_id] = (seq, body)
        return found

    def put(self, cursor: Cursor, kind: str, rows: Rows) -> None:
        """Write records `(id, seq, body)` of one kind, in the place of those of the same ids."""
        for some in _chunks(rows):
            cursor.execute(self._put(kind, len(some)), tuple(chain.from_iterable(some)))

    def drop(self, cursor: Cursor, kind: str, record_id: str) -> None:
        """Delete a record's row."""
        self.run(cursor, f"DELETE FROM record_{kind} WHERE id = ?", record_id)  # noqa: S608  (a KIND of ours)

    def insert(self, cursor: Cursor, table: str, columns: str, rows: Rows) -> None:
        """Write rows of one of the other tables; `columns` as SQL lists them."""
        for some in _chunks(rows):
            cursor.execute(self._insert(table, columns, len(some)), tuple(chain.from_iterable(some)))

    def call(self, cursor: Cursor, call_id: str) -> str | None:
        """Return what was asked by a call that was done, None for a new one."""
        cursor.execute(self._sql("SELECT request FROM calls WHERE id = ?"), (call_id,))
        row = cursor.fetchone()
        return str(row[0]) if row else None

    def lease(self, cursor: Cursor, name: str) -> tuple[str, int, int, int] | None:
        """Return `(holder, token, beats, ttl_ms)`, None where nobody ever had the lease."""
        cursor.execute(self._sql("SELECT holder, token, beats, ttl_ms FROM leases WHERE name = ?"), (name,))
        row: tuple[str, int, int, int] | None = cursor.fetchone()
        return row

    def run(self, cursor: Cursor, sql: str, *parameters: Any) -> int:
        """Run any other statement, written with `?`; return how many rows it changed."""
        cursor.execute(self._sql(sql), parameters)
        return cursor.rowcount

    def one(self, cursor: Cursor, sql: str, *parameters: Any) -> Any:
        """Return the one value that a statement, written with `?`, answers."""
        cursor.execute(self._sql(sql), parameters)
        return cursor.fetchone()[0]

    @cache  # noqa: B019  (a store has one of these, as long as it lives)
    def _stored(self, kind: str, num: int) -> str:
        return self._sql(f"SELECT id, seq, body FROM record_{kind} WHERE id IN ({_marks(num)})")  # noqa: S608  (names of ours)

    @cache  # noqa: B019  (as for the one above)
    def _put(self, kind: str, num: int) -> str:
        insert = self._insert(f"record_{kind}", "id, seq, body", num)
        return f"{insert} ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, body = excluded.body"

    @cache  # noqa: B019  (as for the one above)
    def _insert(self, table: str, columns: str, num: int) -> str:
        row = f"({_marks(columns.count(',') + 1)})"
        return self._sql(f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * num)}")  # noqa: S608  (names of ours)

    def _sql(self, text: str) -> str:
        return text.replace("?", self._mark)


def _marks(num: int) -> str:
    return ", ".join("?" * num)


def _chunks(rows: Sequence[T]) -> Sequence[Sequence[T]]:
    """Return the rows in pieces of a few sizes only."""
    if len(rows) == 1:  # a lone act has one row for most tables
        return (rows,)
    pieces, start = [], 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            pieces.append(rows[start : start + size])
            start += size
    return pieces
