"""Encrypted objects in a bucket: `objects/<team>/<first two digits>/<object>`, and large ones in parts.

obstore offers no multipart upload that could be taken up again, so a large object lies as `parts/<team>/<object>/NNNNN`
of one size, and `objects/.../<object>.parts`, written last, makes it an object. Every key is created, never replaced.
Parts without such a mark are an upload that is under way or was abandoned: `collect` removes them after a while.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from datahall.backends.blobs.bucket import Bucket, Stored
from datahall.core.canonical import canonical_json
from datahall.core.clock import SystemClock
from datahall.core.durable import step
from datahall.core.errors import DatahallError, IntegrityError, NotFoundError, UnavailableError
from datahall.core.ports import Clock
from datahall.core.records import Grant
from datahall.security.lanes import in_order
from datahall.security.opening import SMALL_BYTES, Fetch, Opening, open_bytes
from datahall.security.sealing import (
    MAX_OBJECT_BYTES,
    Sealing,
    check_grant,
    check_object,
    check_team,
    is_object_name,
    max_sealed_bytes,
)

PART_BYTES: Final = 8 << 20
RUN_BYTES: Final = 4 << 20
"""How much of an object one request asks for at most; a few are under way at once."""

_MARK = ".parts"
_KEY = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}(\.parts)?")
_MAX_MARK_BYTES = 4096


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the mark of a large object says: all parts have `part_bytes` but for the last one."""

    part_bytes: int
    stored_bytes: int


