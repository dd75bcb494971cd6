"""From a model's arrays to an answer: its id, its body, and its record in the log before its bytes leave."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from datahall.core.errors import DatahallError, UnavailableError
from datahall.core.ports import Clock, Outcome
from datahall.core.records import Answer, KeyGrant, Route
from datahall.serve.admission import Place
from datahall.serve.answers import answer_ids
from datahall.serve.cached import AnswerCache, Kept, keep
from datahall.serve.config import GatewayConfig
from datahall.serve.exchange import Slot
from datahall.serve.lane import Call
from datahall.serve.protocols.binary import BINARY_TYPE, LENGTH_HEADER
from datahall.serve.protocols.prepared import Asked, Prepared, begin
from datahall.serve.protocols.speech import Speech
from datahall.serve.responses import JSON_TYPE, Response, from_error, refusal
from datahall.serve.segments import AnswerLog

ID_HEADER = "Datahall-Answer-Id"
CACHE_HIT = ("Datahall-Cache", "hit")
_ID_HEADER = ID_HEADER.encode()
_SALT_BYTES = 16


class Ticket(msgspec.Struct, gc=False):
    """What the gateway keeps of a request while its lane works on it."""

    slot: Slot
    grant: KeyGrant
    salt: bytes
    input_digest: bytes
    """Taken at once, so that the body need not be held while it waits."""
    started_ns: int
    asked: Asked
    speech: Speech
    place: Place
    """Among the requests in flight."""
    cache_key: bytes | None = None
    """Under which the result may be given again; None where it may not."""

    def leave(self, now_ns: int, *, failed: bool) -> None:
        """Give the place back: there is an answer, or there will be none."""
        self.place.leave(now_ns, sample_ns=None if failed else now_ns - self.started_ns)

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self.slot.connection.closed


class Origin(NamedTuple):
    """Where the answers of one batch come from, and when."""

    route: Route
    revision: int
    replica: str
    at_ns: int
    monotonic_ns: int
    make_id: Callable[[int], bytes]
    """Makes an answer's id of its place in the log."""
    cached_from: str = ""


