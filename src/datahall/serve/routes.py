"""The routes that the gateway answers itself, each with its permission; everything else goes on to control."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import msgspec

from datahall.serve.responses import HttpError, refusal

Permission = Literal["public", "predict"]
Action = Literal[
    "healthz", "readyz", "server", "live", "ready", "model", "model_ready", "infer", "predict", "invoke", "version"
]


class HotRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One route: `{app}` and `{version}` stand for one path segment each."""

    method: Literal["GET", "POST"]
    path: str
    permission: Permission
    action: Action

    @property
    def protocol(self) -> str:
        """The protocol that it belongs to, as `serve.protocols` of an application file names it."""
        return {"predict": "predict", "invoke": "mlflow"}.get(self.action, "v2")


class Match(msgspec.Struct, frozen=True, gc=False):
    """A request's route, and what its path names."""

    route: HotRoute
    app: str = ""
    version: str = ""


HOT_ROUTES: tuple[HotRoute, ...] = (
    HotRoute(method="GET", path="/healthz", permission="public", action="healthz"),
    HotRoute(method="GET", path="/readyz", permission="public", action="readyz"),
    HotRoute(method="GET", path="/v2", permission="public", action="server"),
    HotRoute(method="GET", path="/v2/health/live", permission="public", action="live"),
    HotRoute(method="GET", path="/v2/health/ready", permission="public", action="ready"),
    HotRoute(method="GET", path="/v2/models/{app}", permission="predict", action="model"),
    HotRoute(method="GET", path="/v2/models/{app}/ready", permission="predict", action="model_ready"),
    HotRoute(method="POST", path="/v2/models/{app}/infer", permission="predict", action="infer"),
    HotRoute(method="GET", path="/v2/models/{app}/versions/{version}", permission="predict", action="model"),
    HotRoute(
        method="GET", path="/v2/models/{app}/versions/{version}/ready", permission="predict", action="model_ready"
    ),
    HotRoute(method="POST", path="/v2/models/{app}/versions/{version}/infer", permission="predict", action="infer"),
    HotRoute(method="POST", path="/predict/{app}", permission="predict", action="predict"),
    HotRoute(method="GET", path="/ping", permission="public", action="readyz"),
    HotRoute(method="GET", path="/health", permission="public", action="readyz"),
    HotRoute(method="GET", path="/version", permission="public", action="version"),
    HotRoute(method="POST", path="/invocations", permission="predict", action="invoke"),
    HotRoute(method="POST", path="/invocations/{app}", permission="predict", action="invoke"),
    HotRoute(method="POST", path="/endpoints/{app}/invocations", permission="predict", action="invoke"),
)
"""The whole surface of the gateway; a test compares it with what is documented."""

OWNED = ("/v2/", "/predict/", "/invocations/", "/endpoints/")
"""Below these prefixes nothing goes on to control: an unknown path is a 404 here."""

_PARTS = tuple((route, route.path.split("/")) for route in HOT_ROUTES)


MAX_REMEMBERED_CHARS = 256
"""Longer paths are matched anew each time: anybody can send thousands of them, which must not add up in memory."""


def match(method: str, path: str) -> Match | None:
    """Return the hot route of a request, None where it goes on to control.

    Raises HttpError: 405 with `Allow` for a known path with another method, 404 for an unknown path below OWNED.
    """
    return _remembered(method, path) if len(path) <= MAX_REMEMBERED_CHARS else _match(method, path)


def _match(method: str, path: str) -> Match | None:
    wanted = "GET" if method == "HEAD" else method
    trimmed = path[:-1] if len(path) > 1 and path.endswith("/") else path
    parts = trimmed.split("/")
    allowed = []
    for route, pattern in _PARTS:
        found = _fit(parts, pattern)
        if found is not None:
            if route.method == wanted:
                return Match(route, *found)
            allowed.append("GET, HEAD" if route.method == "GET" else route.method)
    if allowed:
        allow = ", ".join(allowed)
        raise HttpError(refusal(405, f"{method} is not possible here", f"use {allow}", headers=(("Allow", allow),)))
    if path.startswith(OWNED) or trimmed in ("/predict", "/v2/models"):
        raise HttpError(refusal(404, "there is nothing at this path", "ask POST /predict/APP or see /v2"))
    return None


_remembered = lru_cache(maxsize=1024)(_match)


def _fit(parts: list[str], pattern: list[str]) -> tuple[str, str] | None:
    if len(parts) != len(pattern):
        return None
    app = version = ""
    for part, expected in zip(parts, pattern, strict=True):
        if expected == "{app}" and part:
            app = part
        elif expected == "{version}" and part:
            version = part
        elif part != expected:
            return None
    return app, version
