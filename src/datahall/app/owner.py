"""The owner's key: made at a hall's first start, so that nobody ever starts with none or with a known one."""

from __future__ import annotations

from datahall.core.ids import new_id
from datahall.core.ports import Catalogue, Clock
from datahall.core.records import Act, ApiKey, Change
from datahall.security.access import hash_key
from datahall.security.keys import KeyRing


def ensure_owner(catalogue: Catalogue, keys: KeyRing, clock: Clock) -> None:
    """Write the hall's first entry and register the owner's key, unless that was done before."""
    sha256 = hash_key(keys.owner_key)
    if catalogue.find(ApiKey, sha256=sha256):
        return
    key = ApiKey(
        id=new_id("key", clock),
        name="owner",
        principal="owner",
        team="main",
        sha256=sha256,
        scopes=("admin",),
        created_at_ns=clock.now_ns(),
        expires_at_ns=None,
    )
    body = {"owner_key": key.id, "public_key": keys.signer.public_key.hex()}
    catalogue.act(Act(kind="hall.created", actor="owner", body=body, changes=(Change(new=key),)))
