"""A real gateway and real replicas on their own event loops, with a model small enough to know by heart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import uvloop

from datahall.backends.transport.unix import UnixTransport
from datahall.core.canonical import digest_bytes, digest_of
from datahall.core.clock import SystemClock
from datahall.core.errors import UserError
from datahall.core.records import BundleManifest, Column, KeyGrant, Route, RouteReplica, RouteTable
from datahall.security.signing import Ed25519Signer
from datahall.serve.answers import open_answer_id
from datahall.serve.config import GatewayConfig, GatewayLimits
from datahall.serve.gateway import Gateway
from datahall.serve.replica import ReplicaRequest, ReplicaServer
from datahall.serve.segment_files import find_local
from datahall.serve.table import publish_routes

KEY = "dh_owner"
ANSWER_KEY = b"k" * 32
ROUTES_KEY = bytes(range(32))
BOUND_SECONDS = 10.0
"""How long a test waits for what must happen; nothing in a passing test takes nearly as long."""


def manifest(**changes):
    base = BundleManifest(
        app="flowers",
        task="classification",
        engine="sklearn",
        engine_settings={},
        features=(Column(name="petal length", kind="number"), Column(name="petal width", kind="number", nullable=True)),
        target=Column(name="kind", kind="category", categories=("large", "small")),
        threshold=None,
        environment="e" * 64,
        files={},
    )
    return msgspec.structs.replace(base, **changes)


MIXED = (
    Column(name="age", kind="number"),
    Column(name="town", kind="category", categories=("Bern", "Ulm"), nullable=True),
    Column(name="member", kind="boolean"),
)


class TinyPredictor:
    """`large` with the probability of a logistic function of the first column; regression answers its double.

    `hold` and `entered` let a test stop the model in the middle of a batch.
    """

    def __init__(self, manifest, *, fail=None):
        self.manifest = manifest
        self.fail = fail
        self.entered = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.batches = []

    def predict(self, columns):
        if set(columns) != {feature.name for feature in self.manifest.features}:
            raise UserError("the columns are not the model's")
        first = columns[self.manifest.features[0].name]
        self.batches.append(len(first))
        self.entered.set()
        assert self.hold.wait(BOUND_SECONDS)
        if self.fail is not None and (first == -666).any():
            raise self.fail
        if self.manifest.task == "regression":
            first = np.where(first > 1e300, np.inf, first)
            return {"label": first * 2, "lower": first * 2 - 1, "upper": first * 2 + 1}
        probability = 1 / (1 + np.exp(-first))
        label = np.where(probability >= 0.5, "large", "small").astype(object)
        return {"label": label, "probability": np.column_stack([probability, 1 - probability])}


class Watched:
    """A real predictor with the handles that the harness expects."""

    def __init__(self, predictor):
        self.manifest = predictor.manifest
        self.predict = predictor.predict
        self.entered, self.hold, self.batches = threading.Event(), threading.Event(), []


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, factory=asyncio.new_event_loop):
        self.loop = factory()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(BOUND_SECONDS)

    def close(self):
        self.run(_settle())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(BOUND_SECONDS)
        self.loop.close()


async def _settle():
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)


class RunningReplica:
    """A replica's real server, in this process so that a test can hold its model."""

    def __init__(self, folder, name, predictor, bundle=None, *, inline_us=0):
        self.predictor = predictor
        self.address = str(folder / f"{name}.sock")
        self.name = name
        self.thread = LoopThread()
        # A test that holds the model in the middle of a batch must not hold the loop with it.
        request = ReplicaRequest(
            bundle=bundle or digest_of(predictor.manifest), address=self.address, replica=name, inline_us=inline_us
        )
        ready = threading.Event()

        async def start():
            self.server = ReplicaServer(request, predictor)
            self.stop_event = asyncio.Event()
            self.task = asyncio.ensure_future(self.server.serve(self.stop_event, ready.set))

        self.thread.run(start())
        assert ready.wait(BOUND_SECONDS)
        predictor.entered.clear()
        predictor.batches.clear()

    def drain(self):
        """Ask it to stop, as SIGTERM does; returns a future of its end."""

        async def stop():
            self.stop_event.set()
            await self.task

        return asyncio.run_coroutine_threadsafe(stop(), self.thread.loop)

    def kill(self):
        """End it as kill -9 does: its sockets close in the middle of whatever it was doing."""

        async def cut():
            for connection in tuple(self.server._connections):
                connection._transport.abort()

        Path(self.address).unlink(missing_ok=True)
        self.thread.run(cut())

    def close(self):
        self.predictor.hold.set()
        with contextlib.suppress(asyncio.CancelledError):
            self.drain().result(BOUND_SECONDS)
        self.thread.close()


