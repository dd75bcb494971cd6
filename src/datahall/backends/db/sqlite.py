"""The catalogue and the ledger's store in one SQLite file: no record changes without its entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection

from datahall.backends.db.acts import Batch, PreparedAct, write_tree
from datahall.backends.db.engines import open_engines, said_plainly
from datahall.backends.db.group import Group
from datahall.backends.db.leases import Leases
from datahall.backends.db.reading import Reads
from datahall.backends.db.statements import CALLS_KEPT, Cursor, Statements
from datahall.core.errors import DatahallError
from datahall.core.ports import Clock
from datahall.core.records import Act, Checkpoint, Entry, Lease
from datahall.ledger.bodies import read_entry

T = TypeVar("T")
_Work = PreparedAct | Callable[[Cursor], Any]


class SqliteCatalogue(Reads):
    """A hall's truth in the SQLite file at `path`; fulfils Catalogue and LedgerStore.

    Threads: any number read, each on a connection of its own and without waiting; writers who come together share one
    transaction, and so one sync. Durability: `act` and `integrate` return once their transaction has reached the disk
    (WAL, synchronous FULL). After a failed write or sync the writing connection is opened anew, since what SQLite
    remembers of the file may then be wrong (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
    Ownership: hold the hall's HallLock first; a second process that writes waits 5 s and is then refused.
    """

    def __init__(self, path: Path, clock: Clock, *, entry_key: bytes = b"", synchronous: str = "FULL") -> None:
        """Open the file. `entry_key` authenticates entries until the tree holds them: only who has it can add any.

        `synchronous` is for tests that show what NORMAL would lose.
        """
        self.path, self.where = path, str(path)
        self._clock = clock
        self._entry_key = entry_key
        self._sql = Statements()
        self._writer, self._readers = open_engines(path, synchronous=synchronous)
        self._group: Group[_Work] = Group(self._transact)
        self.leases = Leases(self.transact, self._sql, clock)

    def close(self) -> None:
        """Give back this holder's leases and close every connection; what was acknowledged is on the disk already."""
        self.leases.release_all()
        self._readers.dispose()
        self._writer.close()

    def act(self, act: Act) -> Entry:
        """Write all changes of `act` and its entry, or nothing; as the port says."""
        with said_plainly(self.path):
            return read_entry(self._group.do(PreparedAct(act)))

    def integrate(
        self, nodes: dict[tuple[int, int], bytes], checkpoint: Checkpoint, *, fence: Lease | None = None
    ) -> None:
        """Write new complete subtrees and the checkpoint that covers them, in one transaction; as the port says."""
        self.transact(lambda cursor: write_tree(cursor, self._sql, nodes, checkpoint, fence))

    def take_over(self) -> None:
        """Free every lease of holders before: whoever has the hall's lock knows that they are gone.

        Forgets the oldest idempotency keys too.
        """

        def work(cursor: Cursor) -> None:
            self._sql.run(cursor, "UPDATE leases SET holder = '' WHERE holder <> ?", self.leases.holder)

        self.transact(work)
        self.forget_calls()

    def forget_calls(self, kept: int = CALLS_KEPT) -> None:
        """Forget the idempotency keys of all but the newest acts; now and then, or a hall that stays up keeps them all."""
        self.transact(
            lambda cursor: self._sql.run(cursor, "DELETE FROM calls WHERE seq < ?", self._sql.next_seq(cursor) - kept)
        )

    def transact(self, work: Callable[[Cursor], T]) -> T:
        """Return what `work` returns, once the transaction that it wrote in is durable.

        Work that raises a DatahallError must not have written anything.
        """
        with said_plainly(self.path):
            outcome: T = self._group.do(work)
            return outcome

    def _transact(self, works: Sequence[_Work]) -> list[Any]:
        outcomes: list[Any] = []
        self._writer.transact(lambda cursor: outcomes.extend(self._outcomes(cursor, works)))
        return outcomes

    def _outcomes(self, cursor: Cursor, works: Sequence[_Work]) -> Iterator[Any]:
        """Yield what comes of each work: acts are written together, everything else by itself before them."""
        acts = [work for work in works if isinstance(work, PreparedAct)]
        others = {id(work): _outcome(work, cursor) for work in works if not isinstance(work, PreparedAct)}
        entries = iter(self._write(cursor, acts)) if acts else iter(())
        for work in works:
            yield next(entries) if isinstance(work, PreparedAct) else others[id(work)]

    def _write(self, cursor: Cursor, acts: Sequence[PreparedAct]) -> list[bytes | DatahallError]:
        batch = Batch(cursor, self._sql, acts)
        refused: dict[int, DatahallError] = {}
        seq = self._sql.next_seq(cursor)
        for number, act in enumerate(acts):
            try:
                batch.check(act)
            except DatahallError as error:
                refused[number] = error
            else:
                batch.admit(act, seq)
                seq += 1
        written = iter(batch.write(self._clock.now_ns(), self._entry_key))
        return [refused[number] if number in refused else next(written) for number in range(len(acts))]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with said_plainly(self.path), self._readers.connect() as connection:
            yield connection


def _outcome(work: Callable[[Cursor], Any], cursor: Cursor) -> Any:
    try:
        return work(cursor)
    except DatahallError as error:  # refused before it wrote anything: the others go on
        return error


if TYPE_CHECKING:
    from datahall.core.clock import SystemClock
    from datahall.core.ports import Catalogue, LedgerStore

    _catalogue: Catalogue = SqliteCatalogue(Path(), SystemClock())
    _store: LedgerStore = SqliteCatalogue(Path(), SystemClock())
