"""Who acts, and the keys with which they show it."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record
from datahall.core.records.deployment import Priority


class ApiKey(Record, frozen=True, kw_only=True):
    """An API key: only the SHA-256 of its text is kept."""

    KIND: ClassVar[str] = "api_key"
    INDEX: ClassVar[tuple[str, ...]] = ("principal", "sha256")

    name: str
    principal: str
    team: str
    sha256: str
    scopes: tuple[str, ...]
    created_at_ns: int
    expires_at_ns: int | None
    revoked_at_ns: int | None = None
    priority: Priority = "normal"
