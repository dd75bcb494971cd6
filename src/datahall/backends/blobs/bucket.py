"""A bucket of any object store that obstore speaks to (S3 and what imitates it, Google Cloud Storage, Azure): create,
read, list, delete; with patience for what passes and clear words for what does not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import obstore
from obstore import exceptions, store

from datahall.core.durable import step
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError, UserError
from datahall.core.ports import Clock

NUM_TRIES: Final = 6
FIRST_WAIT_S: Final = 0.1
"""Each wait is up to twice as long as the one before: about six seconds in all, besides the tries themselves."""

_TIMEOUTS: Final = {"timeout": "60s", "connect_timeout": "5s"}
_FOR_GOOD: Final = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.NotSupportedError,
    exceptions.InvalidPathError,
    exceptions.UnknownConfigurationKeyError,
)
Answer = TypeVar("Answer")


class Stored(NamedTuple):
    """One key of the bucket: its length, the server's mark of its content, and when it was written."""

    key: str
    size_bytes: int
    e_tag: str
    written_ns: int


class Bucket:
    """The objects below one URL, such as `s3://bucket/prefix`; safe to call from several threads.

    `options` are obstore's own (`endpoint`, `region`, `access_key_id` ...); what is left out comes from the
    environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` ...). A connection without TLS has to be asked for.
    """

    def __init__(self, url: str, *, options: Mapping[str, str], allow_http: bool, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        if url.startswith(("memory:", "file:")):
            self._store: Any = store.from_url(url)
            return
        try:
            self._store = store.from_url(
                url,
                config=dict(options),  # type: ignore[call-overload]  # one of three clouds, by the URL
                client_options={**_TIMEOUTS, "allow_http": allow_http},
                retry_config={"max_retries": 0},  # we try again ourselves, on a clock that tests can move
            )
        except exceptions.BaseError as error:
            said = str(error).partition("\n")[0][:300]
            raise UserError(
                f"this object store cannot be used: {said}", where=url, hint="set what it needs in its environment"
            ) from error

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        """Put `data` under a key that is free and return the server's mark of it.

        Where the same bytes are there already (an answer was lost, a kill came between), that is as good. Raises
        ConflictError where others are, and UnavailableError.
        """
        try:
            made = self._tried(
                lambda: obstore.put(self._store, key, data, mode="create", use_multipart=False), missing_is_final=False
            )
        except exceptions.AlreadyExistsError as error:
            there = self.head(key)
            if there.size_bytes != len(data) or self.get(key, limit_bytes=len(data)) != data:
                raise ConflictError("another object lies there and is not replaced", where=key) from error
            return there.e_tag
        return made["e_tag"] or ""

    def replace(self, key: str, data: bytes) -> None:
        """Put `data` under a key, whatever was there."""
        self._tried(lambda: obstore.put(self._store, key, data, use_multipart=False), missing_is_final=False)

    def head(self, key: str) -> Stored:
        """Return what is known of one key. Raises NotFoundError or UnavailableError."""
        return _stored(self._tried(lambda: obstore.head(self._store, key)))

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return all bytes. Raises NotFoundError, UnavailableError, and IntegrityError for more than `limit_bytes`."""

        def whole() -> bytes:
            found = obstore.get(self._store, key)
            if found.meta["size"] > limit_bytes:
                raise IntegrityError("what lies there is not the object: it is too long", where=key)
            return bytes(found.bytes())

        return self._tried(whole)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`. Raises NotFoundError or UnavailableError."""
        if start >= stop:
            return b""
        return self._tried(lambda: bytes(obstore.get_range(self._store, key, start=start, end=stop)))

    def move(self, key: str, target: str, *, at: str) -> None:
        """Give an object another key. Raises NotFoundError or UnavailableError; a copy may be left under both."""
        step(f"{at}/copy", lambda: self._tried(lambda: obstore.copy(self._store, key, target)))
        self.delete([key], at=at)

    def look(self) -> None:
        """Ask for one key, whether there is any or not. Raises UnavailableError where the store does not answer."""
        self._tried(
            lambda: next(iter(obstore.list(self._store, "objects/", chunk_size=1)), None), missing_is_final=False
        )

    def now_ns(self, *, at: str) -> int:
        """Return the store's own time, that of an object which is made for it and removed again."""
        key = f"now/{secrets.token_hex(8)}"
        self.create(key, b"")
        written_ns = self.head(key).written_ns
        self.delete([key], at=at)
        return written_ns

    def delete(self, keys: list[str], *, at: str) -> None:
        """Remove keys; one that is not there is no error. Raises UnavailableError."""
        for key in keys:
            step(f"{at}/remove", lambda key=key: self._delete(key))  # type: ignore[misc]

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every key below a prefix that ends at a `/`. Raises UnavailableError."""
        for found in self._tried(lambda: [item for page in obstore.list(self._store, prefix) for item in page]):
            yield _stored(found)

    def _delete(self, key: str) -> None:
        try:
            self._tried(lambda: obstore.delete(self._store, key))
        except NotFoundError:
            return

    def _tried(self, call: Callable[[], Answer], *, missing_is_final: bool = True) -> Answer:
        """Return what `call` does, tried again while the store's trouble looks as if it passes."""
        wait_s = FIRST_WAIT_S
        for left in reversed(range(NUM_TRIES)):
            try:
                return call()
            except FileNotFoundError as error:
                if missing_is_final:
                    raise NotFoundError("there is no such object", where=self.url) from error
                raise self._unavailable("there is no such bucket", error) from error
            except exceptions.AlreadyExistsError:
                raise
            except _FOR_GOOD as error:
                raise self._unavailable("the object store refuses", error) from error
            except (exceptions.BaseError, OSError) as error:
                if not left:
                    raise self._unavailable("the object store does not answer", error) from error
            self._clock.sleep(wait_s * (0.5 + secrets.randbelow(500) / 1000))  # apart from others that wait as well
            wait_s *= 2
        raise AssertionError("the last try returns or raises")

    def _unavailable(self, what: str, error: Exception) -> UnavailableError:
        said = str(error).partition("\n")[0][:300]
        return UnavailableError(
            f"{what}: {said}", where=self.url, hint="check address, credentials and network, and run it again"
        )


def _stored(found: Any) -> Stored:
    return Stored(
        key=found["path"],
        size_bytes=found["size"],
        e_tag=found["e_tag"] or "",
        written_ns=round(found["last_modified"].timestamp() * 1e9),
    )
