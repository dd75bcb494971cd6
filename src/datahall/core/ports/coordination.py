"""Who does what, where several could: leases whose tokens keep out a holder that does not know it lost one."""

from __future__ import annotations

from typing import Protocol

from datahall.core.records import Lease


class Coordinator(Protocol):
    """Hands each named piece of work to one holder at a time.

    Safety never rests on a clock: every new holder of a name has a higher token, and a write that names its token
    (`Act.fence`) is refused in its own transaction once the lease has passed on. Clocks decide only how soon that
    happens: a lease may be taken over when its heartbeat has stood still for `ttl_s` on the monotonic clock of whoever
    watches it, so no machine's wall clock matters.
    """

    def acquire(self, name: str, *, ttl_s: float = 10.0) -> Lease | None:
        """Return the lease, None while a living holder has it; durable. Asking again as its holder returns the same."""

    def beat(self) -> None:
        """Show that every lease of this holder is alive; call it several times per `ttl_s`."""

    def release(self, lease: Lease) -> None:
        """Give it back, so that nobody need wait; a lease that was lost is no error."""

    def leases(self) -> list[Lease]:
        """Return every lease that is held, ordered by name."""
