"""Connections to a Postgres server: durability, time-outs, restarts, and errors said in our own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, PoolProxiedConnection, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from datahall.backends.db.advisory import Name
from datahall.backends.db.statements import Cursor
from datahall.core.durable import step
from datahall.core.errors import DatahallError, IntegrityError, StorageFullError, UnavailableError, UserError

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5
_POOL_TIMEOUT_S = 10
_NUM_CONNECTIONS = 24
"""At most so many a process: a server has 100 for everybody unless told otherwise."""
TEST_SERVER = "datahall.test_server"
"""A setting that only servers of tests have: on one, nothing need outlive the machine, so it may do without fsync."""
_DURABLE = {
    "synchronous_commit": "set it on for this database: ALTER DATABASE ... SET synchronous_commit = on",
    "fsync": "set fsync = on in postgresql.conf: without it a power cut can destroy the database",
    "full_page_writes": "set full_page_writes = on in postgresql.conf: without it a power cut can destroy pages",
}
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_SESSION = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",  # a writer that hangs must not hold up the ledger for ever
}


class Server:
    """A pool of connections to the database at `url`. Threads: any."""

    def __init__(self, url: str) -> None:
        """Connect to nothing yet. Raises UserError for a URL that is none, or where the driver is not installed."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise _no_url() from None
        if parsed.get_backend_name() not in {"postgresql", "postgres"}:
            raise _no_url()
        parsed = parsed.set(drivername="postgresql")
        self.where = parsed.set(password=None).render_as_string()
        self._conninfo = _conninfo(parsed.render_as_string(hide_password=False))
        self._password = str(parsed.password or parsed.query.get("password", ""))
        if "password" in parsed.query:
            self.where = parsed.difference_update_query(["password"]).set(password=None).render_as_string()
        self._engine = self._make_engine(
            poolclass=QueuePool, pool_size=_NUM_CONNECTIONS, max_overflow=0, pool_timeout=_POOL_TIMEOUT_S
        )
        self._apart = self._make_engine(poolclass=NullPool)

    def close(self) -> None:
        """Close every connection that nobody uses."""
        self._engine.dispose()

    def transact(self, work: Callable[[Cursor], T], *, at: str = "postgres.act") -> T:
        """Return what `work` returns once its transaction is durable; what it raises takes everything back.

        Raises UnavailableError where the server is gone: if that happened during the commit, nobody knows whether it
        was done, and an idempotency key is what makes asking again safe.
        """
        with self.said_plainly():
            pooled, connection = self._begin()
            try:
                result = _work(connection, work, at=at)
            except BaseException:  # whatever stopped it, none of it may stay
                _take_back(pooled, connection)
                raise
            pooled.close()
            return result

    @contextmanager
    def alone(self, name: Name) -> Iterator[Callable[[Callable[[Cursor], T]], T]]:
        """Hold a lock alone, on a connection outside the pool; yield what runs work there as `transact` does."""
        with self.said_plainly():
            connection = self.connect()
            try:
                connection.execute("SELECT pg_advisory_lock(%s)", (name.key,))
                yield partial(_run, connection, at="postgres.alone")
            finally:
                connection.close()  # and with it the lock goes, and whatever was not committed

    @contextmanager
    def reading(self, *, apart: bool = False) -> Iterator[Connection]:
        """Yield a connection in a read-only transaction that sees one moment; `apart`, from outside the pool."""
        with self.said_plainly():
            try:
                connection = self._begin_reading(self._apart if apart else self._engine)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                connection = self._begin_reading(self._engine)  # the server was restarted, and the pool is empty now
            with closing(connection):
                yield connection

    def writing_engine(self) -> Engine:
        """Return an engine for writing through SQLAlchemy, as migrations do; a connection each time, without time-outs."""

        def patient() -> psycopg.Connection[Any]:
            connection = self.connect()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute("SELECT set_config(%s, '0', false)", (name,))
            return connection

        engine = create_engine("postgresql+psycopg://", creator=patient, poolclass=NullPool, use_native_hstore=False)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection outside the pool. Raises the driver's errors, and UserError as `_settle`."""
        ours = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "datahall", "tcp_user_timeout": 30_000}
        # autocommit: the driver starts no transaction by itself.
        connection: psycopg.Connection[Any] = driver().connect(**{**ours, **self._conninfo}, autocommit=True)
        try:
            self._settle(connection)
        except BaseException:  # a refused server must not keep a connection open
            connection.close()
            raise
        return connection

    @contextmanager
    def said_plainly(self) -> Iterator[None]:
        """Turn the server's errors into ours, with what to do about them and without the password."""
        try:
            yield
        except DBAPIError as error:
            raise self._in_our_words(error.orig) from None
        except driver().Error as error:
            raise self._in_our_words(error) from None
        except PoolTimeoutError:
            raise UnavailableError(
                f"all {_NUM_CONNECTIONS} connections to the database are in use",
                where=self.where,
                hint="try again in a moment",
            ) from None

    def _begin(self) -> tuple[PoolProxiedConnection, psycopg.Connection[Any]]:
        """Return a connection in a writing transaction; those that a restart of the server cut are replaced."""
        for is_last in [*[False] * _NUM_CONNECTIONS, True]:
            pooled = self._engine.raw_connection()
            connection: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]  # the driver's own
            try:
                connection.execute(_BEGIN)
            except driver().OperationalError:
                pooled.invalidate()
                if is_last:
                    raise
            else:
                return pooled, connection
        raise AssertionError

    def _begin_reading(self, engine: Engine) -> Connection:
        connection = engine.connect()
        try:
            connection.begin()
        except DBAPIError:
            connection.close()
            raise
        return connection

    def _make_engine(self, **pool: Any) -> Engine:
        engine = create_engine("postgresql+psycopg://", creator=self.connect, use_native_hstore=False, **pool)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

        return engine

    def _settle(self, connection: psycopg.Connection[Any]) -> None:
        """Set the time-outs, and refuse a server that would lose or mangle what it acknowledges."""
        sets = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
        asks = ", ".join(f"current_setting('{name}')" for name in (*_DURABLE, "server_encoding"))
        row = connection.execute(f"SELECT current_setting('{TEST_SERVER}', true), {asks}, {sets}".encode()).fetchone()
        assert row is not None
        for (name, hint), value in zip(_DURABLE.items(), row[1:], strict=False):
            if value == "off" and (name == "synchronous_commit" or row[0] != "on"):
                raise UserError(
                    f"this server acknowledges what it has not stored ({name} is off)", where=self.where, hint=hint
                )
        encoding = row[1 + len(_DURABLE)]
        if encoding != "UTF8":
            raise UserError(
                f"this database is encoded in {encoding}",
                where=self.where,
                hint="make one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
            )

    def _in_our_words(self, error: BaseException | None) -> DatahallError:
        state = getattr(error, "sqlstate", None) or ""
        text = self._scrubbed(str(error).strip().partition("\n")[0])
        if state in {"53100", "58030"}:  # disk_full, io_error
            return StorageFullError(
                f"the database's disk did not take what was to be written: {text}",
                where=self.where,
                hint="nothing was changed; free some space or mend the disk, then try again",
            )
        if isinstance(error, driver().OperationalError | driver().InterfaceError):
            return UnavailableError(
                f"the database cannot be used: {text}",
                where=self.where,
                hint="check that the server runs and lets this user in, then try again",
            )
        if state.startswith("22"):
            return UserError(f"the database cannot hold this value: {text}", where=self.where)
        if state in {"42501", "25006"}:  # insufficient_privilege, read_only_sql_transaction
            return UnavailableError(
                f"the database does not let this user do that: {text}",
                where=self.where,
                hint="the user must own the hall's tables, and the server must not be a standby",
            )
        return IntegrityError(
            f"the hall's database is damaged or not a hall's: {text}",
            where=self.where,
            hint="restore it from a backup, or choose another database",
        )

    def _scrubbed(self, text: str) -> str:
        for secret in (self._password, quote(self._password, safe="")):
            text = text.replace(secret, "***") if secret else text
        return text


