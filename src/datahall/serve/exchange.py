"""What passes between a connection and the gateway: a request, the place of its answer, and what is to become of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from datahall.serve.config import GatewayLimits
from datahall.serve.responses import Response, refusal

if TYPE_CHECKING:
    from datahall.serve.http import Connection
    from datahall.serve.splice import Splice


class Request:
    """One request as far as it has come."""

    __slots__ = (
        "body",
        "close",
        "content_length",
        "first",
        "headers",
        "match",
        "method",
        "num_body_bytes",
        "path",
        "plan",
        "target",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.path = ""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case."""
        self.first: dict[bytes, bytes] = {}
        """The first value of each of them."""
        self.content_length: int | None = None
        self.num_body_bytes = 0
        self.body = bytearray()
        self.close = False
        self.plan: Plan | None = None
        self.match: object = None

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header that can come once only."""
        return self.first.get(name)


class Slot:
    """The place of one answer in its connection's order."""

    __slots__ = ("connection", "head_only", "response", "splice")

    def __init__(self, connection: Connection, *, head_only: bool = False) -> None:
        self.connection = connection
        self.head_only = head_only
        self.response: Response | None = None
        self.splice: Splice | None = None

    def respond(self, response: Response) -> None:
        """Give the answer; it leaves when all before it have left."""
        if self.response is None:
            self.response = response
            if not self.connection.pass_on(self, response):
                self.connection.flush()


class Plan:
    """What to do with a request whose headers are there: hold its body and call `answer`, or pass it on to control."""

    __slots__ = ("answer", "holds", "max_body_bytes", "team")

    def __init__(
        self,
        max_body_bytes: int,
        answer: Callable[[bytes, Slot], None] | None,
        *,
        holds: Callable[[], bool] | None = None,
        team: str | None = None,
    ) -> None:
        self.max_body_bytes, self.answer = max_body_bytes, answer
        self.team = team
        """Whose the body is while it is held; None where it is read and thrown away."""
        self.holds = holds
        """Whether the same head would be decided on alike now; None where that cannot be said."""


class HeldBodies:
    """Counts the bytes of bodies that are held, by team.

    A team may hold as many as are free then, so no number of slow clients of one leaves others without room (the
    dynamic thresholds of Choudhury and Hahne, IEEE/ACM ToN 1998, with a factor of 1): one alone gets at most half.
    """

    __slots__ = ("_by_team", "_max_bytes", "num_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self.num_bytes = max_bytes, 0
        self._by_team: dict[str, int] = {}

    def take(self, team: str, num_bytes: int) -> bool:
        """Count bytes in, or a negative number of them out; False where there would be too many."""
        held = self._by_team.get(team, 0) + num_bytes
        if num_bytes > 0 and held > self._max_bytes - self.num_bytes - num_bytes:
            return False
        self.num_bytes += num_bytes
        if held:
            self._by_team[team] = held
        else:
            self._by_team.pop(team, None)
        return True


class Again:
    """The last request of a connection, so that one with the very same head is not parsed again."""

    __slots__ = ("answer", "head", "holds", "num_bytes", "num_head_bytes")

    def __init__(
        self, head: bytes, num_bytes: int, answer: Callable[[bytes, Slot], None], holds: Callable[[], bool]
    ) -> None:
        self.head, self.num_head_bytes, self.num_bytes = head, len(head), num_bytes
        self.answer, self.holds = answer, holds


def head_too_large(limits: GatewayLimits) -> Response:
    """Return what a client is told whose headers are beyond the bounds."""
    return refusal(
        431,
        "the headers are too large",
        f"send at most {limits.max_num_headers} headers and {limits.max_head_bytes} bytes of them",
        close=True,
    )


def body_too_large(limit: int) -> Response:
    """Return what a client is told whose body is beyond `limit` bytes."""
    return refusal(413, f"the body is larger than {limit} bytes", "send fewer rows in one request", close=True)
