"""Every route declares its permission, and what is not public is closed to those without a key."""

from __future__ import annotations

import pytest

from datahall.security.access import PERMISSIONS
from datahall.serve import routes
from datahall.serve.responses import HttpError
from datahall.serve.routes import HOT_ROUTES, match

PUBLIC = {"/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/ping", "/health", "/version"}


def test_what_is_public_is_listed_here():
    assert {route.path for route in HOT_ROUTES if route.permission == "public"} == PUBLIC
    assert {route.permission for route in HOT_ROUTES} <= PERMISSIONS


def test_a_walk_without_a_key(flowers):
    for route in HOT_ROUTES:
        path = route.path.replace("{app}", "flowers").replace("{version}", "1.0.0")
        reply = flowers.ask(route.method, path, b"{}" if route.method == "POST" else None, key=None)
        assert (reply.status == 401) == (route.permission != "public"), path


def test_the_walk_would_find_an_open_route(flowers, monkeypatch):
    """The negative control: a route that asks for nothing is seen by the walk."""
    open_routes = tuple(
        (type(route)(method=route.method, path=route.path, permission="public", action=route.action), parts)
        for route, parts in routes._PARTS
    )
    monkeypatch.setattr(routes, "_PARTS", open_routes)
    routes._remembered.cache_clear()
    try:
        assert flowers.ask("GET", "/v2/models/flowers", key=None).status != 401
    finally:
        routes._remembered.cache_clear()


@pytest.mark.parametrize(
    ("method", "path", "app"),
    [
        ("POST", "/predict/a", "a"),
        ("GET", "/v2/models/b/", "b"),
        ("HEAD", "/v2/models/c/ready", "c"),
        ("GET", "/v2/", ""),
        ("POST", "/invocations", ""),
        ("POST", "/invocations/d", "d"),
        ("POST", "/endpoints/e/invocations", "e"),
    ],
)
def test_paths_are_matched(method, path, app):
    assert match(method, path).app == app


@pytest.mark.parametrize("path", ["/", "/api/v1/apps", "/v1/chat/completions", "/metrics", "/predictions/x", "/v20"])
def test_the_rest_goes_to_control(path):
    assert match("POST", path) is None


@pytest.mark.parametrize(
    "path", ["/v2/x", "/predict/a/b", "/predict//", "/v2/models//infer", "/predict", "/v2/models", "/endpoints/a"]
)
def test_what_is_ours_and_unknown_is_a_404(path):
    with pytest.raises(HttpError) as caught:
        match("GET", path)
    assert caught.value.response.status == 404