class Recorder:
    """Gives answers their ids and writes the answer log."""

    def __init__(self, config: GatewayConfig, clock: Clock, cache: AnswerCache) -> None:
        self._config = config
        self._clock = clock
        self._cache = cache
        self._ids_at = answer_ids(config.gateway, config.answer_key)
        self._salts, self._num_salt_bytes = b"", 0
        # Only differences matter to the log, so it is given a clock that nobody can set.
        self._log = AnswerLog(
            Path(config.answers),
            config.gateway,
            config.answer_key,
            now_ns=clock.monotonic_ns(),
            max_spool_bytes=config.limits.max_spool_bytes,
        )

    @property
    def num_torn_bytes(self) -> int:
        """What the last run's end left unreadable of its last segment."""
        return self._log.num_torn_bytes

    def check_room(self) -> None:
        """Raise StorageFullError where an answer could not be recorded: then it need not be worked out."""
        self._log.check_room()

    def draw_salt(self) -> bytes:
        """Return 128 random bits for one answer's digests; the kernel is asked for many at a time."""
        if self._num_salt_bytes == 0:
            self._salts, self._num_salt_bytes = os.urandom(4096), 4096
        self._num_salt_bytes -= _SALT_BYTES
        return self._salts[self._num_salt_bytes : self._num_salt_bytes + _SALT_BYTES]

    def record(
        self, route: Route, revision: int, calls: list[Call], outcome: Outcome, replica: str
    ) -> list[tuple[Slot, Response]]:
        """Return every call's response; the good ones' records are with the kernel by then, in one write."""
        try:
            if isinstance(outcome, DatahallError):
                raise outcome
            prepared = begin(route.manifest, outcome)
        except DatahallError as error:
            return [_failed(cast("Ticket", call.context), error) for call in calls]
        origin = self._origin(route, revision, replica)
        responses: list[tuple[Slot, Response]] = []
        records: list[Answer] = []
        answered: list[tuple[Ticket, Response]] = []
        kept: list[tuple[bytes, Kept]] = []
        first, start = self._log.next_sequence, 0
        for call in calls:
            ticket, stop = cast("Ticket", call.context), start + call.num_rows
            try:
                record, response = self._answer(origin, ticket, first + len(records), prepared, start, stop)
            except DatahallError as error:
                responses.append(_failed(ticket, error))
                continue
            else:
                if ticket.cache_key is not None:
                    kept.append((ticket.cache_key, keep(prepared, start, stop, ticket.asked, record)))
            finally:
                start = stop
            records.append(record)
            answered.append((ticket, response))
        if records:
            try:
                self._log.append(records)
            except UnavailableError as error:
                return responses + [_failed(ticket, error) for ticket, _ in answered]
        for key, one in kept:
            self._cache.keep(key, one, route, origin.monotonic_ns)
        return responses + [(ticket.slot, response) for ticket, response in answered]

    def repeat(self, route: Route, revision: int, ticket: Ticket, kept: Kept) -> Response:
        """Return a kept result as an answer of its own, with its own id and record, which names the first such answer."""
        origin = self._origin(route, revision, kept.replica, kept.answer_id)
        try:
            record, response = self._answer(origin, ticket, self._log.next_sequence, kept.prepared, 0, kept.num_rows)
            self._log.append([record])
        except DatahallError as error:
            return _failed(ticket, error)[1]
        return msgspec.structs.replace(response, headers=(CACHE_HIT,))

    async def tick(self) -> None:
        """Make what was answered durable, without holding up answers, and rotate; called every 100 ms."""
        loop = asyncio.get_running_loop()
        if (work := self._log.sync_work()) is not None:
            await loop.run_in_executor(None, work)
        self._log.end(self._clock.monotonic_ns())
        if (seal := self._log.seal_work()) is not None:
            await loop.run_in_executor(None, seal)

    def close(self) -> None:
        """Seal the log."""
        self._log.close(self._clock.monotonic_ns())

    def _origin(self, route: Route, revision: int, replica: str, cached_from: str = "") -> Origin:
        now_ns = self._clock.now_ns()
        make_id = self._ids_at(revision, now_ns)
        return Origin(route, revision, replica, now_ns, self._clock.monotonic_ns(), make_id, cached_from)

    def _answer(
        self, origin: Origin, ticket: Ticket, sequence: int, prepared: Prepared, start: int, stop: int
    ) -> tuple[Answer, Response]:
        route = origin.route
        raw_id = origin.make_id(sequence)
        answer_id, lines = raw_id.decode(), b"%b: %b\r\n" % (_ID_HEADER, raw_id)
        write_binary = ticket.speech.write_binary if ticket.asked.binary else None
        if write_binary is None:
            body = ticket.speech.write(prepared, start, stop, ticket.asked, answer_id)
        else:
            body, num_json_bytes = write_binary(prepared, start, stop, ticket.asked)
            lines += b"%b: %d\r\n" % (LENGTH_HEADER.encode(), num_json_bytes)
        # By their places, in a tenth of the time that names take.
        record = Answer(
            origin.at_ns,
            sequence,
            self._config.gateway,
            answer_id,
            ticket.grant.principal,
            route.team,
            route.app,
            route.version,
            route.deployment,
            route.bundle,
            origin.replica,
            origin.revision,
            ticket.salt,
            ticket.input_digest,
            salted_digest(ticket.salt, body),
            stop - start,
            (origin.monotonic_ns - ticket.started_ns) // 1000,
            origin.cached_from,
        )
        content_type = JSON_TYPE if write_binary is None else BINARY_TYPE
        return record, Response(200, body, (), False, lines, content_type)


def salted_digest(salt: bytes, body: bytes) -> bytes:
    """Return the SHA-256 of a record's salt followed by a body's exact bytes.

    The salt has always 16 bytes, so the two cannot be cut apart in another way; without it no guess can be tested.
    """
    return hashlib.sha256(salt + body).digest()


def _failed(ticket: Ticket, error: DatahallError) -> tuple[Slot, Response]:
    """Return what a client is told; a failing model is a 500 without its inner life."""
    if error.http_status >= 500 and not isinstance(error, UnavailableError):
        response = refusal(500, error.what, "the replica's log says more: datahall logs")
    else:
        response = from_error(error)
    return ticket.slot, response if ticket.speech.tell is None else ticket.speech.tell(response)
