"""One client's connection: HTTP/1.1 with keep-alive and pipelining, bounded in bytes and time, over httptools.

Requests are answered in the order in which they came, whoever is ready first. Anything that two parsers could read
differently (both lengths, folded lines, odd encodings) ends the connection, so that nothing can be smuggled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

from datahall.policy import shed
from datahall.serve.config import GatewayLimits
from datahall.serve.exchange import Again, Plan, Request, Slot, body_too_large, head_too_large
from datahall.serve.heads import SINGLE, end_of_line, parts_of, read_head
from datahall.serve.responses import HttpError, Response, refusal, render
from datahall.serve.splice import Splice

SLICE_BYTES = 16 << 10
SMALL_BODY_BYTES = 64 << 10
"""What is read of a refused request's body to keep its connection."""

MAX_AGAIN_BYTES = 2 << 10
"""Of a head that a connection keeps for the next request: longer ones are parsed each time."""

_MISTAKES = frozenset((401, 403, 404))
_REFUSALS = _MISTAKES | {429, 503}


class Application(Protocol):
    """What a connection needs of the gateway."""

    limits: GatewayLimits
    control_address: str
    draining: bool

    def begin(self, request: Request) -> Plan:
        """Decide on a request by its headers. Raises HttpError to refuse it before its body is read."""

    def hold(self, team: str, num_bytes: int) -> bool:
        """Account for a team's held bodies; False where there would be too much of them."""

    def now_s(self) -> float:
        """Return the seconds since 1970."""

    def shed(self, num_in_a_row: int, mistaken: bool) -> int:
        """Count a refusal, the connection's `num_in_a_row`-th since its last answer, and say what becomes of it."""

    def opened(self, connection: Connection) -> bool:
        """Take a connection in; False where there are too many."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""


class Connection(asyncio.Protocol):
    """The protocol of one connection."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._limits = app.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._in_head = False
        self._num_head_bytes = 0
        self._num_fed = 0
        self._slots: deque[Slot] = deque()
        self._splice: Splice | None = None
        self._again: Again | None = None
        self._deaf = False
        """Whether what else arrives is thrown away."""
        self._closing_at: float | None = None
        self._peer_done = False
        self._since = self._heard_at = self._loop.time()
        self._paused = False
        self._num_refused = 0
        """In a row."""
        self._rest: asyncio.TimerHandle | None = None
        self._stuffed = False
        self._stuffed_since = 0.0
        self._first = b""
        """What arrived last, if a request began with its first byte."""
        self._line = b""  # the end so far of a request's first line of which more is to come
        self.closed = False

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer, or is sending a request."""
        return bool(self._slots) or self._request is not None

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or refuse it where there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._app.opened(self):
            self._refuse(refusal(503, "too many connections", "try again", headers=(("Retry-After", "1"),)))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        """Free everything that this client held."""
        self.closed = True
        self._transport = None
        if self._rest is not None:
            self._rest.cancel()
        self._release(self._request)
        if self._splice is not None:
            self._splice.abort()
        self._slots.clear()
        self._app.closed(self)

    def eof_received(self) -> bool:
        """Keep the way open for answers that are still to come."""
        self._peer_done = True
        self._deaf = True
        return bool(self._slots) and self._request is None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._stuffed = True
        self._stuffed_since = self._loop.time()
        self.balance()
        if self._splice is not None:
            self._splice.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._stuffed = False
        self.balance()
        if self._splice is not None:
            self._splice.resume()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        if self._deaf:
            return
        self._heard_at = self._loop.time()
        if self._request is None:
            self._since = self._heard_at
            again = self._again
            if (
                again is not None
                and len(data) == again.num_bytes
                and len(self._slots) < self._limits.max_pipelined
                and data.startswith(again.head)
                and again.holds()
            ):
                slot = Slot(self)
                self._slots.append(slot)
                again.answer(data[again.num_head_bytes :], slot)
                return
            self._again = None
            self._first = data
        else:
            self._first = b""
        for start in range(0, len(data), SLICE_BYTES):
            piece = data[start : start + SLICE_BYTES]
            self._feed(piece)
            self._first = b""  # an idle connection holds nothing
            if self._deaf:
                return
            if self._in_head:
                # The parser tells of a header only when it is whole; one slice may also hold what came before it.
                self._num_fed += len(piece)
                if self._num_fed > self._limits.max_head_bytes + SLICE_BYTES:
                    self._refuse(head_too_large(self._limits))
                    return
        self.balance()

    def _feed(self, data: bytes) -> None:
        try:
            before = self._request
            body_left = 0 if before is None else (before.content_length or 0) - before.num_body_bytes
            for part in (data,) if len(data) <= body_left else parts_of(data, self._line):
                before = self._request
                self._parser.feed_data(part)
                if self._in_head and (self._line or self._request is not before):
                    self._line = end_of_line(self._line + part)
        except HttpError as error:
            self._refuse(error.response)
        except httptools.HttpParserUpgrade:
            self._refuse(refusal(400, "upgrades and tunnels are not offered", "use plain HTTP/1.1"))
        except httptools.HttpParserError as error:
            if self._deaf:
                return
            cause = error.__context__
            if isinstance(cause, HttpError):
                self._refuse(cause.response)
            elif isinstance(error, httptools.HttpParserCallbackError):
                raise  # a mistake of ours, which the loop reports
            else:
                self._refuse(refusal(400, f"this is not HTTP/1.1: {error}"))

    # The parser calls these.

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._deaf:
            return
        self._request = Request()
        self._in_head = True
        self._num_head_bytes = self._num_fed = 0
        self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        request = self._request
        if request is None:
            return
        request.target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer, which nobody needs."""
        request = self._request
        if request is None:
            return
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head:
            return
        name = name.lower()
        headers = request.headers
        if len(headers) >= self._limits.max_num_headers:
            raise HttpError(head_too_large(self._limits))
        first = request.first
        if name not in first:
            first[name] = value
        elif name in SINGLE:
            raise HttpError(refusal(400, f"the header '{name.decode('latin-1')}' comes twice", close=True))
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide what becomes of the request before any of its body is kept."""
        request = self._request
        if request is None:
            return
        self._in_head = False
        request.method = self._parser.get_method().decode("latin-1")
        request.close = not self._parser.should_keep_alive() or self._app.draining
        if self._parser.should_upgrade():
            return
        read_head(request, self._parser.get_http_version())
        try:
            request.plan = self._app.begin(request)
        except HttpError as error:
            self._reject(request, error.response)
            return
        if (request.content_length or 0) > request.plan.max_body_bytes:
            self._reject(request, body_too_large(request.plan.max_body_bytes))
            return
        if request.plan.answer is None:
            self._begin_splice(request)
        if request.header(b"expect") is not None and not self._slots and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        request = self._request
        if request is None or request.plan is None:
            return
        request.num_body_bytes += len(body)
        if request.num_body_bytes > request.plan.max_body_bytes:
            raise HttpError(body_too_large(request.plan.max_body_bytes))
        if self._splice is not None:
            self._splice.send(body)
            return
        if request.plan.team is None:
            return
        if not self._app.hold(request.plan.team, len(body)):
            raise HttpError(refusal(503, "too much is being sent at once", headers=(("Retry-After", "1"),), close=True))
        request.body += body

    def on_message_complete(self) -> None:
        """The request is whole: answer it."""
        request, self._request = self._request, None
        self._since = self._loop.time()
        if request is None or request.plan is None:
            return
        if request.plan.answer is None:
            self._deaf = True  # the connection ends with control's answer: what follows must not be done unheard
            if self._splice is not None:
                self._splice.finish()
            return
        slot = Slot(self, head_only=request.method == "HEAD")
        self._slots.append(slot)
        if request.close:
            self._deaf = True
        self._remember(request, request.plan)
        try:
            request.plan.answer(bytes(request.body), slot)
        finally:
            self._release(request)

    # The rest is for the gateway, and for the above.

    def pass_on(self, slot: Slot, response: Response) -> bool:
        """Send an answer at once where it is the only one owed and the connection goes on; False where `flush` must."""
        slots = self._slots
        if (
            len(slots) != 1
            or slots[0] is not slot
            or self._deaf
            or response.close
            or slot.head_only
            or self._app.draining
            or self._paused
            or self._transport is None
        ):
            return False
        slots.clear()
        self._transport.write(render(response, now_s=self._app.now_s(), close=False))
        self._since = self._loop.time()
        if response.status in _REFUSALS or self._num_refused:
            self._count_refusal(response)
            if self._deaf:
                self._finish()
        return True

    def flush(self) -> None:
        """Send every answer whose turn it is."""
        parts = []
        while self._slots and self._slots[0].response is not None:
            slot = self._slots.popleft()
            response = cast("Response", slot.response)
            last = response.close or (not self._slots and (self._deaf or self._app.draining) and self._request is None)
            parts.append(render(response, now_s=self._app.now_s(), close=last, head_only=slot.head_only))
            self._count_refusal(response)
            if response.close:
                self._slots.clear()
                self._deaf = True
        if self._transport is None:
            return
        if parts:
            self._transport.write(b"".join(parts) if len(parts) > 1 else parts[0])
            self._since = self._loop.time()
        if self._slots and self._slots[0].splice is not None:
            self._slots[0].splice.activate()
        if not self._slots and (self._deaf or (self._app.draining and self._request is None)):
            self._finish()
        self.balance()

    def write(self, data: bytes) -> None:
        """Send a part of control's answer."""
        if self._transport is not None:
            self._transport.write(data)

    def spliced(self, failure: Response | None) -> None:
        """Control has said all, or `failure` stands for what it did not say. The connection ends with it."""
        splice, self._splice = self._splice, None
        for slot in self._slots:
            if slot.splice is splice:
                slot.splice = None
                if failure is not None:
                    slot.respond(failure)
                    return
        self._slots.clear()
        self._finish()

    def check(self, now: float) -> None:
        """Refuse, or close, a connection whose time is over; called several times a second."""
        limits = self._limits
        if self._closing_at is not None:
            if now >= self._closing_at and self._transport is not None:
                self._transport.abort()
        elif self._stuffed and now - self._stuffed_since > limits.unread_seconds and self._transport is not None:
            self._transport.abort()
        elif self._request is None:
            if not self._slots and (self._app.draining or now - self._since > limits.idle_seconds):
                self._finish()
        elif self._in_head:
            if not self._paused and now - self._since > limits.head_seconds:
                self._refuse(refusal(408, "the headers did not come in time", "send the request at once"))
        elif not self._paused and (
            now - self._heard_at > limits.stall_seconds or now - self._since > limits.body_seconds
        ):
            self._refuse(refusal(408, "the body did not come in time", "send the whole body without a pause"))

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def balance(self) -> None:
        """Read only while the client reads, control takes what is sent, and not too many answers are owed."""
        crowded = len(self._slots) > self._limits.max_pipelined
        choked = self._splice is not None and self._splice.choked
        resting = self._rest is not None
        wanted = (self._stuffed or crowded or choked or resting) and self._closing_at is None
        if self._transport is None or wanted == self._paused:
            return
        self._paused = wanted
        if wanted:
            self._transport.pause_reading()
        else:
            self._heard_at = self._loop.time()
            if self._in_head:
                self._since = self._heard_at  # the wait was ours
            self._transport.resume_reading()

    def _reject(self, request: Request, response: Response) -> None:
        """Answer without looking at the body: a small one is read and thrown away, another ends the connection."""
        has_body = bool(request.content_length) or request.header(b"transfer-encoding") is not None
        small = request.content_length is not None and request.content_length <= SMALL_BODY_BYTES
        if small and not response.close and request.header(b"expect") is None:
            request.plan = Plan(SMALL_BODY_BYTES, lambda _, slot: slot.respond(response))
            return
        slot = Slot(self, head_only=request.method == "HEAD")
        self._slots.append(slot)
        request.plan = None
        if has_body or request.close or response.close:
            self._deaf = True
            self._request = None
        slot.respond(response)

    def _refuse(self, response: Response) -> None:
        """Answer whatever is being read with an error, after the answers before it, and end the connection."""
        self._release(self._request)
        self._request = None
        self._deaf = True
        if self._splice is not None:
            self._splice.abort()
            self._splice = None
            if self._slots and self._slots[-1].splice is not None:
                if self._slots[-1].splice.started:
                    self._slots.clear()
                    self._finish()
                    return
                self._slots.pop()
        slot = Slot(self)
        self._slots.append(slot)
        slot.respond(Response(response.status, response.body, response.headers, close=True))

    def _begin_splice(self, request: Request) -> None:
        slot = Slot(self)
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        self._splice = slot.splice = Splice(self, request.method, request.target, request.headers, peer)
        self._slots.append(slot)
        request.close = True
        self._splice.start(self._app.control_address)
        if self._slots[0] is slot:
            self._splice.activate()

    def _finish(self) -> None:
        """Close so that the client can still read what was written: closing under unread bytes would reset it."""
        if self._transport is None or self._closing_at is not None:
            return
        self._deaf = True
        self._closing_at = self._loop.time() + self._limits.closing_seconds
        if self._peer_done or self._transport.is_closing():
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()
            self._paused = False
            self._transport.resume_reading()

    def _count_refusal(self, response: Response) -> None:
        """Take note of an answer; at extremes, stop reading for a while from a client that gets refusals only."""
        if response.status not in _REFUSALS:  # `lines` has an answer's id: what anybody may ask makes up for nothing
            self._num_refused = 0 if response.lines else self._num_refused
            return
        self._num_refused += 1
        if (rest_ns := self._app.shed(self._num_refused, response.status in _MISTAKES)) == shed.CLOSE:
            self._deaf = True
        elif rest_ns != shed.GO_ON and self._rest is None:
            self._rest = self._loop.call_later(rest_ns / 1e9, self._rested)
            self.balance()

    def _rested(self) -> None:
        self._rest = None
        self.balance()

    def _remember(self, request: Request, plan: Plan) -> None:
        """Keep the head of a request that came whole, alone and in one piece, for those that begin with the same bytes.

        What the parser made of these bytes between two requests it would make of them again, so nothing is looked at
        twice but what may have changed since: that is for `holds` to say.
        """
        data, self._first = self._first, b""
        length = request.content_length
        if plan.holds is None or plan.answer is None or length is None or request.close or len(data) > SLICE_BYTES:
            return
        head = data[: data.find(b"\r\n\r\n") + 4]
        whole = len(head) + length == len(data) and length == request.num_body_bytes
        # With a lone line feed in it, it would be open where the parser saw its end.
        whole = whole and len(head) <= MAX_AGAIN_BYTES
        if whole and head.count(b"\n") == head.count(b"\r\n") and request.header(b"expect") is None:
            self._again = Again(head, len(data), plan.answer, plan.holds)

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self._limits.max_head_bytes:
            raise HttpError(head_too_large(self._limits))

    def _release(self, request: Request | None) -> None:
        if request is not None and request.plan is not None and request.plan.team is not None:
            self._app.hold(request.plan.team, -len(request.body))