class World:
    """One hall's serving side: routes, keys, replicas and a gateway."""

    def __init__(self, folder):
        self.folder = folder
        self.signer = Ed25519Signer.generate()
        self.replicas = {}
        self.routes = []
        self.keys = {}
        self.revision = 0
        self.gateway = None
        self.loop = None
        for name in ("answers", "run"):
            (folder / name).mkdir()
        self.grant(KEY, scopes=("predict",))

    def grant(self, text, *, scopes, team="lab", expires_at_ns=None):
        grant = KeyGrant(key_id=text, principal=f"user-{text}", team=team, scopes=scopes, expires_at_ns=expires_at_ns)
        self.keys[digest_bytes(text.encode())] = grant

    def deploy(
        self,
        predictor,
        *,
        num_replicas=1,
        app="flowers",
        version="1.0.0",
        team="lab",
        protocols=("predict", "v2"),
        **route,
    ):
        names = [f"{app}-{version}-{index}" for index in range(num_replicas)]
        self.replicas.update({name: RunningReplica(self.folder, name, predictor) for name in names})
        replicas = tuple(RouteReplica(id=name, address=self.replicas[name].address) for name in names)
        self.routes = [route for route in self.routes if (route.app, route.team) != (app, team)]
        self.routes.append(
            Route(
                app=app,
                team=team,
                deployment=f"dep-{app}-{version}-{team}",
                version=version,
                manifest=predictor.manifest,
                bundle=digest_of(predictor.manifest),
                replicas=replicas,
                protocols=protocols,
                **route,
            )
        )
        return [self.replicas[name] for name in names]

    def publish(self, *, revision=None, signer=None, **changes):
        self.revision = self.revision + 1 if revision is None else revision
        table = RouteTable(
            id="current",
            revision=self.revision,
            routes=tuple(self.routes),
            keys=self.keys,
            published_at_ns=1,
            **changes,
        )
        publish_routes(self.folder / "routes.json", table, signer or self.signer, ROUTES_KEY)

    def config(self, **changes):
        values = {
            "gateway": "g1",
            "control_address": str(self.folder / "control.sock"),
            "routes": str(self.folder / "routes.json"),
            "answers": str(self.folder / "answers"),
            "runtime": str(self.folder / "run"),
            "answer_key": ANSWER_KEY,
            "routes_key": ROUTES_KEY,
            "route_keys": {self.signer.key_id: self.signer.public_key},
            "limits": GatewayLimits(),
            "poll_seconds": 0.01,
            "sync_seconds": 0.01,
        }
        return GatewayConfig(**values | changes)

    def start(self, *, wait=True, **changes):
        self.loop = LoopThread(uvloop.new_event_loop)

        async def start():
            self.gateway = Gateway(self.config(**changes), transport=UnixTransport(), clock=SystemClock())
            await self.gateway.start()

        self.loop.run(start())
        if wait:
            self.until(lambda: self.gateway._follower.all_ready)
        return self

    def until(self, condition):
        """Wait, with a bound, until `condition` holds on the gateway's loop."""

        async def poll():
            while not condition():  # noqa: ASYNC110  the condition is the gateway's own state, which has no event
                await asyncio.sleep(0.002)

        return self.loop.run(asyncio.wait_for(poll(), BOUND_SECONDS))

    def stop(self):
        if self.loop is not None:
            self.loop.run(self.gateway.drain())
            self.loop.close()
            self.loop = None

    def close(self):
        for replica in self.replicas.values():
            replica.predictor.hold.set()
        self.stop()
        for replica in self.replicas.values():
            replica.close()

    def client(self):
        return Client(self.gateway.port)

    def ask(self, *args, **kwargs):
        with self.client() as client:
            return client.ask(*args, **kwargs)


class Reply(msgspec.Struct):
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


class Client:
    """A socket that says exactly what a test wants it to say."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=BOUND_SECONDS)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, method, path, body=None, *, key=KEY, headers=()):
        self.send(request(method, path, body, key=key, headers=headers))
        return self.reply(head_only=method == "HEAD")

    def reply(self, *, head_only=False):
        """Read one response."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if head_only else int(headers["content-length"])
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Reply(int(first.split()[1]), headers, body)

    def closed(self):
        """Whether the other side ends the connection; waits for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"closed after {self.buffer!r}")
        self.buffer += data


def request(method, path, body=None, *, key=KEY, headers=()):
    """Return the bytes of a well-formed request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: hall", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


def record_of(folder, text):
    """Return the record of an answer by the id that its client got."""
    segment, index = find_local(folder, open_answer_id(text, ANSWER_KEY), ANSWER_KEY)
    return segment.answers[index]


@pytest.fixture(scope="session")
def kit():
    """The helpers above, for tests that make their own parts."""
    return SimpleNamespace(
        Client=Client,
        KEY=KEY,
        ANSWER_KEY=ANSWER_KEY,
        record_of=record_of,
        MIXED=MIXED,
        Watched=Watched,
        World=World,
        RunningReplica=RunningReplica,
        TinyPredictor=TinyPredictor,
        LoopThread=LoopThread,
        manifest=manifest,
        request=request,
    )


@pytest.fixture
def short():
    """A folder short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(short):
    made = World(short)
    yield made
    made.close()


@pytest.fixture
def flowers(world):
    """A hall with one application and one replica, answering."""
    world.deploy(TinyPredictor(manifest()))
    world.publish()
    return world.start()
