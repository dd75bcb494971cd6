"""Work under a lease: who holds it writes, who lost it cannot, and a heart beats for all leases of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from datahall.core.errors import ConflictError, DatahallError
from datahall.core.ports import Catalogue, Clock, Coordinator
from datahall.core.records import Act, Entry, Lease, R

TTL_S = 10.0
BEAT_S = TTL_S / 4
"""Three beats may be missed before somebody else takes over."""
PATIENCE_S = TTL_S + 1
_ASK_S = 0.25


class Fenced:
    """A catalogue whose every act holds only while `lease` does; fulfils Catalogue."""

    def __init__(self, catalogue: Catalogue, lease: Lease) -> None:
        self._catalogue, self._lease = catalogue, lease

    def act(self, act: Act) -> Entry:
        """Write as the port says. Raises FencedError once somebody else holds the lease."""
        return self._catalogue.act(msgspec.structs.replace(act, fence=self._lease))

    def get(self, kind: type[R], record_id: str) -> R:
        """Return one record."""
        return self._catalogue.get(kind, record_id)

    def find(self, kind: type[R], **equals: str | int) -> list[R]:
        """Return the records whose indexed fields equal `equals`."""
        return self._catalogue.find(kind, **equals)

    def reply(self, call_id: str, request: str) -> bytes | None:
        """Return the sealed answer to a call that was done before."""
        return self._catalogue.reply(call_id, request)

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries with start <= seq < stop."""
        return self._catalogue.entries(start, stop)

    def touching(self, kind: str, record_id: str) -> list[Entry]:
        """Return the entries that changed one record."""
        return self._catalogue.touching(kind, record_id)


class Heart:
    """Shows in a thread that this process lives, for as long as the block runs."""

    def __init__(self, coordinator: Coordinator, *, beat_s: float = BEAT_S) -> None:
        self._coordinator, self._beat_s = coordinator, beat_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._beat_s):
            try:
                self._coordinator.beat()
            except DatahallError:
                continue  # the catalogue cannot be written: whoever needs a lease hears it when writing


@contextmanager
def leased(
    catalogue: Catalogue,
    coordinator: Coordinator,
    name: str,
    what: str,
    *,
    clock: Clock,
    patience_s: float = PATIENCE_S,
) -> Iterator[Catalogue]:
    """Yield a catalogue that writes under the lease `name`. Raises ConflictError, saying `what`, where another has it.

    Watches for `patience_s` first: a holder that died shows only by a heartbeat that stands still meanwhile.
    """
    deadline_ns = clock.monotonic_ns() + int(patience_s * 1e9)
    while (lease := coordinator.acquire(name, ttl_s=TTL_S)) is None:
        if clock.monotonic_ns() >= deadline_ns:
            raise ConflictError(what, hint="see it with: datahall ps")
        clock.sleep(_ASK_S)
    try:
        yield Fenced(catalogue, lease)
    finally:
        coordinator.release(lease)
