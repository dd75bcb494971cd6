"""From a model's arrays to an answer: its id, its body, and its record in the log before its bytes leave."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from datahall.core.errors import DatahallError, UnavailableError
from datahall.core.ports import Clock
from datahall.core.records import Answer, KeyGrant, Route
from datahall.serve.answers import AnswerIdParts, make_answer_id
from datahall.serve.config import GatewayConfig
from datahall.serve.exchange import Slot
from datahall.serve.lane import Call
from datahall.serve.link import Outcome
from datahall.serve.protocols import plain, v2
from datahall.serve.responses import Response, from_error, refusal
from datahall.serve.segments import AnswerLog

if TYPE_CHECKING:
    import numpy as np

ID_HEADER = "Datahall-Answer-Id"


class Ticket:
    """What the gateway keeps of a request while its lane works on it."""

    __slots__ = ("asked", "grant", "input_digest", "salt", "slot", "started_ns")

    def __init__(self, *, slot: Slot, grant: KeyGrant, body: bytes | bytearray, started_ns: int) -> None:
        self.slot, self.grant, self.started_ns = slot, grant, started_ns
        self.salt = os.urandom(16)
        self.input_digest = keyed_digest(self.salt, body)
        """Taken at once, so that the body need not be held while it waits."""
        self.asked: v2.Asked | None = None
        """Set for the Open Inference Protocol; None for plain JSON."""

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self.slot.gone


class Origin(NamedTuple):
    """Where one answer comes from."""

    route: Route
    revision: int
    replica: str
    sequence: int


class Recorder:
    """Gives answers their ids and writes the answer log."""

    def __init__(self, config: GatewayConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
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

    def record(
        self, route: Route, revision: int, outcomes: list[tuple[Call, Outcome]], replica: str
    ) -> list[tuple[Slot, Response]]:
        """Return every call's response; the good ones' records are with the kernel by then, in one write."""
        responses: list[tuple[Slot, Response]] = []
        records: list[Answer] = []
        answered: list[tuple[Slot, Response]] = []
        for call, outcome in outcomes:
            ticket = cast("Ticket", call.context)
            try:
                if isinstance(outcome, DatahallError):
                    raise outcome
                origin = Origin(route, revision, replica, self._log.next_sequence + len(records))
                record, response = self._answer(origin, call, outcome)
            except DatahallError as error:
                responses.append((ticket.slot, _failed(error)))
                continue
            records.append(record)
            answered.append((ticket.slot, response))
        if records:
            try:
                self._log.append(records)
            except UnavailableError as error:
                answered = [(slot, from_error(error)) for slot, _ in answered]
        return responses + answered

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

    def _answer(self, origin: Origin, call: Call, arrays: Mapping[str, np.ndarray]) -> tuple[Answer, Response]:
        ticket = cast("Ticket", call.context)
        route, now_ns = origin.route, self._clock.now_ns()
        parts = AnswerIdParts(
            gateway=self._config.gateway, sequence=origin.sequence, route_revision=origin.revision, at_ns=now_ns
        )
        answer_id = make_answer_id(parts, self._config.answer_key)
        if ticket.asked is not None:
            body = v2.encode_answer(route.app, route.number, route.manifest, arrays, ticket.asked)
        else:
            body = plain.encode_answer(answer_id, route.version, route.manifest, arrays)
        record = Answer(
            id=answer_id,
            gateway=self._config.gateway,
            sequence=origin.sequence,
            at_ns=now_ns,
            principal=ticket.grant.principal,
            team=route.team,
            app=route.app,
            version=route.version,
            deployment=route.deployment,
            bundle=route.bundle,
            replica=origin.replica,
            route_revision=origin.revision,
            salt=ticket.salt,
            input_digest=ticket.input_digest,
            output_digest=keyed_digest(ticket.salt, body),
            num_rows=call.num_rows,
            latency_us=(self._clock.monotonic_ns() - ticket.started_ns) // 1000,
        )
        return record, Response(200, body, ((ID_HEADER, answer_id),))


def keyed_digest(salt: bytes, body: bytes | bytearray) -> str:
    """Return the HMAC-SHA256 of a body's exact bytes under a record's salt, in hexadecimal."""
    return hmac.digest(salt, body, "sha256").hex()


def _failed(error: DatahallError) -> Response:
    """Return what a client is told; a failing model is a 500 without its inner life."""
    if error.http_status >= 500 and not isinstance(error, UnavailableError):
        return refusal(500, error.what, "the replica's log says more: datahall logs")
    return from_error(error)
