"""What may be given again, to whom, and for how long: the response cache as a gateway uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from datahall.core.records import KeyGrant, Route
from datahall.serve.cache import ResponseCache, Scope
from datahall.serve.decisions import PolicyLog
from datahall.serve.exchange import Request
from datahall.serve.protocols import v2
from datahall.serve.rows import Rows

if TYPE_CHECKING:
    import numpy as np

ARRAY_BYTES: Final = 144
KEPT_BYTES: Final = 500
"""What one array, and what is kept beside the arrays, takes beyond its content."""
_REFUSALS: Final = {b"no-cache", b"no-store"}
_NO_ROWS: Final = Rows(0)


class Kept(NamedTuple):
    """A result, and where it is from."""

    arrays: Mapping[str, np.ndarray]
    num_rows: int
    asked: v2.Asked | None
    """What an answer in the Open Inference Protocol repeats of its request, without its rows."""
    replica: str
    answer_id: str
    """The answer for which it was worked out."""


class AnswerCache(ResponseCache[Kept]):
    """Keeps the results of answers that were given and recorded."""

    def __init__(self, max_bytes: int, *, log: PolicyLog | None) -> None:
        super().__init__(max_bytes, log=log)

    def scope_of(self, request: Request, grant: KeyGrant, route: Route, form: str) -> Scope | None:
        """Return what makes keys for requests with this head; None where nothing may be given again or kept.

        Teams, bundles and forms share nothing. A client asks for an answer of its own with `Cache-Control: no-cache`
        (RFC 9111, section 5.2.1.4), and that it is not kept either with `no-store`; here both do both.
        """
        if route.cache_seconds <= 0 or _is_refused(request):
            return None
        return self.scope(grant.team, route.team, route.app, route.deployment, route.bundle, form)

    def keep(self, key: bytes, kept: Kept, route: Route, now_ns: int) -> None:
        """Offer a result; what stays of it holds no other request's rows in memory."""
        arrays = {name: array.copy() for name, array in kept.arrays.items()}
        asked = kept.asked and msgspec.structs.replace(kept.asked, rows=_NO_ROWS)
        num_bytes = KEPT_BYTES + size_bytes(arrays) + (2 * len(asked.id) if asked else 0)
        one = kept._replace(arrays=arrays, asked=asked)
        self.put(key, one, num_bytes=num_bytes, deployment=route.deployment, seconds=route.cache_seconds, now_ns=now_ns)


def _is_refused(request: Request) -> bool:
    """Whether the client asks for an answer of its own; the header may come several times, and list several things."""
    for name, value in request.headers:
        if name == b"cache-control" and not _REFUSALS.isdisjoint(
            part.strip() for part in value.lower().replace(b"=", b",").split(b",")
        ):
            return True
    return False


def size_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Return what arrays of numbers, or of str, take in memory."""
    num_bytes = 0
    for array in arrays.values():
        num_bytes += ARRAY_BYTES + array.nbytes
        if array.dtype == object:
            num_bytes += sum(each.__sizeof__() for each in array.flat)
    return num_bytes
