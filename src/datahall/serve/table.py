"""The route table that a gateway follows: published by control as a signed file, believed only when it verifies.

The table is sealed before it is signed (AES-256-GCM): it tells the categories of columns, which are values that people
have, and lies on the disk for as long as it is followed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.canonical import canonical_json
from datahall.core.durable import write_atomic
from datahall.core.errors import DatahallError, IntegrityError, UnavailableError
from datahall.core.records import KeyGrant, Route, RouteTable
from datahall.security.access import EVERY_TEAM
from datahall.security.signing import Ed25519Signer, dsse_open, dsse_sign

PAYLOAD_TYPE: Final = "application/vnd.datahall.routes.v2+sealed"
MAX_TABLE_BYTES = 16 << 20
_NONCE_BYTES: Final = 12


def publish_routes(path: Path, table: RouteTable, signer: Ed25519Signer, key: bytes) -> None:
    """Replace the table at `path` by `table`, sealed under `key` (32 bytes) and signed as a DSSE envelope.

    Raises UnavailableError for a table that gateways would refuse for its size: they go on with the one before.
    """
    signed = dsse_sign(signer, PAYLOAD_TYPE, seal_table(canonical_json(table), key)).encode()
    if len(signed) > MAX_TABLE_BYTES:
        raise UnavailableError(
            f"the route table would have {len(signed)} bytes, and gateways take {MAX_TABLE_BYTES} at most",
            hint=f"revoke some of its {len(table.keys)} keys: datahall key list",
        )
    write_atomic(path, signed, at="routes.publish")


def seal_table(payload: bytes, key: bytes) -> bytes:
    """Return `payload` encrypted and authenticated: nonce, then ciphertext."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, payload, PAYLOAD_TYPE.encode())


def read_routes(data: bytes, keys: Mapping[str, bytes], key: bytes) -> RouteTable:
    """Return the table in a signed envelope. Raises IntegrityError where it is not one of the hall's."""
    try:
        opened = dsse_open(data.decode(), keys)
        if opened.payload_type != PAYLOAD_TYPE:
            raise IntegrityError(f"the route table is a '{opened.payload_type[:80]}'")
        nonce, sealed = opened.payload[:_NONCE_BYTES], opened.payload[_NONCE_BYTES:]
        payload = AESGCM(key).decrypt(nonce, sealed, PAYLOAD_TYPE.encode())
        return msgspec.json.decode(payload, type=RouteTable)
    except (InvalidTag, ValueError) as error:  # ValueError: no text, no JSON, or too short for a nonce
        raise IntegrityError(f"the route table cannot be read: {error}") from error


class RouteSource(Protocol):
    """Where a gateway learns of new route tables."""

    @property
    def problem(self) -> str:
        """Why the newest table is not followed; empty while all is well."""

    def poll(self) -> RouteTable | None:
        """Return a table newer than every one returned before, None if there is none."""


class FileRouteSource:
    """Reads the file that control replaces; a bad or an older one is refused and the last good one stays."""

    def __init__(self, path: Path, keys: Mapping[str, bytes], key: bytes) -> None:
        """Follow the file at `path`: `keys` are those that may sign it, `key` opens it."""
        self._path = path
        self._keys, self._key = keys, key
        self._seen: tuple[int, int, int] | None = None
        self._revision = -1
        self.problem = "there is no route table yet"

    def poll(self) -> RouteTable | None:
        """Return a table newer than every one returned before, None if there is none. Costs one stat mostly."""
        try:
            status = os.stat(self._path)  # noqa: PTH116  five times a second: no Path object made
        except FileNotFoundError:
            return None
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return None
        table = self._read(seen)
        if table is None:
            return None
        if table.revision <= self._revision:
            if table.revision < self._revision:
                self.problem = f"revision {table.revision} came after {self._revision} and is refused"
            return None
        self._revision = table.revision
        self.problem = ""
        return table

    def _read(self, seen: tuple[int, int, int]) -> RouteTable | None:
        if seen[2] > MAX_TABLE_BYTES:
            self._seen = seen
            self.problem = "the route table is too large"
            return None
        try:
            data = self._path.read_bytes()
        except OSError as error:  # no descriptor left, say: it is read at the next poll, for it may revoke a key
            self.problem = f"the newest route table cannot be read: {error.strerror}"
            return None
        self._seen = seen
        try:
            return read_routes(data, self._keys, self._key)
        except DatahallError as error:
            self.problem = f"the newest route table is refused: {type(error).__name__}"
            return None


class Index:
    """A route table arranged for look-up by application."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self.revision = table.revision
        self.keys: Mapping[str, KeyGrant] = table.keys
        """May be newer than the routes: a revoked key must not wait for a new version's replicas."""
        # For the owner's key an application needs no team: in a hall, a name belongs to the team that declared it first.
        self._routes = {(EVERY_TEAM, route.app): route for route in table.routes}
        self._routes |= {(route.team, route.app): route for route in table.routes}
        self._apps: dict[tuple[str, str], tuple[str, ...]] = {}

    def route(self, team: str, app: str) -> Route | None:
        """Return the way to what a key's team may ask; another team's application does not exist for it."""
        return self._routes.get((team, app))

    def apps(self, team: str, protocol: str) -> tuple[str, ...]:
        """Return the applications that a key's team may ask in a protocol, by name."""
        found = self._apps.get((team, protocol))
        if found is None:
            apps = {
                app for (owner, app), route in self._routes.items() if owner == team and protocol in route.protocols
            }
            found = self._apps[team, protocol] = tuple(sorted(apps))
        return found