def driver() -> Any:
    """Return the module `psycopg`. Raises UserError, with the line to run, where it is not installed."""
    try:
        import psycopg  # noqa: PLC0415  (only halls on Postgres need it)
    except ModuleNotFoundError as error:
        raise UserError(
            f"a hall on Postgres needs the package '{error.name}'",
            hint="install it with: pip install 'datahall[postgres]'",
        ) from error
    return psycopg


def _conninfo(url: str) -> dict[str, Any]:
    """Return the connection parameters of libpq that `url` gives."""
    try:
        given: dict[str, Any] = driver().conninfo.conninfo_to_dict(url)
    except driver().ProgrammingError:
        raise _no_url() from None  # libpq's own words repeat the URL, and with it the password
    return given


def _no_url() -> UserError:
    return UserError("this is no URL of a Postgres database", hint="write postgresql://USER@HOST/DATABASE")


def _run(connection: psycopg.Connection[Any], work: Callable[[Cursor], T], *, at: str) -> T:
    connection.execute(_BEGIN)
    return _work(connection, work, at=at)


def _work(connection: psycopg.Connection[Any], work: Callable[[Cursor], T], *, at: str) -> T:
    """Do `work` in the transaction that has begun, and commit it."""
    cursor = connection.cursor()
    result = work(cursor)
    step(f"{at}/commit", partial(cursor.execute, "COMMIT"))
    if cursor.statusmessage != "COMMIT":  # what an aborted transaction is told: it was rolled back, without an error
        raise UnavailableError("the database took a transaction back", hint="run it again")
    return result


def _take_back(pooled: PoolProxiedConnection, connection: psycopg.Connection[Any]) -> None:
    try:
        connection.rollback()
    except driver().Error:
        pooled.invalidate()
    else:
        pooled.close()
