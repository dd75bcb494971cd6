"""Who may do what: permissions, the scopes of API keys, and keys of which only a hash is kept.

Everything that is not granted here is denied: unknown permissions and unknown scopes too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Final, get_args

import msgspec

from datahall.core.canonical import digest_bytes
from datahall.core.errors import DeniedError, UnauthenticatedError, UserError
from datahall.core.ids import NAME_RULE, is_name, new_id
from datahall.core.ports.clock import Clock
from datahall.core.records import ApiKey, KeyGrant, Priority

PERMISSIONS: Final = frozenset({"public", "predict", "read", "admin"})
"""What a route can demand: nothing; an answer; to see; to run lifecycles and to change keys."""

SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "predict": frozenset({"predict"}),
    "read": frozenset({"read"}),
    "admin": PERMISSIONS,
}
"""What each scope allows; `predict:APP` allows `predict` for that application alone."""

OWNER: Final = "owner"
"""The principal that a hall has from its first start."""

EVERY_TEAM: Final = "*"
"""The team of the owner's key: it reaches all. It is no team's name, so no other key can be issued with it."""

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""Of keys: whose requests are refused last comes first."""

MAX_SCOPES: Final = 100
"""Scopes travel to every gateway with each route table."""

_KEY_TEXT = re.compile(r"dh_[0-9a-f]{64}")
_APP_SCOPE = re.compile(r"predict:([A-Za-z0-9][A-Za-z0-9._-]{0,99})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


def allows(scopes: Iterable[str], permission: str, app: str | None = None) -> bool:
    """Return whether `scopes` carry `permission`, for `app` where the request names one."""
    if permission == "public":
        return True
    for scope in scopes:
        if permission in SCOPES.get(scope, ()):
            return True
        if permission == "predict" and app and scope == f"predict:{app}" and _APP_SCOPE.fullmatch(scope):
            return True
    return False


def reaches(key_team: str, team: str) -> bool:
    """Return whether a key of `key_team` may know of what belongs to `team`: its own, and the owner's of all."""
    return key_team in (team, EVERY_TEAM)


def new_key_text() -> str:
    """Return the text of a fresh API key: `dh_` and 256 random bits."""
    return f"dh_{secrets.token_hex(32)}"


def is_key_text(text: str) -> bool:
    """Return whether `text` has the form of an API key."""
    return _KEY_TEXT.fullmatch(text) is not None


def hash_key(text: str) -> str:
    """Return the SHA-256 of a key's text in hexadecimal: all that is ever stored of it.

    A slow hash would add nothing: 256 random bits cannot be guessed however fast the guesses are.
    """
    return digest_bytes(text.encode("utf-8", "surrogateescape"))


def issue_key(
    *,
    name: str,
    principal: str,
    team: str,
    scopes: Iterable[str],
    clock: Clock,
    lifetime_s: float | None = None,
    priority: Priority = "normal",
    text: str | None = None,
) -> tuple[str, ApiKey]:
    """Return the text of a new API key, to be shown once, and the record to keep.

    `lifetime_s` None never expires; `text` registers a key that exists already (the owner's).
    Raises UserError for an empty name, a team that cannot be one, unknown scopes, no scopes, a priority that there is
    not, or a lifetime that is not positive.
    """
    if not is_name(team):
        raise UserError("a key needs the name of a team", where=team[:80], hint=f"a name is {NAME_RULE}")
    if not _NAME.fullmatch(name) or not name.strip():
        raise UserError("a key needs a name of 1 to 100 printable characters", hint="say what will use it: --name ci")
    if lifetime_s is not None and not 0 < lifetime_s < 1e10:
        raise UserError(f"a key cannot live for {lifetime_s} seconds", hint="give a positive lifetime")
    if priority not in PRIORITIES:
        raise UserError(f"there is no priority '{str(priority)[:80]}'", hint=f"choose among: {', '.join(PRIORITIES)}")
    if text is not None and not is_key_text(text):
        raise UserError("this is not the text of an API key", hint="it starts with dh_ and has 67 characters")
    text = text or new_key_text()
    now_ns = clock.now_ns()
    key = ApiKey(
        id=new_id("key", clock),
        name=name,
        principal=principal,
        team=team,
        sha256=hash_key(text),
        scopes=check_scopes(scopes),
        created_at_ns=now_ns,
        expires_at_ns=None if lifetime_s is None else now_ns + int(lifetime_s * 1e9),
        priority=priority,
    )
    return text, key


def issue_owner_key(text: str, clock: Clock) -> ApiKey:
    """Return the record of the owner's key, the one key that reaches every team."""
    _, key = issue_key(name=OWNER, principal=OWNER, team=OWNER, scopes=("admin",), clock=clock, text=text)
    return msgspec.structs.replace(key, team=EVERY_TEAM)


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes sorted, each once. Raises UserError for an unknown one, for none at all, or for too many."""
    asked = tuple(sorted(set(scopes)))
    unknown = [scope for scope in asked if scope not in SCOPES and not _APP_SCOPE.fullmatch(scope)]
    if unknown or not asked:
        what = f"there is no scope '{unknown[0][:80]}'" if unknown else "a key needs at least one scope"
        raise UserError(what, hint=f"choose among: {', '.join(SCOPES)}, predict:APP")
    if len(asked) > MAX_SCOPES:
        raise UserError(f"a key takes {MAX_SCOPES} scopes at most", hint="issue several keys")
    return asked


def key_grant(key: ApiKey) -> KeyGrant:
    """Return what a gateway needs to know of a key."""
    return KeyGrant(
        key_id=key.id,
        principal=key.principal,
        team=key.team,
        scopes=key.scopes,
        expires_at_ns=key.expires_at_ns,
        priority=key.priority,
    )


def key_grants(keys: Iterable[ApiKey], now_ns: int) -> dict[str, KeyGrant]:
    """Return the keys' hashes with their grants for a route table, without the revoked and the expired."""
    return {
        key.sha256: key_grant(key)
        for key in keys
        if key.revoked_at_ns is None and not is_expired(key, now_ns)  # revoked is revoked, whatever a clock says now
    }


def is_expired(key: ApiKey | KeyGrant, now_ns: int) -> bool:
    """Return whether the key's time is over; it is from its last nanosecond on."""
    return key.expires_at_ns is not None and now_ns >= key.expires_at_ns


def key_text(authorization: str | None, x_api_key: str | None) -> str:
    """Return the key in the headers `Authorization: Bearer` or else `X-API-Key`, empty where there is none."""
    scheme, _, text = (authorization or "").partition(" ")
    return (text if scheme.lower() == "bearer" else x_api_key or "").strip()


def authenticate(text: str | None, keys: Mapping[str, KeyGrant], now_ns: int) -> KeyGrant:
    """Return the grant of the key that a request shows.

    The look-up is by hash, so its time says nothing about a key's text. Raises UnauthenticatedError; it says the
    same of a wrong key and of an expired one only to those who hold the text.
    """
    if not text:
        raise UnauthenticatedError("this needs an API key", hint="send the header: Authorization: Bearer dh_...")
    grant = keys.get(hash_key(text))
    if grant is None:
        raise UnauthenticatedError("this API key is not known here", hint="ask the hall's owner for one")
    if is_expired(grant, now_ns):
        raise UnauthenticatedError("this API key has expired", hint="ask the hall's owner for a new one")
    return grant


def authorize(grant: KeyGrant, permission: str, app: str | None = None) -> None:
    """Raise DeniedError unless the grant carries the permission."""
    if not allows(grant.scopes, permission, app):
        of = f" for '{app}'" if app else ""
        raise DeniedError(
            f"this API key does not carry the permission '{permission}'{of}",
            hint=f"its scopes are: {', '.join(grant.scopes)}",
        )
