"""Takes entries into the Merkle tree within a second of their act, and signs what it took."""

from __future__ import annotations

import threading

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.ports import Clock, Coordinator, LedgerStore, Signer, Witness
from datahall.core.records import Checkpoint, Lease
from datahall.ledger import tree
from datahall.ledger.checkpoint import sign_checkpoint, verify_note

LEASE = "sequencer"
_PATIENCE_S = 30.0  # longer than a lease lives without a heartbeat
_BATCH = 10_000  # entries a transaction: bounds its memory, about 0.1 s of work


def integrate(
    store: LedgerStore, signer: Signer, origin: str, *, limit: int = _BATCH, fence: Lease | None = None
) -> Checkpoint | None:
    """Take at most `limit` pending entries into the tree and return the new checkpoint, None if none are pending.

    What is signed extends what was signed before: the old checkpoint's signature and root are checked first.
    Raises IntegrityError where they do not hold, ConflictError where another sequencer was first, FencedError where
    `fence` has passed on.
    """
    pending = store.pending(limit)
    if not pending:
        return None
    size = _trusted_size(store, signer, origin)
    if [seq for seq, _ in pending] != list(range(size, size + len(pending))):
        raise IntegrityError(f"an entry between {size} and {pending[-1][0]} is missing")
    leaves = [tree.leaf_hash(body) for _, body in pending]
    nodes, root = tree.append(size, leaves, store.nodes)
    checkpoint = sign_checkpoint(origin, size + len(pending), root, signer)
    store.integrate(nodes, checkpoint, fence=fence)
    return checkpoint


def _trusted_size(store: LedgerStore, signer: Signer, origin: str) -> int:
    stored = store.checkpoint()
    if stored is None:
        return 0
    signed = verify_note(stored.note, signer.public_key, origin=origin)
    if tree.root(signed.size, store.nodes) != signed.root or stored.size != signed.size:
        raise IntegrityError(f"the stored tree is not the one signed at {signed.size} entries")
    return signed.size


class Sequencer:
    """Integrates on demand (`flush`) and, once started, at least every `interval_s` seconds in a thread.

    With a `coordinator`, it does so only while it holds the lease "sequencer": of several processes over one store one
    integrates and publishes, and the others wait for it, or take the lease over once its holder is gone. With a
    `witness`, each new checkpoint is published to it before `flush` returns. Threads: any may call anything. A failed round is kept in `problem` and tried again at the next one.
    """

    def __init__(
        self,
        store: LedgerStore,
        signer: Signer,
        origin: str,
        clock: Clock,
        *,
        witness: Witness | None = None,
        coordinator: Coordinator | None = None,
        interval_s: float = 0.5,
    ) -> None:
        self.origin = origin
        self.problem: Exception | None = None
        """Why the newest round failed; None once one succeeds."""
        self.flushed_at_ns: int | None = None
        """When the newest successful round ended."""
        self._store, self._signer, self._clock, self._witness = store, signer, clock, witness
        self._coordinator = coordinator
        self._interval_s = interval_s
        self._witnessed = ""
        """The note that the witness took last: it is not asked twice a second, as it may be far away."""
        self._lease: Lease | None = None
        self._turn = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def flush(self) -> Checkpoint | None:
        """Integrate everything written before this call; return the newest checkpoint, None for an empty ledger.

        Raises IntegrityError where the stored tree, or the witness, contradicts what was signed before. A witness that
        cannot be reached stops nothing: `problem` says so, and the next round tries again.
        """
        with self._turn:
            try:
                newest, may_publish = self._integrate_all()
                self.problem = self._publish(newest) if may_publish else None
            except Exception as error:  # whatever it was: it is kept, and raised
                self.problem = error
                raise
            self.flushed_at_ns = self._clock.now_ns()
            return newest

    def start(self) -> None:
        """Start the thread; does nothing if it runs."""
        if self._thread is None:
            self._ending.clear()
            self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, integrate what is left and give the lease back. Raises as `flush` does."""
        if self._thread is not None:
            self._ending.set()
            self._thread.join()
            self._thread = None
        try:
            self.flush()
        finally:
            if self._coordinator is not None and self._lease is not None:
                self._coordinator.release(self._lease)

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            try:
                self.flush()
            except Exception:  # noqa: BLE001, S112  (whatever it was, the next round may succeed)
                continue  # `problem` keeps it, for readiness and `ps` to show

    def _integrate_all(self) -> tuple[Checkpoint | None, bool]:
        """Return the newest checkpoint, and whether it is this process that publishes it."""
        if self._coordinator is None:
            return self._take_in(None), True
        deadline_ns = self._clock.monotonic_ns() + int(_PATIENCE_S * 1e9)
        wanted: int | None = None
        while True:
            # Asked for each time: whoever holds it may be gone, and then nobody integrates but who takes it over.
            fence = self._lease = self._coordinator.acquire(LEASE)
            if fence is not None:
                return self._take_in(fence), True
            if wanted is None:
                wanted = max((seq + 1 for seq, _ in self._store.pending(_BATCH)), default=0)
            newest = self._store.checkpoint()
            if (newest.size if newest else 0) >= wanted:
                return newest, False  # whoever integrated it publishes it
            if self._clock.monotonic_ns() > deadline_ns:
                raise UnavailableError("the sequencer of another process does not integrate", hint="try again soon")
            self._clock.sleep(0.05)

    def _take_in(self, fence: Lease | None) -> Checkpoint | None:
        newest = self._store.checkpoint()
        while new := integrate(self._store, self._signer, self.origin, fence=fence):
            num_taken = new.size - (newest.size if newest else 0)
            newest = new
            if num_taken < _BATCH:  # what comes in meanwhile waits for the next round, else this might never end
                break
        return newest

    def _publish(self, newest: Checkpoint | None) -> UnavailableError | None:
        if self._witness is None or newest is None or self._witnessed == newest.note:
            return None
        try:
            self._tell(self._witness, newest)
        except UnavailableError as error:
            return error
        return None

    def _tell(self, witness: Witness, newest: Checkpoint) -> None:
        try:
            witness.publish(self.origin, newest.note)
        except IntegrityError:
            # The lease may have passed on meanwhile: then a larger head was published before this one, and goes on from it.
            larger = self._store.checkpoint()
            if larger is None or larger.size <= newest.size:
                raise
            newest = larger
            witness.publish(self.origin, newest.note)
        self._witnessed = newest.note
