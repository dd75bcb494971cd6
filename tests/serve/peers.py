"""Servers that are not ours, each telling which requests it saw: nginx before a recorder, uvicorn with two parsers."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvicorn

QUIET_SECONDS = 0.3
BOUND_SECONDS = 10.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_AUTHORITY = re.compile(rb"^[A-Za-z]+://[^/?#]*")


class Seen(NamedTuple):
    """One request as whatever stands behind a server got it."""

    method: str
    target: bytes
    body: bytes


class Heard(msgspec.Struct):
    """What a client heard, and what was seen meanwhile."""

    statuses: tuple[int, ...]
    seen: tuple[Seen, ...] = ()

    @property
    def num_accepted(self):
        return sum(200 <= status < 300 for status in self.statuses)


def talk(address, data, *, quiet_seconds=QUIET_SECONDS):
    """Return the statuses that a server answers to these bytes, until it ends the connection.

    A server that waits for more is told, after a while of silence, that there is no more.
    """
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    received, ended = b"", False
    with socket.socket(family) as client:
        client.settimeout(BOUND_SECONDS)
        client.connect(address)
        try:
            client.sendall(data)
            client.settimeout(quiet_seconds)
            while True:
                try:
                    more = client.recv(1 << 16)
                except TimeoutError:
                    if ended:
                        raise
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(BOUND_SECONDS)
                    ended = True
                    continue
                if not more:
                    break
                received += more
        except (ConnectionError, BrokenPipeError):
            pass  # hung up on, which is an answer
    statuses = (int(found) for found in _STATUS.findall(received))
    return tuple(status for status in statuses if status != 100)


def plain_target(target):
    """Return a target without scheme and host: the path is what counts behind a server."""
    path = _AUTHORITY.sub(b"", target)
    return path if path.startswith(b"/") or path == target else b"/" + path


class Recorder:
    """What stands behind a server: notes each whole request, and answers 200."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        """Serve as an ASGI application."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        self.seen.append(Seen(scope["method"], plain_target(target), body))
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    async def serve(self, reader, writer):
        """Serve nginx, which sends well-formed HTTP/1.0 and always a length."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head.lower())
            body = await reader.readexactly(int(length[1])) if length else b""
            method, target = head.split(b" ")[:2]
            self.seen.append(Seen(method.decode(), plain_target(target), body))
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Server:
    """A server under comparison: where it listens, and what was seen behind it."""

    def __init__(self, name, address, recorder):
        self.name, self.address, self.recorder = name, address, recorder

    def hear(self, data, *, quiet_seconds=QUIET_SECONDS):
        self.recorder.seen.clear()
        statuses = talk(self.address, data, quiet_seconds=quiet_seconds)
        return Heard(statuses, tuple(self.recorder.seen))


class Uvicorn(Server):
    """A real uvicorn on a Unix socket, in a thread."""

    def __init__(self, loops, path, *, http):
        super().__init__(f"uvicorn {http}", str(path), Recorder())
        self._thread = loops()
        config = uvicorn.Config(
            self.recorder, uds=str(path), http=http, ws="none", lifespan="off", log_config=None, access_log=False
        )
        self._server = uvicorn.Server(config)

        async def start():
            self._task = asyncio.ensure_future(self._server.serve())
            while not self._server.started:  # noqa: ASYNC110  uvicorn has no event for this
                await asyncio.sleep(0.005)

        self._thread.run(start())

    def close(self):
        async def stop():
            self._server.should_exit = self._server.force_exit = True
            await self._task

        self._thread.run(stop())
        self._thread.close()


NGINX_CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log crit; events {{ }}
http {{
    access_log off; large_client_header_buffers 4 32k; client_max_body_size 8m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{ listen unix:{folder}/nginx.sock; location / {{ proxy_pass http://unix:{folder}/behind.sock; }} }}
}}
"""


class Nginx(Server):
    """A real nginx on a Unix socket, before a recorder."""

    def __init__(self, loops, folder, program):
        super().__init__("nginx", str(folder / "nginx.sock"), Recorder())
        self._thread = loops()

        async def start():
            self._behind = await asyncio.start_unix_server(self.recorder.serve, str(folder / "behind.sock"))

        self._thread.run(start())
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(folder=folder))
        self._process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        end = time.monotonic() + BOUND_SECONDS
        while not self._listens():
            assert self._process.poll() is None, "nginx did not start"
            assert time.monotonic() < end

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return Path(self.address).exists() and probe.connect_ex(self.address) == 0

    def close(self):
        self._process.terminate()
        self._process.wait(BOUND_SECONDS)

        async def stop():
            self._behind.close()
            await asyncio.sleep(0)

        self._thread.run(stop())
        self._thread.close()
