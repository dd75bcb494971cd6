"""What a caller is told when the hall cannot do it now: the status, when to come back, and no path of ours."""

import asyncio

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from datahall.app.http.guard import install_errors
from datahall.core.errors import ConflictError, HallBusyError, SchemaError, StorageFullError, UnavailableError
from datahall.serve.responses import from_error

LATER = [(UnavailableError, 503), (HallBusyError, 503), (SchemaError, 503), (StorageFullError, 507)]


def ask_control(error):
    app = FastAPI()
    install_errors(app)

    @app.get("/")
    def refuse():
        raise error

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hall") as client:
            return await client.get("/")

    return asyncio.run(ask())


@pytest.mark.parametrize(("kind", "status"), LATER)
def test_control_says_what_when_to_try_again_and_no_path(kind, status):
    said = ask_control(kind("no room", where="hall.db", hint="make some"))
    assert (said.status_code, said.headers["retry-after"]) == (status, "1")
    assert said.json() == {"error": "no room", "kind": kind.__name__, "hint": "make some"}


@pytest.mark.parametrize(("kind", "status"), LATER)
def test_so_does_the_gateway(kind, status):
    said = from_error(kind("no room", where="answers", hint="make some"), retry_after_s=7)
    assert (said.status, said.headers) == (status, (("Retry-After", "7"),))
    assert msgspec.json.decode(said.body) == {"error": "no room", "hint": "make some"}


def test_what_a_later_try_will_not_mend_is_not_to_be_tried_later():
    assert "retry-after" not in ask_control(ConflictError("taken")).headers
    assert from_error(ConflictError("taken")).headers == ()
