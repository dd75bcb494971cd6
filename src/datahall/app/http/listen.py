"""Serves the control API on the hall's Unix socket: for as long as control lives, or beside one command."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

STOP_SECONDS = 5


def serve_until_told(api: FastAPI, address: Path) -> None:
    """Serve in this thread, the main one, until SIGTERM or SIGINT."""
    # uvicorn raises the signal that ended it once more when it is through; replicas are still to be stopped then.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    with _bound(address) as listener:
        _server(api).run(sockets=[listener])


@contextmanager
def serving_beside(api: FastAPI, address: Path) -> Iterator[None]:
    """Serve in a thread while the block runs, so that other commands can ask what goes on."""
    server = _server(api)
    with _bound(address) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join()


def _server(api: FastAPI) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            api,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="off",
            # control answers people, not traffic: the standard loop and parser cost nothing to import
            loop="asyncio",
            http="httptools",
            ws="none",
        )
    )


@contextmanager
def _bound(address: Path) -> Iterator[socket.socket]:
    address.unlink(missing_ok=True)  # of a holder that was killed; whoever is here holds the hall's lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    address.chmod(0o600)
    try:
        yield listener
    finally:
        listener.close()
        address.unlink(missing_ok=True)
