"""The owner's key: registered at a hall's first start, so that nobody ever starts with none or with a known one."""

from __future__ import annotations

from datahall.core.ports import Catalogue, Clock
from datahall.core.records import Act, ApiKey, Change
from datahall.security.access import OWNER, issue_owner_key
from datahall.security.keys import KeyRing


def ensure_owner(catalogue: Catalogue, keys: KeyRing, clock: Clock) -> None:
    """Write the hall's first entry and register the owner's key, unless that was done before."""
    if catalogue.find(ApiKey, sha256=keys.owner_key_hash):
        return
    key = issue_owner_key(keys.owner_key, clock)
    body = {"owner_key": key.id, "public_key": keys.signer.public_key.hex()}
    catalogue.act(Act(kind="hall.created", actor=OWNER, body=body, changes=(Change(new=key),)))
