"""The limit of servers under uvicorn: an application without a framework that reads the body and answers all alike."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

BODY = b'{"predictions":["0"]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


uvicorn.run(
    app, port=int(sys.argv[3]), loop="uvloop", http="httptools", access_log=False, log_level="warning",
    backlog=4096, lifespan="off",
)  # fmt: skip
