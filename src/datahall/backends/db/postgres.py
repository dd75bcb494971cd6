"""The catalogue and the ledger in Postgres: acts on different records run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection

from datahall.backends.db.acts import Batch, PreparedAct, write_tree
from datahall.backends.db.advisory import DRAWING, LeaseStatements, fence_names, lock, name_of, names_of
from datahall.backends.db.gaps import Gaps
from datahall.backends.db.holding import Holding
from datahall.backends.db.leases import Leases
from datahall.backends.db.reading import Reads
from datahall.backends.db.schema_postgres import prepare_postgres
from datahall.backends.db.server import Server
from datahall.backends.db.statements import CALLS_KEPT, Cursor, Statements
from datahall.core.ports import Clock
from datahall.core.records import Act, Checkpoint, Entry, Lease
from datahall.ledger.bodies import read_entry

T = TypeVar("T")

_DRAW = "SELECT nextval('entry_seq')"
_FORGET = "DELETE FROM calls WHERE seq < (SELECT coalesce(max(seq) + 1, 0) FROM entries) - ?"


class PostgresCatalogue(Reads):
    """A hall's truth in the Postgres database at `url`; fulfils Catalogue and LedgerStore.

    Threads and processes: any number read and write, each on a connection of its own, until one holds the hall by
    `take_over`: a second is refused that. An act takes advisory locks on
    the records it touches, its call and its fence, checks, and only then draws its number. So for one record the order
    of the numbers is the order of the commits, a refused act draws none, and acts on different records never wait for
    each other: there is no row and no counter that all of them would lock. A transaction that dies leaves its number
    open; `gaps.py` closes it. Durability: as the server's `synchronous_commit`, which must not be off.
    """

    def __init__(self, url: str, clock: Clock, *, entry_key: bytes = b"") -> None:
        """Connect; make the tables where there are none. `entry_key` is as in SqliteCatalogue.

        Raises UserError for a URL that is none or a database that is no hall, SchemaError for a schema that is not
        this version's, UnavailableError where the server cannot be reached.
        """
        self._server = Server(url)
        self._holding = Holding(self._server.connect, self._server.where, clock)
        self.where = self._server.where
        self._clock = clock
        self._entry_key = entry_key
        self._sql = Statements(mark="%s")
        self._gaps = Gaps(self.transact, self._sql, clock)
        self.leases = Leases(self.transact, LeaseStatements(mark="%s"), clock)
        try:
            self._server.transact(lambda cursor: prepare_postgres(cursor, self.where), at="postgres.create")
        except BaseException:  # a refused database must not keep connections open
            self._server.close()
            raise

    def close(self) -> None:
        """Give back this holder's leases and close every connection; what was acknowledged is on the disk already."""
        self.leases.release_all()
        self._holding.release()
        self._server.close()

    def act(self, act: Act) -> Entry:
        """Write all changes of `act` and its entry, or nothing; as the port says."""
        prepared = PreparedAct(act)
        names = names_of(prepared)

        def work(cursor: Cursor) -> bytes:
            lock(cursor, names)
            batch = Batch(cursor, self._sql, [prepared])
            batch.check(prepared)
            batch.admit(prepared, self._sql.one(cursor, _DRAW))
            return batch.write(self._clock.now_ns(), self._entry_key)[0]

        return read_entry(self.transact(work))

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries with start <= seq < stop, up to the first number that is still being written.

        So whoever asks again from where the answer ended misses none, though a later number may be committed already.
        """
        found = super().entries(start, stop)
        return found[: _num_whole([entry.seq for entry in found], start)]

    def pending(self, limit: int) -> list[tuple[int, bytes]]:
        """Return as the port says, up to the first number that is still being written; closes those that are lost."""
        found = self._whole_pending(limit)
        return self._whole_pending(limit)[0] if found[1] and self._gaps.close(self._entry_key) else found[0]

    def integrate(
        self, nodes: dict[tuple[int, int], bytes], checkpoint: Checkpoint, *, fence: Lease | None = None
    ) -> None:
        """Write new complete subtrees and the checkpoint that covers them, in one transaction; as the port says."""

        def work(cursor: Cursor) -> None:
            lock(cursor, [name_of("tree"), *fence_names(fence)])
            write_tree(cursor, self._sql, nodes, checkpoint, fence)

        self.transact(work)

    def take_over(self) -> None:
        """Hold the hall until `close`, and free every lease of holders before: they are gone, or it would not be free.

        Forgets the oldest idempotency keys too. Raises HallBusyError where another process holds the hall, of whichever
        machine; so does every act once one has taken it because this one's session was cut.
        """
        sql = "UPDATE leases SET holder = '' WHERE holder <> ?"
        with self._server.said_plainly():
            self._holding.acquire()
        self.transact(lambda cursor: self._sql.run(cursor, sql, self.leases.holder))
        self.forget_calls()

    def forget_calls(self, kept: int = CALLS_KEPT) -> None:
        """Forget the idempotency keys of all but the newest acts; now and then, or a hall that stays up keeps them all."""
        self.transact(lambda cursor: self._sql.run(cursor, _FORGET, kept))

    def transact(self, work: Callable[[Cursor], T]) -> T:
        """Return what `work` returns, once the transaction that it wrote in is durable."""
        with self._server.said_plainly():
            self._holding.check()
        return self._server.transact(work)

    @contextmanager
    def reading_whole(self) -> Iterator[Connection]:
        """Yield a connection in a read transaction that sees every entry up to the newest, without a gap.

        Acts wait while it begins, as long as those under way take. Raises UnavailableError where one takes 10 s.
        """
        # Both apart: acts that wait for this lock may have every connection of the pool.
        with self._server.reading(apart=True) as connection:
            with self._server.alone(DRAWING) as transact:
                while transact(lambda cursor: self._gaps.fill(cursor, self._entry_key)):
                    pass
                connection.exec_driver_sql("SELECT 1")  # from now on it sees this moment
            yield connection

    def _whole_pending(self, limit: int) -> tuple[list[tuple[int, bytes]], bool]:
        """Return what is pending before the first open number, and whether there is anything beyond it."""
        found = super().pending(limit)
        checkpoint = self.checkpoint()  # asked second: a tree that grew meanwhile looks like no gap
        size = checkpoint.size if checkpoint else 0
        start = min(size, found[0][0]) if found else size
        num_whole = _num_whole([seq for seq, _ in found], start)
        return found[:num_whole], num_whole < len(found)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._server.reading()


def _num_whole(numbers: list[int], start: int) -> int:
    """Return how many of `numbers` follow one another from `start` on."""
    return next((count for count, number in enumerate(numbers) if number != start + count), len(numbers))


if TYPE_CHECKING:
    from datahall.core.clock import SystemClock
    from datahall.core.ports import Catalogue, LedgerStore

    _catalogue: Catalogue = PostgresCatalogue("", SystemClock())
    _store: LedgerStore = PostgresCatalogue("", SystemClock())
