"""The right to do one named piece of work, until somebody else gets it."""

from __future__ import annotations

import msgspec


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder has: `token` grows with every new holder of `name`, so the newest one is known from any other."""

    name: str
    holder: str
    token: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A mutating call by its idempotency key: whoever makes it again gets the first one's answer, and nothing is done.

    `id` names caller and key, `request` is the digest of what was asked, `reply` the sealed answer to give again.
    """

    id: str
    request: str
    reply: bytes
