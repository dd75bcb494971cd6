"""Somebody who holds the database file: writes to it what no act of the hall did."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from datahall.backends.db.acts import voucher
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.canonical import canonical_json
from datahall.core.records import Record
from datahall.ledger.bodies import record_body, record_digest
from datahall.testing.clock import AutoClock


class Vandal:
    """Rows, index and entries as one likes; what is missing is the hall's key."""

    db: Path
    catalogue: SqliteCatalogue
    clock: AutoClock

    def sql(self, statement: str, *values: Any) -> int:
        """Write to the database behind the hall's back; return how many rows it touched."""
        with closing(sqlite3.connect(self.db)) as connection, connection:
            return connection.execute(statement, values).rowcount

    def rewrite(self, record: Record) -> None:
        """Put a record's row in place of the one of the same id, and nothing else."""
        body = record_body(record).decode()
        assert self.sql(f"UPDATE record_{record.KIND} SET body = ? WHERE id = ?", body, record.id)  # noqa: S608  (a record's own name)

    def insert(self, record: Record, seq: int = 0) -> None:
        """Add a row that no entry speaks of."""
        body = record_body(record).decode()
        self.sql(f"INSERT INTO record_{record.KIND} (id, seq, body) VALUES (?, ?, ?)", record.id, seq, body)  # noqa: S608  (as above)

    def forge(self, *records: Record, seq: int | None = None, vouched: bool = False) -> int:
        """Write records together with an entry that says so, as if an act had; return its number.

        With `vouched` the vandal has the hall's entry key too: what comes after that key must hold without it.
        """
        (num,) = self._one("SELECT max(seq) + 1 FROM entries")
        seq = num if seq is None else seq
        touched = [{"kind": r.KIND, "id": r.id, "digest": record_digest(r)} for r in records]
        entry = {
            "seq": seq,
            "kind": "step.completed",
            "at_ns": self.clock.now_ns(),
            "actor": "lifecycle",
            "app": None,
            "body": {},
            "touched": touched,
        }
        self.sql(
            "INSERT INTO entries (seq, kind, app, body) VALUES (?, ?, ?, ?)",
            seq,
            entry["kind"],
            None,
            canonical_json(entry),
        )
        if vouched:
            mac = voucher(self.keys.entry_key, seq, canonical_json(entry))
            self.sql("INSERT INTO vouchers (seq, mac) VALUES (?, ?)", seq, mac)
        for record in records:
            self.sql(f"DELETE FROM record_{record.KIND} WHERE id = ?", record.id)  # noqa: S608  (as above)
            self.insert(record, seq)
            self.sql("INSERT OR REPLACE INTO touched (kind, id, seq) VALUES (?, ?, ?)", record.KIND, record.id, seq)
        return seq

    def forget(self, record: Record) -> None:
        """Remove a record and every mention of it but those in the entries."""
        assert self.sql(f"DELETE FROM record_{record.KIND} WHERE id = ?", record.id)  # noqa: S608  (as above)
        self.sql("DELETE FROM touched WHERE kind = ? AND id = ?", record.KIND, record.id)

    def roll_back(self, record: Record) -> None:
        """Put an earlier state of a record back, together with the index that leads to it."""
        digest = record_digest(record)
        seqs = [
            entry.seq
            for entry in self.catalogue.entries()
            for mark in entry.touched
            if (mark.kind, mark.id, mark.digest) == (record.KIND, record.id, digest)
        ]
        self.sql("DELETE FROM touched WHERE kind = ? AND id = ? AND seq > ?", record.KIND, record.id, seqs[-1])
        self.rewrite(record)
        self.sql(f"UPDATE record_{record.KIND} SET seq = ? WHERE id = ?", seqs[-1], record.id)  # noqa: S608  (as above)

    def _one(self, statement: str) -> Any:
        with closing(sqlite3.connect(self.db)) as connection:
            return connection.execute(statement).fetchone()
