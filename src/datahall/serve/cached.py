"""What may be given again, to whom, and for how long: the response cache as a gateway uses it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from datahall.core.records import Answer, KeyGrant, Route
from datahall.serve.cache import ResponseCache, Scope
from datahall.serve.decisions import PolicyLog
from datahall.serve.exchange import Request
from datahall.serve.protocols.prepared import Asked, Prepared
from datahall.serve.rows import Rows

KEPT_BYTES: Final = 600
"""What is kept beside the values takes: two records, the id of an answer, and a dictionary."""
_REFUSALS: Final = {b"no-cache", b"no-store"}
_NO_ROWS: Final = Rows(0)


class Kept(NamedTuple):
    """A result, and where it is from."""

    prepared: Prepared
    num_rows: int
    asked: Asked
    """What its answer repeats of its request, without the rows."""
    replica: str
    answer_id: str
    """The answer for which it was worked out."""


def keep(prepared: Prepared, start: int, stop: int, asked: Asked, record: Answer) -> Kept:
    """Return what can be given again of one answer of a batch; it holds no other request's rows in memory."""
    rows = {name: values[start:stop] for name, values in prepared.rows.items()}
    repeated = Asked(_NO_ROWS, asked.id, asked.outputs, asked.binary)
    return Kept(Prepared(rows), stop - start, repeated, record.replica, record.id)


class AnswerCache(ResponseCache[Kept]):
    """Keeps the results of answers that were given and recorded."""

    def __init__(self, max_bytes: int, *, log: PolicyLog | None) -> None:
        """With `max_bytes` 0 there is none: no key is ever made."""
        super().__init__(max_bytes, log=log)
        self._is_on = max_bytes > 0

    def scope_of(self, request: Request, grant: KeyGrant, route: Route, *form: str) -> Scope | None:
        """Return what makes keys for requests with this head; None where nothing may be given again or kept.

        Teams, deployments and forms share nothing; `form` is all that says how the bytes are read. A client asks for an
        answer of its own with `Cache-Control: no-cache` (RFC 9111, section 5.2.1.4), and that it is not kept either
        with `no-store`; here both do both.
        """
        if route.cache_seconds <= 0 or not self._is_on or _is_refused(request):
            return None
        return self.scope(grant.team, route.team, route.app, route.deployment, route.bundle, *form)

    def keep(self, key: bytes, kept: Kept, route: Route, now_ns: int) -> None:
        """Offer a result."""
        num_bytes = KEPT_BYTES + 2 * len(kept.asked.id) + size_bytes(kept.prepared)
        self.put(
            key, kept, num_bytes=num_bytes, deployment=route.deployment, seconds=route.cache_seconds, now_ns=now_ns
        )


def _is_refused(request: Request) -> bool:
    """Whether the client asks for an answer of its own; the header may come several times, and list several things."""
    for name, value in request.headers:
        if name == b"cache-control" and not _REFUSALS.isdisjoint(
            part.strip() for part in value.lower().replace(b"=", b",").split(b",")
        ):
            return True
    return False


def size_bytes(prepared: Prepared) -> int:
    """Return what the values of an answer take in memory."""
    return sum(_size(values) for values in prepared.rows.values())


def _size(value: Any) -> int:
    if type(value) is not list:
        return 8 + value.__sizeof__()  # type: ignore[no-any-return]  # of a float, str or None: an int
    return 80 + sum(map(_size, value))
