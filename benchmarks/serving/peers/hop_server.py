"""The limit of the machine with a process more: the bare echo, which asks another process over a Unix socket each time."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections import deque

import uvloop

BODY = b'{"predictions":["0"]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
ROW = bytes(64 * 8)
"""What a row of the net takes as float64."""
REPLY = bytes(10 * 8)


class Link(asyncio.Protocol):
    """The front's side of the hop."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Transport] = deque()
        self.num_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport

    def ask(self, client: asyncio.Transport) -> None:
        """Send a row for a client."""
        self.waiting.append(client)
        self.transport.write(ROW)

    def data_received(self, data: bytes) -> None:
        """Answer the clients whose replies are whole."""
        whole, self.num_bytes = divmod(self.num_bytes + len(data), len(REPLY))
        for _ in range(whole):
            client = self.waiting.popleft()
            if not client.is_closing():
                client.write(ANSWER)


class Behind(asyncio.Protocol):
    """The process behind: a reply for each row."""

    num_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Reply."""
        whole, self.num_bytes = divmod(self.num_bytes + len(data), len(ROW))
        self.transport.write(REPLY * whole)


class Front(asyncio.Protocol):
    """One connection."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self.held = transport, b""

    def data_received(self, data: bytes) -> None:
        """Ask for each request that is whole."""
        held = self.held + data if self.held else data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(held, 0, end + 2)
            last = end + 4 + (int(length[1]) if length else 0)
            if len(held) < last:
                break
            held = held[last:]
            self.link.ask(self.transport)
        self.held = held


async def behind(end: socket.socket) -> None:
    """Reply until the front is gone."""
    await asyncio.get_running_loop().create_unix_connection(Behind, sock=end)
    await asyncio.Event().wait()


async def front(end: socket.socket) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    link = Link()
    await loop.create_unix_connection(lambda: link, sock=end)
    server = await loop.create_server(lambda: Front(link), "127.0.0.1", int(sys.argv[3]), backlog=4096)
    await server.serve_forever()


ends = socket.socketpair()
for each in ends:
    each.setblocking(False)
if os.fork():
    ends[1].close()
    uvloop.run(front(ends[0]))
else:
    ends[0].close()
    uvloop.run(behind(ends[1]))
