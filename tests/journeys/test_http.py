"""Control's API as the world sees it, through the gateway: keys, paths, methods and bodies that are wrong."""

from __future__ import annotations

import re

import pytest

from datahall.app.http.api import ROUTES
from datahall.serve.routes import HOT_ROUTES

DEEP = b'{"file":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES = {
    "nothing": b"",
    "no JSON": b"{'file': 1}",
    "half": b'{"file": "a',
    "not an object": b'["file"]',
    "wrong type": b'{"file": 7}',
    "unknown key": b'{"file": "a", "name": "b", "scopes": [], "more": 1}',
    "deep": DEEP,
    "no text": b"\xff\xfe\x00\x01",
    "half a surrogate": b'{"file": "\\ud800", "name": "\\ud800", "scopes": ["\\ud800"]}',
    "a null in a path": b'{"file": "a\\u0000b"}',
    "huge number": b'{"file": "a", "name": "a", "scopes": ["predict"], "days": 1e400}',
    "endless lifetime": b'{"name": "a", "scopes": ["predict"], "days": 1e300}',
    "a team that is none": b'{"name": "a", "scopes": ["predict"], "team": "../x"}',
    "a long team": b'{"name": "a", "scopes": ["predict"], "team": "' + b"a" * 500_000 + b'"}',
    "NaN": b'{"name": "a", "scopes": ["predict"], "days": NaN}',
    "a path too long": b'{"file": "' + b"a" * 50_000 + b'"}',
    "a device": b'{"file": "/dev/zero"}',
    "a folder": b'{"file": "/"}',
    "nowhere": b'{"file": "/nowhere/app.yaml"}',
}


def filled(path):
    return re.sub(r"\{\w+\}", "x", path)


def every_route():
    return [(route.method, filled(route.path), route.permission) for route in (*ROUTES, *HOT_ROUTES)]


def words(said):
    """Return an error's text; every one is JSON, and none shows our insides."""
    assert "Traceback" not in said.text
    assert 'File "' not in said.text
    body = said.json()
    assert body["error"], said.text
    return body["error"]


@pytest.mark.parametrize(("method", "path", "permission"), every_route())
def test_without_a_key_only_what_is_public_answers(serving, method, path, permission):
    with serving.client(key="") as client:
        said = client.request(method, path)
    if permission == "public":
        assert said.status_code == 200
    else:
        assert said.status_code == 401
        assert words(said)


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v2/status", "/nothing", "/docs", "/openapi.json", "/predict"]
)
def test_a_path_that_is_not_there_is_a_404_in_words(serving, path):
    with serving.client() as client:
        said = client.get(path)
    assert said.status_code in ({404, 405} if path == "/predict" else {404})
    assert words(said)


@pytest.mark.parametrize("path", ["/api/v1/keys/", "/api/v1/status/", "/api/v1/healthz/"])
def test_nobody_is_sent_to_another_host(serving, path):
    with serving.client() as client:
        said = client.get(path, headers={"Host": "evil.example"})
    assert (said.status_code, "location" in said.headers) == (404, False)
    assert words(said)


@pytest.mark.parametrize(("method", "path"), [(route.method, filled(route.path)) for route in ROUTES])
def test_a_method_that_is_not_there_is_a_405(serving, method, path):
    known = {route.method for route in ROUTES if filled(route.path) == path}
    with serving.client() as client:
        for other in {"PUT", "PATCH", "POST", "DELETE"} - known:
            said = client.request(other, path)
            assert (said.status_code, bool(words(said))) == (405, True)


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.method == "POST"])
@pytest.mark.parametrize("name", BODIES)
def test_a_wrong_body_is_a_4xx_in_words_and_the_next_request_is_answered(serving, path, name):
    with serving.client() as client:
        said = client.post(path, content=BODIES[name])
        if (
            path in {"/api/v1/runs", "/api/v1/backups"} and said.status_code == 200
        ):  # the stream had begun: its last line says it
            assert said.json()["event"] == "broke"
            assert "Traceback" not in said.text
        elif said.status_code != 201:
            assert 400 <= said.status_code < 500, said.text
            assert words(said)
        assert client.get("/api/v1/status").status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/plan", "/api/v1/runs", "/api/v1/backups", "/api/v1/keys"])
def test_a_huge_body_is_refused_without_reading_it_all(serving, path):
    with serving.client() as client:
        said = client.post(path, content=b'{"file": "' + b"a" * (100 << 20) + b'"}')
        assert said.status_code in {400, 413}
        assert words(said)
        assert client.get("/api/v1/status").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/answers/ans_nothing/provenance",
        "/api/v1/answers/%00/provenance",
        "/api/v1/answers/..%2f..%2fetc/provenance",
        "/api/v1/answers/" + "A" * 3000 + "/provenance",
        "/api/v1/apps/nothing/report",
        "/api/v1/apps/%ff%fe/report",
        "/api/v1/apps/a%27%20or%201=1/report",
    ],
)
def test_a_name_that_nothing_has_is_a_4xx_in_words(serving, path):
    with serving.client() as client:
        said = client.get(path)
    assert 400 <= said.status_code < 500, said.text
    assert words(said)


def test_an_answer_of_another_hall_is_refused_in_words(serving, kit):
    with serving.client() as client:
        good = client.post("/predict/flowers", json=kit.ROW).json()["id"]
        swapped = good[:-1] + ("A" if good[-1] != "A" else "B")
        assert client.get(f"/api/v1/answers/{good}/provenance").status_code == 200
        said = client.get(f"/api/v1/answers/{swapped}/provenance")
    assert 400 <= said.status_code < 500, said.text
    assert words(said)