class ObjectBlobStore:
    """Keeps sealed objects below a URL that obstore knows; any number of processes and machines may share it.

    The server sees random names, lengths and sealed bytes. Raises UnavailableError where the store does not answer or
    refuses; what passes is tried again with growing waits.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str] | None = None,
        allow_http: bool = False,
        clock: Clock | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._clock = clock or SystemClock()
        self.bucket = Bucket(url, options=options or {}, allow_http=allow_http, clock=self._clock)
        self.part_bytes = part_bytes

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` and return the right to read it."""
        return self.write((data,), team=team)

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """Store bytes of any length as they pass through, several parts at once; a few parts are in memory."""
        sealing = Sealing(chunks, team=team)
        pieces = _cut(sealing, self.part_bytes)
        first, second = next(pieces), next(pieces, None)
        if second is None:
            step("objects.put/create", lambda: self.bucket.create(object_key(sealing.object, team), first))
            return sealing.grant
        try:
            self._write_parts(sealing.object, team, chain((first, second), pieces))
        except BaseException:  # what was uploaded is nobody's: it must not lie there even after a Ctrl-C
            self._forget_parts(sealing.object, team)
            raise
        return sealing.grant

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes. Raises NotFoundError or IntegrityError."""
        return self._open(grant, team).whole()

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop`; only the frames in that range are fetched. Raises as `get`."""
        return self._open(grant, team).read(start, stop)

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object, its mark first; one that is not there is no error."""
        key = object_key(object_name, team)
        self.bucket.delete([key + _MARK, key], at="objects.delete")
        parts = [part.key for part in self.bucket.list(parts_prefix(object_name, team))]
        self.bucket.delete(parts, at="objects.delete_parts")

    def quarantine(self, object_name: str, *, team: str) -> None:
        """Move an object and its parts below `quarantine/`; it is never deleted from there."""
        key = object_key(object_name, team)
        for found in [
            *self.bucket.list(f"objects/{team}/{object_name[:2]}/"),
            *self.bucket.list(parts_prefix(object_name, team)),
        ]:
            if found.key in {key, key + _MARK} or found.key.startswith("parts/"):
                self.bucket.move(found.key, f"quarantine/{found.key}", at="objects.quarantine")

    def clear(self, *, team: str, older_than_s: float) -> list[str]:
        """Remove parts of uploads that nobody finished; as `collect`."""
        return self.collect(team=team, older_than_s=older_than_s)

    def strange(self, *, team: str) -> list[str]:
        """Return the keys that lie among a team's objects and are none."""
        prefix = f"objects/{check_team(team)}/"
        keys = [found.key.removeprefix(prefix) for found in self.bucket.list(prefix)]
        return sorted(key for key in keys if not _KEY.fullmatch(key))

    def collect(self, *, team: str, older_than_s: float = 86_400.0) -> list[str]:
        """Remove parts of uploads that nobody finished, last added to longer ago than that; return their objects' names.

        The time is the store's own: this machine's clock may be ahead of it.
        """
        uploads: dict[str, list[Stored]] = {}
        for part in self.bucket.list(f"parts/{check_team(team)}/"):
            uploads.setdefault(part.key.split("/")[2], []).append(part)
        if not uploads:
            return []
        limit_ns = self.bucket.now_ns(at="objects.now") - round(older_than_s * 1e9)
        stale = {name for name, parts in uploads.items() if max(part.written_ns for part in parts) < limit_ns}
        stale -= set(self.list(team=team))
        for name in stale:
            self.bucket.delete([part.key for part in uploads[name]], at="objects.collect")
        return sorted(stale)

    def locate(self, object_name: str, *, team: str) -> Located:
        """Return an object's stored length and the way to its bytes. Raises NotFoundError or IntegrityError."""
        key = object_key(object_name, team)
        try:
            size_bytes = self.bucket.head(key).size_bytes
        except NotFoundError:
            return self._locate_parts(object_name, team)
        return Located(size_bytes, lambda start, stop: self.bucket.get_range(key, start, stop))

    def stream_stored(self, object_name: str, *, team: str) -> Iterator[bytes]:
        """Yield an object as it is stored, in pieces, a few of them in memory. Raises as `locate`."""
        located = self.locate(object_name, team=team)
        starts = range(0, located.stored_bytes, RUN_BYTES)
        ends = (min(start + RUN_BYTES, located.stored_bytes) for start in starts)
        return in_order(lambda each: bytes(located.fetch(*each)), zip(starts, ends, strict=True))

    def commit(self, object_name: str, stored_bytes: int, *, team: str) -> None:
        """Make an object of the parts that were uploaded. Raises UnavailableError where one was removed meanwhile."""
        there = [part.size_bytes for part in self.bucket.list(parts_prefix(object_name, team))]
        if (len(there), sum(there)) != (-(-stored_bytes // self.part_bytes), stored_bytes):
            raise UnavailableError(
                "parts of the object were removed while it was uploaded", where=object_name, hint="store it again"
            )
        mark = canonical_json(Parts(part_bytes=self.part_bytes, stored_bytes=stored_bytes))
        step("objects.commit/create", lambda: self.bucket.create(object_key(object_name, team) + _MARK, mark))

    def _open(self, grant: Grant, team: str) -> Opening:
        check_grant(grant)
        limit_bytes = max_sealed_bytes(grant.size_bytes)
        if limit_bytes <= min(SMALL_BYTES, self.part_bytes):  # one request instead of two
            stored = self.bucket.get(object_key(grant.object, team), limit_bytes=limit_bytes)
            return open_bytes(stored, grant, team=team)
        located = self.locate(grant.object, team=team)
        return Opening(
            grant, located.fetch, team=team, stored_bytes=located.stored_bytes, run_bytes=RUN_BYTES, several=True
        )

    def _locate_parts(self, object_name: str, team: str) -> Located:
        raw = self.bucket.get(object_key(object_name, team) + _MARK, limit_bytes=_MAX_MARK_BYTES)
        try:
            parts = msgspec.json.decode(raw, type=Parts)
        except msgspec.DecodeError as error:
            raise IntegrityError("the mark of a large object cannot be read", where=object_name) from error
        if not 0 < parts.part_bytes <= 1 << 30 or not 0 < parts.stored_bytes <= max_sealed_bytes(MAX_OBJECT_BYTES):
            raise IntegrityError("the mark of a large object makes no sense", where=object_name)

        def fetch(start: int, stop: int) -> bytes:
            pieces = []
            while start < stop:
                number, inside = divmod(start, parts.part_bytes)
                end = min(stop - start + inside, parts.part_bytes)
                key = part_key(object_name, team, number)
                pieces.append(self.bucket.get_range(key, inside, end))
                start += end - inside
            return b"".join(pieces)

        return Located(parts.stored_bytes, fetch)

    def _write_parts(self, object_name: str, team: str, pieces: Iterable[bytes]) -> None:
        def upload(numbered: tuple[int, bytes]) -> int:
            number, piece = numbered
            self.bucket.create(part_key(object_name, team, number), piece)
            return len(piece)

        self.commit(object_name, sum(in_order(upload, enumerate(pieces))), team=team)

    def _forget_parts(self, object_name: str, team: str) -> None:
        try:
            parts = [part.key for part in self.bucket.list(parts_prefix(object_name, team))]
            self.bucket.delete(parts, at="objects.forget")
        except DatahallError:  # the store is out of reach, which may be why we are here; `collect` finds them
            return

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
        names = {found.key.rpartition("/")[2] for found in self.bucket.list(f"objects/{check_team(team)}/")}
        return sorted(filter(is_object_name, {name.removesuffix(_MARK) for name in names}))


class Located(NamedTuple):
    """Where an object's stored bytes come from."""

    stored_bytes: int
    fetch: Fetch


def object_key(object_name: str, team: str) -> str:
    """Return the key of an object. Raises UserError for an impossible name."""
    return f"objects/{check_team(team)}/{check_object(object_name)[:2]}/{object_name}"


def parts_prefix(object_name: str, team: str) -> str:
    """Return what the keys of an object's parts begin with. Raises UserError for an impossible name."""
    return f"parts/{check_team(team)}/{check_object(object_name)}/"


def part_key(object_name: str, team: str, number: int) -> str:
    """Return the key of one part."""
    return f"{parts_prefix(object_name, team)}{number:06}"


def _cut(pieces: Iterable[bytes | bytearray], size_bytes: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of one size, only the last one shorter; at least one."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) > size_bytes:
            yield bytes(held[:size_bytes])
            del held[:size_bytes]
    yield bytes(held)


if TYPE_CHECKING:
    from datahall.core.ports import BlobStore

    _: BlobStore = ObjectBlobStore("memory:///")
