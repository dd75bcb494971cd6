"""The limit of the machine: a protocol of our own on uvloop that reads whole requests and answers all alike."""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

BODY = b'{"predictions":["0"]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self.held = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        held = self.held + data if self.held else data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(held, 0, end + 2)
            last = end + 4 + (int(length[1]) if length else 0)
            if len(held) < last:
                break
            held = held[last:]
            self.transport.write(ANSWER)
        self.held = held


async def main() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", int(sys.argv[3]), backlog=4096)
    await server.serve_forever()


uvloop.run(main())
