"""Whether a request's key may use a route."""

from __future__ import annotations

import base64
import binascii

from datahall.core.errors import DeniedError, UnauthenticatedError
from datahall.core.records import KeyGrant
from datahall.security import access
from datahall.serve.exchange import Request
from datahall.serve.responses import HttpError, refusal
from datahall.serve.routes import Permission
from datahall.serve.table import Index

_NUM_NAMED = 20


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
    if given[0] is not None and given[0][:6].lower() == b"basic ":
        return _password(given[0][6:])
    return access.key_text(*(None if value is None else value.decode("latin-1") for value in given))


def _password(credentials: bytes) -> str:
    """Return the key in `Authorization: Basic`: the password, whoever the user; clients with a URL only send that."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2].decode("latin-1")
    except binascii.Error:
        return ""


def only_app(grant: KeyGrant, index: Index, permission: Permission, protocol: str) -> str:
    """Return the one application that a key may ask in a protocol.

    Raises HttpError 404 where there is none, 400 with their names where there are several.
    """
    apps = [app for app in index.apps(grant.team, protocol) if access.allows(grant.scopes, permission, app)]
    if len(apps) == 1:
        return apps[0]
    if not apps:
        what = "there is no application that this key may ask in this protocol"
        raise HttpError(refusal(404, what, f"list '{protocol}' in serve.protocols of one"))
    listed = ", ".join(apps[:_NUM_NAMED]) + (f" and {len(apps) - _NUM_NAMED} more" if len(apps) > _NUM_NAMED else "")
    raise HttpError(
        refusal(400, f"this key may ask {len(apps)} applications: {listed}", "name one in the path or in Datahall-App")
    )
