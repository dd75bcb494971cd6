"""Whether a request's key may use a route."""

from __future__ import annotations

from datahall.core.records import KeyGrant
from datahall.serve.http import Request
from datahall.serve.responses import HttpError, Response, refusal
from datahall.serve.routes import Permission
from datahall.serve.table import Index

_HOW = "send it as `Authorization: Bearer dh_...` or `X-API-Key: dh_...`"


def authenticate(request: Request, index: Index, now_ns: int) -> KeyGrant:
    """Return what the request's key may do. Raises HttpError 401 where there is no key, or none that holds."""
    text = _key_text(request)
    if not text:
        raise HttpError(_unauthenticated("a key is needed", _HOW))
    grant = index.key(text, now_ns)
    if grant is None:
        # Unknown, expired and revoked look alike, so that nobody learns which keys ever were.
        raise HttpError(_unauthenticated("the key does not hold", "make another: datahall key add"))
    return grant


def authorize(grant: KeyGrant, permission: Permission, app: str) -> None:
    """Raise HttpError 403 where the key does not carry `permission` for `app`."""
    if permission != "public" and not allows(grant.scopes, permission, app):
        raise HttpError(
            refusal(403, f"the key may not '{permission}' here", "use a key with the scope, or ask for one")
        )


def _key_text(request: Request) -> str:
    given = request.header(b"x-api-key")
    if given is not None:
        return given.decode("latin-1").strip()
    scheme, _, text = (request.header(b"authorization") or b"").partition(b" ")
    return text.decode("latin-1").strip() if scheme.lower() == b"bearer" else ""


def _unauthenticated(what: str, hint: str) -> Response:
    return refusal(401, what, hint, headers=(("WWW-Authenticate", "Bearer"),))


def allows(scopes: tuple[str, ...], permission: Permission, app: str) -> bool:
    """Return whether a key with `scopes` carries `permission` for `app`; what is not named is denied."""
    return any(scope in ("admin", permission, f"{permission}:{app}") for scope in scopes)
