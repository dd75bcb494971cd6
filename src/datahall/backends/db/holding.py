"""One process at a time holds a hall on Postgres: what `lock.py` is for a hall's folder, for processes of any machine."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datahall.backends.db.advisory import name_of
from datahall.backends.db.server import driver
from datahall.core.errors import HallBusyError
from datahall.core.ports import Clock

if TYPE_CHECKING:
    import psycopg

_PATIENCE_S, _RETRY_S = 2.0, 0.05
# A machine that vanished sends no word: the server asks for it, and lets go of the lock within half a minute.
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_session_timeout": "0",
}
_WHO = (
    "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND objsubid = 1 "
    "AND (classid::bigint << 32) | objid::bigint = %s"
)


class Holding:
    """A session's lock, on a connection of its own: the server lets go of it when the process ends, however it ends.

    Threads: any.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], where: str, clock: Clock) -> None:
        self._connect, self._where, self._clock = connect, where, clock
        self._turn = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_wanted = False

    def acquire(self) -> None:
        """Take the lock. Raises HallBusyError, naming the holder, where another process has it."""
        with self._turn:
            self._take()
            self._is_wanted = True

    def check(self) -> None:
        """Take the lock again if a restart of the server let go of it. Raises HallBusyError where another has it by now."""
        with self._turn:
            if self._is_wanted and (self._connection is None or _is_cut(self._connection)):
                self._drop()
                self._take()

    def release(self) -> None:
        """Let go of the lock; does nothing where it is not held."""
        with self._turn:
            self._is_wanted = False
            self._drop()

    def _take(self) -> None:
        connection = self._connect()
        try:
            self._lock(connection)
        except BaseException:  # a refused start must not keep a connection open
            connection.close()
            raise
        self._connection = connection

    def _lock(self, connection: psycopg.Connection[Any]) -> None:
        for name, value in _SESSION.items():  # a setting that this server does not know is passed over
            connection.execute("SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s", (value, name))
        connection.execute("SELECT set_config('application_name', %s, false)", (_own_name(),))
        # Halls that share a database lie in schemas of their own.
        (schema,) = connection.execute("SELECT current_schema()").fetchone() or ("",)
        key = name_of("hall", str(schema)).key
        deadline_ns = self._clock.monotonic_ns() + int(_PATIENCE_S * 1e9)
        while connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone() != (True,):
            # The server needs a moment to notice that a holder died.
            if self._clock.monotonic_ns() >= deadline_ns:
                row = connection.execute(_WHO, (key,)).fetchone()
                raise HallBusyError(
                    f"{row[0] if row and row[0] else 'another process'} holds the hall in this database",
                    where=self._where,
                    hint="talk to it where it runs, or end it there with: datahall stop",
                )
            self._clock.sleep(_RETRY_S)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _own_name() -> str:
    host = socket.gethostname().encode("ascii", "replace").decode()
    return f"datahall, process {os.getpid()} on {host}"[:63]  # as many bytes as Postgres keeps


def _is_cut(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the server ended the connection: it says nothing unasked but its farewell."""
    try:
        if connection.closed:
            return True
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (driver().Error, OSError, ValueError):
        return True
