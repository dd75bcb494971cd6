"""What the command line asks of control: once more where control ended, never where it is only slow."""

from pathlib import Path

import httpx
import pytest

from datahall.app.calls import HEADER
from datahall.app.remote import RemoteControl
from datahall.core.errors import NotFoundError, UnavailableError
from datahall.testing.clock import AutoClock

ROTATED = {"num_rewrapped": 1, "num_masters": 2, "num_retired": 0}


@pytest.fixture
def ask():
    """Return a control that answers with what it is given, error or response, and the requests that it got."""
    clients = []

    def make(*answers):
        left, seen = list(answers), []

        def handle(request):
            seen.append(request)
            said = left.pop(0)
            if isinstance(said, Exception):
                raise said
            return said

        remote = RemoteControl(Path("nowhere"), "key", AutoClock())
        remote.close()
        remote._client = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://control")
        clients.append(remote)
        return remote, seen

    yield make
    for remote in clients:
        remote.close()


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_control_that_ended_is_asked_again_with_the_same_key(ask, kind):
    remote, seen = ask(kind("gone"), httpx.Response(200, json=ROTATED))
    assert remote.rotate_keys(retire=False).num_masters == 2
    assert len(seen) == 2
    assert len({request.headers[HEADER] for request in seen}) == 1


def test_a_control_that_is_slow_is_not_asked_to_do_it_twice(ask):
    remote, seen = ask(httpx.ReadTimeout("slow"), httpx.Response(200, json=[]))
    with pytest.raises(UnavailableError, match="slow"):
        remote.keys()
    assert len(seen) == 1


def test_a_rotation_takes_as_long_as_it_takes(ask):
    remote, seen = ask(httpx.Response(200, json=ROTATED), httpx.Response(200, json=[]))
    remote.rotate_keys(retire=True)
    remote.keys()
    assert [request.extensions["timeout"]["read"] for request in seen] == [None, 30.0]


def test_what_is_named_cannot_change_what_is_asked(ask):
    missing = httpx.Response(404, json={"error": "no such", "kind": "NotFoundError", "hint": ""})
    remote, seen = ask(missing, missing, missing)
    for call in (
        lambda: remote.report("../keys?x=1#y"),
        lambda: remote.provenance("a/b"),
        lambda: remote.revoke_key("a/b"),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert [request.url.raw_path for request in seen] == [
        b"/api/v1/apps/..%2Fkeys%3Fx%3D1%23y/report",
        b"/api/v1/answers/a%2Fb/provenance",
        b"/api/v1/keys/a%2Fb",
    ]
