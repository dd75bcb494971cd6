"""How long the keys of a route table may be believed: control confirms it each minute, and what nobody confirms grows stale."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from datahall.core.canonical import canonical_json
from datahall.core.durable import write_atomic
from datahall.core.errors import DatahallError
from datahall.core.ports import Clock
from datahall.core.records import RouteTable
from datahall.security.signing import Ed25519Signer, dsse_open, dsse_sign

PAYLOAD_TYPE: Final = "application/vnd.datahall.routes-confirmed.v1"
MAX_BYTES: Final = 4096
MAX_AHEAD_NS: Final = 300 * 10**9
"""A confirmation from a later time than that is no news: the clock has been set back since, or it is forged."""


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What control says each minute: no key was issued or revoked since this revision."""

    revision: int
    at_ns: int


def confirmation_path(routes: Path) -> Path:
    """Return where the confirmation of the route table at `routes` lies."""
    return routes.with_suffix(".confirmed")


def publish_confirmation(routes: Path, revision: int, now_ns: int, signer: Ed25519Signer) -> None:
    """Say, signed, that the table at `routes` with this revision is the newest one at `now_ns`."""
    payload = canonical_json(Confirmation(revision=revision, at_ns=now_ns))
    write_atomic(confirmation_path(routes), dsse_sign(signer, PAYLOAD_TYPE, payload).encode(), at="routes.confirm")


class Freshness:
    """Whether the newest table that a gateway has was confirmed lately.

    Age is counted on the monotonic clock from the moment at which a confirmation is first seen; only how old it was
    then is told by the wall's. So a clock that is set back does not make a table young again, and one that is set
    forward makes it old only until the next confirmation.
    """

    def __init__(self, routes: Path, keys: Mapping[str, bytes], clock: Clock, stale_seconds: float | None) -> None:
        """`keys` are those that may sign; with `stale_seconds` None nothing ever grows stale."""
        self.is_stale = False
        self._path, self._keys, self._clock = confirmation_path(routes), keys, clock
        self._stale_ns = None if stale_seconds is None else int(stale_seconds * 1e9)
        self._seen: tuple[int, int, int] | None = None
        self._confirmation = Confirmation(revision=-1, at_ns=0)
        self._news: tuple[int, int] | None = None
        self._confirmed_ns: int | None = None
        """On the monotonic clock."""

    def step(self, table: RouteTable) -> None:
        """Look for a newer confirmation of `table`, the newest that the gateway has. Costs one stat mostly."""
        if self._stale_ns is None:
            return
        self._poll()
        confirmed = self._confirmation.at_ns if self._confirmation.revision == table.revision else 0
        news, now = (table.revision, confirmed), self._clock.monotonic_ns()
        if news != self._news:
            self._news = news
            for at_ns in (table.published_at_ns, confirmed):
                self._hear(at_ns, now)
        self.is_stale = self._confirmed_ns is None or now - self._confirmed_ns > self._stale_ns

    def _hear(self, at_ns: int, now: int) -> None:
        age_ns = self._clock.now_ns() - at_ns
        if age_ns < -MAX_AHEAD_NS:
            return
        heard = now - max(0, age_ns)
        self._confirmed_ns = heard if self._confirmed_ns is None else max(heard, self._confirmed_ns)

    def _poll(self) -> None:
        try:
            status = os.stat(self._path)  # noqa: PTH116  five times a second: no Path object made
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen or status.st_size > MAX_BYTES:
                return
            data = self._path.read_bytes()
        except OSError:  # not there, or no descriptor left: what is not confirmed grows old
            return
        self._seen = seen
        try:
            opened = dsse_open(data.decode(), self._keys)
            if opened.payload_type == PAYLOAD_TYPE:
                self._confirmation = msgspec.json.decode(opened.payload, type=Confirmation)
        except (DatahallError, ValueError):  # damaged, or not signed by the hall: it confirms nothing
            return
