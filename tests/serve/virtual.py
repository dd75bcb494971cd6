"""A lane on a virtual clock, with replicas that answer, slow, stop, fail or die when a test says so."""

from __future__ import annotations

import heapq
import itertools
import random

from datahall.core.errors import DatahallError, UnavailableError
from datahall.core.records import BundleManifest, Column, Route, RouteReplica
from datahall.serve.batch import BatchSettings
from datahall.serve.lane import Call, Lane
from datahall.serve.rows import TABLE, Rows

MS = 1_000_000
S = 1000 * MS
MANIFEST = BundleManifest(
    app="flowers",
    task="regression",
    engine="sklearn",
    engine_settings={},
    features=(Column(name="x", kind="number"),),
    target=Column(name="y", kind="number"),
    threshold=None,
    environment="e" * 64,
    files={},
)


class Timers:
    """An event loop whose time goes on only from one timer to the next; also the lane's clock."""

    def __init__(self):
        self.ns = 1000 * S
        self._heap, self._tie = [], itertools.count()

    def monotonic_ns(self):
        return self.ns

    def call_soon(self, callback, *args):
        return self.call_later(0, callback, *args)

    def call_later(self, delay, callback, *args):
        handle = Handle(callback, args)
        heapq.heappush(self._heap, (self.ns + max(0, round(delay * 1e9)), next(self._tie), handle))
        return handle

    def run(self, ns):
        """Let so much time pass."""
        end = self.ns + ns
        while self._heap and self._heap[0][0] <= end:
            at, _, handle = heapq.heappop(self._heap)
            self.ns = max(self.ns, at)
            if not handle.cancelled:
                handle.callback(*handle.args)
        self.ns = end


class Handle:
    def __init__(self, callback, args):
        self.callback, self.args, self.cancelled = callback, args, False

    def cancel(self):
        self.cancelled = True


class Link:
    """One replica and the way to it: a batch takes `base_ns` and `row_ns` a row, times `ratio`."""

    base_ns, row_ns = 10 * MS, MS // 10
    max_rows = 0

    def __init__(self, timers, name, changed):
        self.timers, self.name, self.changed = timers, name, changed
        self.ready, self.stopped, self.ratio, self.error = True, False, 1.0, None
        self.closed = False
        self.open = {}
        self.batches = []

    def send(self, columns, num_rows, done):
        if not self.ready:
            self.timers.call_soon(done, UnavailableError("not connected"))
            return
        number = len(self.batches)
        self.batches.append(num_rows)
        self.open[number] = (columns[TABLE][:, 0], done)
        took_ns = (self.base_ns + self.row_ns * num_rows) * self.ratio
        self.timers.call_later(took_ns / 1e9, self._answer, number)

    def _answer(self, number):
        if self.stopped:
            self.timers.call_later(0.001, self._answer, number)
        elif number in self.open:
            x, done = self.open.pop(number)
            error = self.error(x) if self.error is not None else None
            done(error if error is not None else {"label": x * 2})

    def kill(self):
        if self.ready:
            self.ready = False
            self.changed()
        for number in list(self.open):
            self.open.pop(number)[1](UnavailableError("the replica was lost while it was answering"))

    def revive(self):
        if not self.ready and not self.closed:
            self.ready, self.stopped, self.ratio, self.error = True, False, 1.0, None
            self.changed()

    def close(self):
        self.closed = True
        self.kill()


class Client:
    """What the gateway keeps with a call: here, what came back."""

    def __init__(self, world, x):
        self.world, self.x, self.gone, self.outcomes = world, x, False, []
        self.waited_ns = None


class World:
    """A lane of `num` replicas and the clients that ask it."""

    def __init__(self, num=3, seed=0, files=None, place=None, **settings):
        self.timers = Timers()
        self.links, self.clients, self.decisions = {}, [], []
        self.replicas = tuple(RouteReplica(id=name, address=name) for name in "abcdefgh"[:num])
        self.lane = Lane(
            self.route(self.replicas),
            transport=self,
            clock=self.timers,
            settings=BatchSettings(**settings),
            answered=self._answered,
            decided=files.decided if files is not None else lambda *decision: self.decisions.append(decision),
            decisions=files,
            draw=random.Random(seed).random,  # noqa: S311  a simulation, which must be repeatable
            timers=self.timers,
            place=place,
        )

    def route(self, replicas):
        return Route(
            app="flowers", team="lab", deployment="d", version="1", manifest=MANIFEST, bundle="b", replicas=replicas
        )

    def connect(self, address, *, bundle, changed):
        self.links[address] = Link(self.timers, address, changed)
        return self.links[address]

    def _answered(self, lane, calls, outcome, replica):
        start = 0
        for call in calls:
            client = call.context
            own = outcome
            if not isinstance(outcome, DatahallError):
                own = {name: array[start : start + call.num_rows] for name, array in outcome.items()}
                assert len(own["label"]) == call.num_rows
                start += call.num_rows
            client.outcomes.append(own)
            client.replica, client.waited_ns = replica, self.timers.ns - client.since_ns

    def ask(self, x=1.0, num_rows=1, patience_ns=30 * S):
        """Offer one call; a refusal at the door counts as its outcome too."""
        client = Client(self, x)
        client.since_ns = self.timers.ns
        self.clients.append(client)
        try:
            rows = Rows(num_rows, values=[(x,)] * num_rows)
            self.lane.offer(Call(rows, num_rows, self.timers.ns + patience_ns, client))
        except DatahallError as error:
            client.outcomes.append(error)
            client.waited_ns = 0
        return client

    def load(self, seconds, every_ms=4.0):
        """Let one client a few milliseconds come for so long; return them."""
        clients = []
        for _ in range(round(seconds * 1000 / every_ms)):
            clients.append(self.ask(float(len(self.clients))))
            self.timers.run(round(every_ms * MS))
        return clients

    def settle(self):
        """Wait for every answer."""
        self.timers.run(60 * S)

    def failed(self, clients=None):
        """Those that got anything but their own answer, once."""
        clients = self.clients if clients is None else clients
        return [one for one in clients if len(one.outcomes) != 1 or not is_good(one)]

    def waited_ms(self, clients):
        """The longest wait of these."""
        return max(one.waited_ns for one in clients) / MS


def is_good(client):
    """Whether the first outcome is the client's own answer."""
    outcome = client.outcomes[0]
    return not isinstance(outcome, DatahallError) and (outcome["label"] == client.x * 2).all()
