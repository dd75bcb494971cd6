"""Where a gateway takes connections, and several from one listening socket: each about as many as the others.

Why one socket and not SO_REUSEPORT: the queue of a socket of its own dies with its gateway, and a gateway that is
stopped or hangs keeps being given its share of the connections. What waits at a shared socket is taken by whoever
lives. The price of sharing is balance: the kernel wakes all, and the same one may always be the first. So each writes
on a board how many connections it has, and whoever has more than another waits a moment before it takes one.

Taken are many at a time: an event loop takes one a round (libuv), and where a round answers a thousand requests those who
knock meanwhile would wait for seconds.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from typing import Final

ABSENT: Final = -1
"""On the board: nobody is there."""
WAIT_S: Final = 0.002
"""What others get to take a connection first. Whoever hangs delays the others by no more than that."""
REST_S: Final = 0.1
"""After the system had no descriptor or memory for one more connection."""
_NUM_BYTES: Final = 8
_NUM_AT_ONCE: Final = 64
_NUM_INSISTED: Final = 16
"""Of what nobody else has taken meanwhile: the others may only be busy, and then want their part."""


class Board:
    """How many connections each gateway of a hall has, in memory that they share."""

    def __init__(self, descriptor: int) -> None:
        """Map what `make_board` made; the descriptor stays the caller's."""
        self._map = mmap.mmap(descriptor, 0)
        self._counts = memoryview(self._map).cast("q")

    def __getitem__(self, place: int) -> int:
        """Return how many connections the gateway at `place` has, ABSENT where there is none."""
        return self._counts[place]

    def __setitem__(self, place: int, count: int) -> None:
        self._counts[place] = count

    def somebody_has_fewer(self, place: int) -> bool:
        """Whether a gateway that is there has fewer connections than the one at `place`."""
        mine = self._counts[place]
        return any(ABSENT < count < mine for count in self._counts)

    def close(self) -> None:
        """Unmap it."""
        self._counts.release()
        self._map.close()


def make_board(num_gateways: int) -> int:
    """Return the descriptor of a board on which nobody is there yet."""
    descriptor = os.memfd_create("datahall-gateways", os.MFD_CLOEXEC)
    os.write(descriptor, ABSENT.to_bytes(_NUM_BYTES, "little", signed=True) * num_gateways)
    return descriptor


class Door:
    """Takes connections from a listening socket, which a gateway with a place on the board shares."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        board: Board | None = None,
        place: int = 0,
    ) -> None:
        """`listener` is closed with the door, which ends it for nobody else. Without a board all that comes is taken."""
        listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._listener, self._board, self._place, self._make = listener, board, place, make
        self._coming: set[asyncio.Task[object]] = set()
        self._num_inside = 0
        self._is_open = True
        self._wait: asyncio.TimerHandle | None = None
        self._count(0)
        self._loop.add_reader(listener, self._knock)

    @property
    def port(self) -> int:
        """The port on which connections come."""
        port: int = self._listener.getsockname()[1]
        return port

    def inside(self, num_connections: int) -> None:
        """Tell how many connections the gateway has; called whenever one begins or ends."""
        self._count(num_connections)

    def close(self) -> None:
        """Take no more; what waits is left to the other gateways."""
        self._is_open = False
        if self._wait is not None:
            self._wait.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._board is not None:
            self._board[self._place] = ABSENT
            self._board.close()

    def _knock(self) -> None:
        for _ in range(_NUM_AT_ONCE):
            if self._board is not None and self._board.somebody_has_fewer(self._place):
                self._pause(WAIT_S)
                return
            if not self._take():
                return

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._wait = self._loop.call_later(seconds, self._insist)

    def _insist(self) -> None:
        """Take what nobody else has taken meanwhile."""
        self._wait = None
        self._loop.add_reader(self._listener, self._knock)
        for _ in range(_NUM_INSISTED):
            if not self._take():
                return

    def _take(self) -> bool:
        """Take one connection; False where there is none, or none can be taken now."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another was faster, or whoever came has left
            return False
        except OSError:
            self._pause(REST_S)
            return False
        connection.setblocking(False)
        task: asyncio.Task[object] = self._loop.create_task(self._enter(connection))
        self._coming.add(task)
        task.add_done_callback(self._entered)
        self._count(self._num_inside)
        return True

    async def _enter(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError:  # whoever came has left
            connection.close()

    def _entered(self, task: asyncio.Task[object]) -> None:
        self._coming.discard(task)
        self._count(self._num_inside)

    def _count(self, num_inside: int) -> None:
        self._num_inside = num_inside
        if self._is_open and self._board is not None:
            self._board[self._place] = num_inside + len(self._coming)
