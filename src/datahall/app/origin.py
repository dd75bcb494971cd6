"""The name under which a hall's tree heads are known."""

from __future__ import annotations

from datahall.core.ports import Signer


def origin_of(signer: Signer) -> str:
    """Return the origin of the hall with this signing key: no two halls share a key, so none share an origin."""
    return f"datahall/{signer.key_id[:16]}"
