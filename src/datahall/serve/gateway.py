"""The gateway: one event loop that takes requests, finds their lane, writes the answer log and answers.

There is no database and no file read on the way of an answer; the one write is the answer log's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import datahall
from datahall.core.durable import write_atomic
from datahall.core.errors import DatahallError
from datahall.core.ports import Clock, Outcome, Transport
from datahall.core.records import KeyGrant
from datahall.policy import shed
from datahall.serve.access import authenticate, authorize, only_app
from datahall.serve.admission import Admission, Refusal
from datahall.serve.cache import Scope
from datahall.serve.cached import AnswerCache
from datahall.serve.config import GatewayConfig
from datahall.serve.confirm import Freshness
from datahall.serve.counters import Counters, CountersFile
from datahall.serve.decisions import DecisionFiles, log_of
from datahall.serve.door import Board, Door
from datahall.serve.exchange import HeldBodies, Plan, Request, Slot
from datahall.serve.follow import Follower
from datahall.serve.http import Connection
from datahall.serve.lane import Call, Lane
from datahall.serve.protocols import mlflow, v2_metadata
from datahall.serve.protocols.prepared import Asked
from datahall.serve.protocols.speech import Speech, tell_mlflow
from datahall.serve.recording import Recorder, Ticket, salted_digest
from datahall.serve.responses import HttpError, Response, from_error, json_response, refusal
from datahall.serve.routes import Match, match
from datahall.serve.table import FileRouteSource, RouteSource

_REACH_POLL_S = 0.01
_LOG = logging.getLogger(__name__)


class Gateway:
    """Answers the hot routes and passes everything else on to control."""

    def __init__(
        self, config: GatewayConfig, *, transport: Transport, clock: Clock, source: RouteSource | None = None
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.control_address = config.control_address
        self.draining = False
        self.port = 0
        self._clock = clock
        self._decisions = _decision_files(config)
        self._shed_log = log_of(self._decisions, "shed")
        self._cache = AnswerCache(config.cache_bytes, log=log_of(self._decisions, "cache"))
        self._counters = CountersFile(Path(config.runtime), config.gateway)
        self._recorder = Recorder(config, clock, self._cache)
        if self._recorder.num_torn_bytes:
            _LOG.warning("the answer log ended in %d bytes that are no record", self._recorder.num_torn_bytes)
        self._follower = Follower(
            source or FileRouteSource(Path(config.routes), config.route_keys, config.routes_key),
            make_lane=lambda route: Lane(
                route,
                transport=transport,
                clock=clock,
                settings=config.batch,
                answered=self._answered,
                decided=self._decisions.decided if self._decisions is not None else None,
                decisions=self._decisions,
                place=config.place if config.board_fd is not None else None,
            ),
            clock=clock,
            switch_seconds=config.limits.switch_seconds,
            adopted=self._adopted,
            freshness=Freshness(Path(config.routes), config.route_keys, clock, config.auth_stale_seconds),
        )
        self._admission = Admission(config.admission, rank=config.place, decisions=self._decisions)
        self._connections: set[Connection] = set()
        self._answer_ns = int(config.limits.answer_seconds * 1e9)
        self._changed = asyncio.Event()
        """Set when a connection ends: while draining, each ends with its last answer."""
        self._bodies = HeldBodies(config.limits.max_held_bytes)
        self._shedding = shed.ShedState()
        self._shed_view = shed.ShedView(config.limits.max_refusals_per_s, config.limits.max_refusals_in_a_row)
        self._door: Door | None = None
        self._told = ""
        self._handing_over = False
        self._timers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen; `port` is known afterwards."""
        loop = asyncio.get_running_loop()
        # Told before the table is read: from then on control waits for this gateway, and what it has published by now
        # is what is read.
        self._acknowledge()
        self._follow()
        sweep = min(1.0, self.limits.stall_seconds / 4, self.limits.head_seconds / 4)
        self._timers = [
            loop.create_task(_every(self.config.poll_seconds, self._follow)),
            loop.create_task(_every(self.config.sync_seconds, self._recorder.tick)),
            loop.create_task(_every(self.config.sync_seconds, self._tick)),
            loop.create_task(_every(self.config.count_seconds, self._count)),
            loop.create_task(_every(sweep, self._sweep)),
        ]
        await self._reach()
        self._open()
        self._acknowledge()

    async def _reach(self) -> None:
        """Reach the replicas before connections are taken: at a shared socket others take them, and answer them."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.limits.reach_seconds
        while self._follower.index is not None and not self._follower.all_ready and loop.time() < end:  # noqa: ASYNC110  (lanes have no event of their own)
            await asyncio.sleep(_REACH_POLL_S)

    def _open(self) -> None:
        config = self.config
        listener = (
            socket.create_server((config.host, config.port), family=_family(config.host), backlog=4096)
            if config.listen_fd is None
            else socket.socket(fileno=config.listen_fd)
        )
        board = None if config.board_fd is None else Board(config.board_fd)
        self._door = Door(listener, lambda: Connection(self), board=board, place=config.place)
        self.port = self._door.port

    async def drain(self) -> None:
        """Finish what was asked, then stop: readiness turns false at once, connections end with their next answer."""
        self.draining = True
        self._acknowledge()
        if self._door is not None:
            self._door.close()
        await self._hand_over()
        self._sweep()
        with contextlib.suppress(TimeoutError):  # whoever is not done by then is cut off
            await asyncio.wait_for(self._quiet(), self.limits.drain_seconds)
        for timer in self._timers:
            timer.cancel()
        self._follower.abort()
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        self._recorder.close()
        if self._decisions is not None:
            self._decisions.close()
        (Path(self.config.runtime) / f"gateway-{self.config.gateway}.json").unlink(missing_ok=True)
        self._counters.remove()

    async def _hand_over(self) -> None:
        """Answer what clients send next with `Connection: close`, so that theirs is the end and no request crosses ours."""
        self._handing_over = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet(), self.limits.handover_seconds)
        self._handing_over = False

    async def _quiet(self) -> None:
        """Return once every client has its answer and its connection has ended."""
        while self._connections:
            self._changed.clear()
            await self._changed.wait()

    # A connection calls these.

    def begin(self, request: Request) -> Plan:
        """Decide on a request by its headers. Raises HttpError to refuse it before its body is read."""
        found = match(request.method, request.path)
        if found is None:
            return Plan(self.limits.max_control_body_bytes, None)
        try:
            return self._begin(request, found)
        except HttpError as error:
            if found.route.protocol == "mlflow":
                raise HttpError(tell_mlflow(error.response)) from error
            raise

    def _begin(self, request: Request, found: Match) -> Plan:
        if found.route.permission == "public":
            return Plan(0, lambda _, slot: slot.respond(self._public(found)))
        grant, lane = self._admit(request, found)
        if found.route.method == "GET":
            return Plan(0, lambda _, slot: slot.respond(_describe(found, lane)))
        encoding = request.header(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise HttpError(refusal(415, f"the body is '{encoding.decode('latin-1')[:20]}'", "send it uncompressed"))
        speech = lane.speeches[found.route.protocol]
        num_json_bytes = request.header(b"inference-header-content-length")
        if num_json_bytes is not None and speech.read_binary is None:
            raise HttpError(refusal(415, "binary tensors are not spoken here", "send JSON, without their header"))
        if found.route.protocol == "mlflow":
            mlflow.check_type(request.header(b"content-type"))
        if (refused := self._refused(lane)) is not None:
            raise HttpError(refused)
        if (no_room := self._admission.shed(grant, lane.route, self._clock.monotonic_ns())) is not None:
            raise HttpError(no_room.response)
        # Two bodies of the same bytes may mean two things where they are cut elsewhere.
        cut = "" if num_json_bytes is None else num_json_bytes.decode("latin-1")
        scope = self._cache.scope_of(request, grant, lane.route, found.route.protocol, cut)
        answer, holds = self._asking(speech, num_json_bytes, grant, lane, scope)
        return Plan(self.limits.max_body_bytes, answer, holds=holds, team=grant.team)

    def hold(self, team: str, num_bytes: int) -> bool:
        """Account for a team's held bodies; False where there would be too much of them."""
        return self._bodies.take(team, num_bytes)

    def now_s(self) -> float:
        """Return the seconds since 1970."""
        return self._clock.now_ns() / 1e9

    def shed(self, num_in_a_row: int, mistaken: bool) -> int:
        """Count a refusal, the connection's `num_in_a_row`-th since its last answer, and say what becomes of it."""
        before, event, now_ns = self._shedding, shed.Refused(num_in_a_row, mistaken), self._clock.monotonic_ns()
        answered = shed.decide(before, self._shed_view, event, now_ns, 0.0)
        if self._shed_log is not None and self._shed_log.due():
            self._shed_log.keep((before, self._shed_view, event, now_ns, 0.0), answered)
        self._shedding = answered[0]
        return answered[1]

    def opened(self, connection: Connection) -> bool:
        """Take a connection in; False where there are too many."""
        self._connections.add(connection)
        if self._door is not None:
            self._door.inside(len(self._connections))
        return len(self._connections) <= self.limits.max_connections

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if self._door is not None:
            self._door.inside(len(self._connections))
        self._changed.set()

    # The way of an answer.

    def _admit(self, request: Request, found: Match) -> tuple[KeyGrant, Lane]:
        index = self._follower.index
        if index is None:
            raise HttpError(
                refusal(503, "the gateway has no route table yet", "try again", headers=(("Retry-After", "1"),))
            )
        if self._follower.is_stale:
            raise HttpError(_stale(self.config.auth_stale_seconds or 0.0))
        grant = authenticate(request, index, self._clock.now_ns())
        route, app = found.route, found.app
        if not app:
            named = request.header(b"datahall-app")
            app = only_app(grant, index, route.permission, route.protocol) if named is None else named.decode("latin-1")
        lane = self._follower.lane(grant.team, app)
        if lane is None or found.version not in ("", lane.route.number, lane.route.version):
            what = f"there is no application '{app[:80]}'"
            what += f" with the version '{found.version[:80]}' live" if found.version else ""
            raise HttpError(refusal(404, what, "datahall ps lists what is live"))
        authorize(grant, route.permission, app)
        if route.protocol not in lane.route.protocols:
            what = f"the application '{app}' does not answer in this protocol"
            raise HttpError(refusal(404, what, f"it answers in: {', '.join(lane.route.protocols)}"))
        return grant, lane

    def _refused(self, lane: Lane) -> Response | None:
        """Return what a request is told that would be worked out in vain; None where there is room."""
        if lane.full:
            headers = (("Retry-After", str(lane.retry_after_s())),)
            return refusal(503, "too many requests are waiting", "try again after Retry-After", headers=headers)
        try:
            self._recorder.check_room()
        except DatahallError as error:
            return from_error(error)
        return None

    def _asking(
        self, speech: Speech, num_json_bytes: bytes | None, grant: KeyGrant, lane: Lane, scope: Scope | None
    ) -> tuple[Callable[[bytes, Slot], None], Callable[[], bool]]:
        """Return what answers a body, and whether a request with the same head would be decided on alike by now."""
        follower, mark = self._follower, self._follower.mark
        expires_at_ns, now_ns = grant.expires_at_ns, self._clock.now_ns
        read = speech.read
        if num_json_bytes is not None and speech.read_binary is not None:
            read = partial(speech.read_binary, num_json_bytes)

        def answer(body: bytes, slot: Slot) -> None:
            refused = self._refused(lane)
            if refused is None:
                self._ask(body, slot, grant, lane, speech, read, scope)
            else:
                slot.respond(refused if speech.tell is None else speech.tell(refused))

        def holds() -> bool:
            same = follower.mark is mark and not self.draining
            return same and (expires_at_ns is None or now_ns() < expires_at_ns)

        return answer, holds

    def _ask(
        self,
        body: bytes,
        slot: Slot,
        grant: KeyGrant,
        lane: Lane,
        speech: Speech,
        read: Callable[[bytes], Asked],
        scope: Scope | None,
    ) -> None:
        started_ns = self._clock.monotonic_ns()
        deadline_ns = started_ns + self._answer_ns
        place = self._admission.enter(grant, lane.route, started_ns, deadline_ns=deadline_ns)
        if isinstance(place, Refusal):
            slot.respond(place.response if speech.tell is None else speech.tell(place.response))
            return
        key = kept = None
        if scope is not None:
            key = scope.key(body)
            kept = self._cache.get(key, seconds=lane.route.cache_seconds, now_ns=started_ns)
        try:
            asked = read(body) if kept is None else kept.asked
            salt = self._recorder.draw_salt()
            ticket = Ticket(slot, grant, salt, salted_digest(salt, body), started_ns, asked, speech, place, key)
            if kept is not None:
                place.leave(started_ns, sample_ns=None)
                slot.respond(self._recorder.repeat(lane.route, lane.revision, ticket, kept))
                return
            lane.offer(Call(asked.rows, asked.rows.num_rows, deadline_ns, ticket))
        except DatahallError as error:
            place.leave(started_ns, sample_ns=None)
            refused = from_error(error, retry_after_s=lane.retry_after_s())
            slot.respond(refused if speech.tell is None else speech.tell(refused))
        except Exception:  # a mistake of ours costs this connection, not a place for ever
            place.leave(started_ns, sample_ns=None)
            raise

    def _answered(self, lane: Lane, calls: list[Call], outcome: Outcome, replica: str) -> None:
        now_ns = self._clock.monotonic_ns()
        failed = isinstance(outcome, DatahallError)
        for call in calls:
            call.context.leave(now_ns, failed=failed)
        for slot, response in self._recorder.record(lane.route, lane.revision, calls, outcome, replica):
            slot.respond(response)

    def _public(self, found: Match) -> Response:
        action = found.route.action
        if action == "server":
            return json_response(v2_metadata.describe_server(datahall.__version__))
        if action == "version":
            return json_response(datahall.__version__)
        if action in ("healthz", "live"):
            return json_response({"live": True})
        ready = self._follower.index is not None and not self.draining and not self._follower.is_stale
        if action == "ready":
            ready = ready and self._follower.all_ready
        body = {
            "ready": ready,
            "gateway": self.config.gateway,
            "revision": self._follower.revision,
            "draining": self.draining,
            "problem": self._follower.problem,
        }
        return json_response(body, status=200 if ready else 503)

    async def _tick(self) -> None:
        """Forget what has expired, and hand decisions to the kernel without holding up answers."""
        now_ns = self._clock.monotonic_ns()
        self._cache.tick(now_ns)
        if self._decisions is not None and (work := self._decisions.flush(now_ns)) is not None:
            await asyncio.get_running_loop().run_in_executor(None, work)

    async def _count(self) -> None:
        """Tell what was counted, without holding up answers."""
        decisions = self._decisions.stats() if self._decisions is not None else None
        work = self._counters.tell(Counters(pid=os.getpid(), cache=self._cache.stats(), decisions=decisions))
        if work is not None:
            await asyncio.get_running_loop().run_in_executor(None, work)

    def _adopted(self) -> None:
        if self._follower.index is not None:
            self._cache.keep_only({route.deployment for route in self._follower.index.table.routes})
        if self.port:
            self._acknowledge()

    def _follow(self) -> None:
        """Look for a newer table, whose quotas count at once as its keys do, and tell what is wrong as soon as it is."""
        self._follower.step()
        if self._follower.newest is not None:
            self._admission.follow(self._follower.newest, self._clock.monotonic_ns())
        if self._follower.problem != self._told:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Tell control which revision is in use, so that it knows when old replicas may go."""
        self._told = self._follower.problem
        state = {
            "gateway": self.config.gateway,
            "pid": os.getpid(),
            "started_at": self.config.started_at,
            "port": self.port,
            "revision": self._follower.revision,
            "draining": self.draining,
            "problem": self._told,
            "at_ns": self._clock.now_ns(),
        }
        path = Path(self.config.runtime) / f"gateway-{self.config.gateway}.json"
        write_atomic(path, json_response(state).body, at="gateway.state")

    def _sweep(self) -> None:
        if self._handing_over:
            return
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._connections):
            connection.check(now)


def _describe(found: Match, lane: Lane) -> Response:
    route = lane.route
    if found.route.action == "model":
        return json_response(v2_metadata.describe_model(route.app, route.number, route.manifest))
    body = {"name": route.app, "version": route.number, "ready": lane.ready}
    return json_response(body, status=200 if lane.ready else 503)


def _stale(seconds: float) -> Response:
    return refusal(
        503,
        f"control has not confirmed any key for {seconds / 3600:g} h, so none is taken",
        "start control again, its log says what is wrong: datahall logs control",
        headers=(("Retry-After", "60"),),
    )


def _decision_files(config: GatewayConfig) -> DecisionFiles | None:
    if config.decisions is None:
        return None
    return DecisionFiles(Path(config.decisions), config.gateway, max_bytes=config.decision_bytes)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _every(seconds: float, act: Callable[[], Awaitable[None] | None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            done = act()
            if done is not None:
                await done
        except Exception:  # noqa: BLE001  a timer that ended in silence would leave revoked keys and unsynced answers behind
            _LOG.exception("a timer of the gateway failed and goes on")


def serve(config: GatewayConfig, *, transport: Transport, clock: Clock, listening: Callable[[int], None]) -> int:
    """Run a gateway until SIGTERM or SIGINT, drain it, and return the exit status.

    `listening` is called with the port once requests are taken. Must be called from the main thread.
    """
    import uvloop  # noqa: PLC0415  only the gateway's process needs it

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        gateway = Gateway(config, transport=transport, clock=clock)
        await gateway.start()
        gc.freeze()  # what the libraries made stays; looking it through again would only hold up answers
        listening(gateway.port)
        await stop.wait()
        await gateway.drain()

    uvloop.run(main())
    return 0
