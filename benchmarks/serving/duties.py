"""What each duty of an answer costs the gateway: its own functions, timed while it answers real requests.

A gateway in this process follows the route table of a running hall and asks its replica, exactly as the hall's own
does. The functions below are replaced by themselves with a clock around them; a function's time is its own, without
that of the timed functions that it calls, and without what the clocks cost. What is not timed is the rest: the event
loop, the kernel's part of reading sockets, and whatever has no line here.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import uvloop

from benchmarks.serving.drive import load
from benchmarks.serving.hall import Hall
from benchmarks.serving.machine import Tree
from benchmarks.serving.servers import Running
from datahall.app.belonging import open_keys
from datahall.backends.transport.unix import UnixTransport
from datahall.core.clock import SystemClock
from datahall.core.hall import HallPaths
from datahall.serve.config import GatewayConfig
from datahall.serve.gateway import Gateway

DUTIES: dict[str, tuple[str, ...]] = {
    "HTTP: parse requests": ("datahall.serve.http:Connection.data_received",),
    "route and key, of a head not seen before": ("datahall.serve.gateway:Gateway.begin",),
    "limits: in and out": (
        "datahall.serve.gateway:Gateway._refused",
        "datahall.serve.admission:Admission.shed",
        "datahall.serve.admission:Admission.enter",
        "datahall.serve.admission:Admission.left",
    ),
    "decode the body": (
        "datahall.serve.protocols.v2:TensorReader.read",
        "datahall.serve.columns:RowReader.read",
        "datahall.serve.protocols.mlflow:InvocationReader.read",
    ),
    "salt, and digest of the input": (
        "datahall.serve.recording:Recorder.draw_salt",
        "datahall.serve.gateway:salted_digest",
    ),
    "from request to queue, and back": (
        "datahall.serve.gateway:Gateway._ask",
        "datahall.serve.gateway:Gateway._answered",
        "datahall.serve.lane:Lane.offer",
        "datahall.serve.lane:Lane._finish",
    ),
    "batch": (
        "datahall.serve.lane:Lane._pump",
        "datahall.serve.lane:Lane._send",
        "datahall.serve.lane:Lane._landed",
        "datahall.serve.batch:BatchQueue.offer",
        "datahall.serve.batch:BatchQueue.take",
        "datahall.serve.batch:BatchQueue.finished",
    ),
    "choose a replica, watch its health": (
        "datahall.serve.fleet:Fleet.idle",
        "datahall.serve.fleet:Fleet.choose",
        "datahall.serve.fleet:Fleet.answered",
    ),
    "hop: rows to a frame": ("datahall.serve.lane:join", "datahall.backends.transport.unix:UnixLink.send"),
    "hop: a frame to arrays": ("datahall.backends.transport.unix:UnixLink.data_received",),
    "answer id": ("datahall.serve.recording:answer_ids()",),
    "encode the body": (
        "datahall.serve.recording:begin",
        "datahall.serve.protocols.v2_answer:V2Writer.write",
        "datahall.serve.protocols.plain:PlainWriter.write",
        "datahall.serve.protocols.mlflow:InvocationWriter.write",
    ),
    "digest of the output": ("datahall.serve.recording:salted_digest",),
    "record": ("datahall.serve.recording:Recorder.record", "datahall.serve.recording:Recorder._answer"),
    "answer log: encode": ("datahall.serve.segments:AnswerLog.append",),
    "answer log: encrypt": ("datahall.serve.segments:SegmentSeal.frame",),
    "answer log: write": ("datahall.serve.segments:AnswerLog._write",),
    "HTTP: write answers": (
        "datahall.serve.exchange:Slot.respond",
        "datahall.serve.http:Connection.flush",
        "datahall.serve.http:Connection.pass_on",
    ),
}
"""Every duty, and the functions that do it as `module:name`, `name()` being what `name` returns; here is where renames
are followed."""

REST = "event loop, kernel and the rest"
REPLICA = "the replica's process"
_SECONDS = 2


class Clocks:
    """Wraps functions so that each one's own time is added to its duty's."""

    def __init__(self) -> None:
        self.spent_ns: Counter[str] = Counter()
        self.num_calls: Counter[str] = Counter()
        self._inner: list[float] = []
        self._inside_ns = self._outside_ns = 0.0
        self._calibrate()

    def around(self, work: Callable[..., Any], duty: str) -> Callable[..., Any]:
        """Return `work` with a clock around it; only for functions that one thread calls."""
        inner, spent, calls, now = self._inner, self.spent_ns, self.num_calls, time.thread_time_ns
        inside, outside = self._inside_ns, self._outside_ns

        @functools.wraps(work)
        def timed(*arguments: Any, **options: Any) -> Any:
            inner.append(0.0)
            began = now()
            try:
                return work(*arguments, **options)
            finally:
                took = now() - began
                spent[duty] += took - inner.pop() - inside
                calls[duty] += 1
                if inner:
                    inner[-1] += took + outside

        return timed

    def around_made(self, factory: Callable[..., Callable[..., Any]], duty: str) -> Callable[..., Callable[..., Any]]:
        """Return `factory`, a clock around each function that it makes."""
        return lambda *arguments: self.around(factory(*arguments), duty)

    def overhead_us(self, num_answers: int) -> float:
        """Return the microseconds that the clocks themselves took of one answer."""
        return self.num_calls.total() * (self._inside_ns + self._outside_ns) / 1000 / num_answers

    def forget(self) -> None:
        """Begin anew."""
        self.spent_ns.clear()
        self.num_calls.clear()

    def _calibrate(self, count: int = 50_000) -> None:
        """Learn what a clock costs within the time that it takes and beside it."""

        def nothing() -> None:
            return None

        timed = self.around(nothing, "nothing")

        def many(work: Callable[[], None]) -> None:
            for _ in range(count):
                work()

        began = time.thread_time_ns()
        many(nothing)
        bare = time.thread_time_ns() - began
        began = time.thread_time_ns()
        many(timed)
        whole = time.thread_time_ns() - began
        self._inside_ns = self.spent_ns["nothing"] / count
        self._outside_ns = max(0.0, (whole - bare) / count - self._inside_ns)
        self.forget()


def resolve(name: str) -> tuple[Any, str]:
    """Return who holds a function and under which name. Raises LookupError where it is gone."""
    module, _, path = name.partition(":")
    *owners, last = path.removesuffix("()").split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each, None)
    if owner is None or not hasattr(owner, last):
        raise LookupError(f"{name} is gone: find where it went and follow it in benchmarks/serving/duties.py")
    return owner, last


def measure(made: Hall, *, cores: tuple[int, int], num_connections: int = 64) -> dict[str, float]:
    """Return the microseconds of every duty of one answer, REST and REPLICA last.

    Raises LookupError where a function of DUTIES is gone.
    """
    clocks = Clocks()
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        for duty, names in DUTIES.items():
            for name in names:
                owner, last = resolve(name)
                wrap = clocks.around_made if name.endswith("()") else clocks.around
                stack.enter_context(mock.patch.object(owner, last, wrap(getattr(owner, last), duty)))
        server = stack.enter_context(made.serving({cores[0]}))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, {cores[0]})
        try:
            return uvloop.run(_answer(made, server, clocks, scratch, core=cores[1], num_connections=num_connections))
        finally:
            os.sched_setaffinity(0, before)


async def _answer(
    made: Hall, server: Running, clocks: Clocks, scratch: Path, *, core: int, num_connections: int
) -> dict[str, float]:
    gateway = Gateway(_config(HallPaths(made.folder), scratch), transport=UnixTransport(), clock=SystemClock())
    await gateway.start()
    (replica,) = server.tree.matching("datahall.app.mains replica")
    asked = Running(Tree(replica), server.target._replace(port=gateway.port), 0.0)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, asked.seconds_to_answer)
    clocks.forget()
    began = time.process_time()
    work = functools.partial(load, asked, num_connections, seconds=_SECONDS, core=core)
    level = await loop.run_in_executor(None, work)
    total_us = 1e6 * (time.process_time() - began) / level.num_answers
    await gateway.drain()
    found = {duty: clocks.spent_ns[duty] / 1000 / level.num_answers for duty in DUTIES}
    clocks_us = clocks.overhead_us(level.num_answers)
    return {**found, REST: total_us - clocks_us - sum(found.values()), REPLICA: level.cpu_us_per_answer}


def _config(paths: HallPaths, scratch: Path) -> GatewayConfig:
    keys = open_keys(paths)
    return GatewayConfig(
        gateway="bench",
        control_address=str(paths.control_socket()),
        routes=str(paths.routes),
        answers=str(scratch),
        runtime=str(scratch),
        answer_key=keys.answer_key,
        routes_key=keys.routes_key,
        route_keys={keys.signer.key_id: keys.signer.public_key},
    )
