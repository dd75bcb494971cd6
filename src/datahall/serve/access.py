"""Whether a request's key may use a route."""

from __future__ import annotations

from datahall.core.errors import DeniedError, UnauthenticatedError
from datahall.core.records import KeyGrant
from datahall.security import access
from datahall.serve.exchange import Request
from datahall.serve.responses import HttpError, refusal
from datahall.serve.routes import Permission
from datahall.serve.table import Index


def authenticate(request: Request, index: Index, now_ns: int) -> KeyGrant:
    """Return what the request's key may do. Raises HttpError 401 where there is no key, or none that holds."""
    try:
        return access.authenticate(_key_text(request), index.keys, now_ns)
    except UnauthenticatedError as error:
        headers = (("WWW-Authenticate", "Bearer"),)
        raise HttpError(refusal(401, error.what, error.hint, headers=headers)) from None


def authorize(grant: KeyGrant, permission: Permission, app: str) -> None:
    """Raise HttpError 403 where the key does not carry `permission` for `app`."""
    try:
        access.authorize(grant, permission, app)
    except DeniedError as error:
        raise HttpError(refusal(403, error.what, error.hint)) from None


def _key_text(request: Request) -> str:
    given = [request.header(name) for name in (b"authorization", b"x-api-key")]
    return access.key_text(*(None if value is None else value.decode("latin-1") for value in given))
