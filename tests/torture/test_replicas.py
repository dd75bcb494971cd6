"""A replica killed, stopped or slowed ten times under load: nobody fails, and it is out within three seconds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from datahall.core.canonical import digest_of
from datahall.core.records import Route, RouteReplica
from datahall.policy import health, retry
from datahall.serve.segment_files import read_segment, segment_files
from tests.serve.conftest import ANSWER_KEY, BOUND_SECONDS, World
from tests.torture.hall import ROOT, quantile
from tests.torture.replica_main import MANIFEST

NUM_REPLICAS = 3
NUM_CLIENTS = 6
NUM_ROUNDS_LONG = 50
DELAY_S = 0.02
"""What a batch takes; so long that a busy machine's scheduler does not look like a slow model."""
EJECTED_S = 3.0
NUM_CALLS_SLOW = 500
"""Far more than it takes to find a slow replica out."""
NUM_BOUNDS = 3
"""How many times the usual bound a replica may take to be back: one that fails again and again waits longer each time."""
RESTARTS_S = 0.2
"""How long the launcher's back-off leaves a killed one down."""
FAULTS = ("killed", "stopped", "slowed")


class Replica:
    """One replica process, its page of memory, and whoever starts it again when it dies."""

    def __init__(self, folder, name):
        self.name, self.address = name, str(folder / f"{name}.sock")
        self._page = folder / f"{name}.delay"
        self.delay(DELAY_S)
        self._order = {
            "bundle": digest_of(MANIFEST),
            "address": self.address,
            "replica": name,
            "page": str(self._page),
        }
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.replica_main"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.process.stdin.write(json.dumps(self._order) + "\n")
        self.process.stdin.close()

    def delay(self, seconds):
        """Let each batch take so long from now on."""
        if not self._page.exists():
            self._page.write_bytes(bytes(8))
        with self._page.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    def hurt(self, fault):
        if fault == "slowed":
            self.delay(10 * DELAY_S)
        else:
            self.process.send_signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)

    def heal(self, fault):
        if fault == "slowed":
            self.delay(DELAY_S)
        elif fault == "stopped":
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process.wait(BOUND_SECONDS)
            threading.Event().wait(RESTARTS_S)
            self.start()

    def close(self):
        self.process.kill()
        self.process.wait(BOUND_SECONDS)


class Load(threading.Thread):
    """One keep-alive client that asks and asks, and remembers each answer that is not its own."""

    def __init__(self, world, number, stop):
        super().__init__(daemon=True)
        self._world, self._number, self._stop_event = world, number, stop
        self.waited_s, self.problems = [], []

    def run(self):
        with self._world.client() as client:
            x = float(self._number)
            while not self._stop_event.is_set():
                x += NUM_CLIENTS
                began = time.monotonic()
                try:
                    reply = client.ask("POST", "/predict/flowers", {"x": x})
                except OSError as error:
                    self.problems.append(repr(error))
                    return
                self.waited_s.append(time.monotonic() - began)
                if reply.status != 200 or reply.json()["predictions"][0]["value"] != 2 * x:
                    self.problems.append(f"{reply.status} {reply.body[:200]!r}")


class Chaos:
    """A gateway, three replica processes, and clients that never rest."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
        self.world = World(self.folder)
        self.replicas = [Replica(self.folder, f"r{number}") for number in range(NUM_REPLICAS)]
        routed = tuple(RouteReplica(id=one.name, address=one.address) for one in self.replicas)
        self.world.routes.append(
            Route(
                app="flowers",
                team="lab",
                deployment="d",
                version="flowers@1.0.0",
                manifest=MANIFEST,
                bundle=digest_of(MANIFEST),
                replicas=routed,
            )
        )
        self.world.publish()
        self.world.start(wait=False)
        self.lane = self.world.gateway._follower.lane("lab", "flowers")
        self._stop = threading.Event()
        self.clients = [Load(self.world, number, self._stop) for number in range(NUM_CLIENTS)]
        self.ejected_s = {fault: [] for fault in FAULTS}

    def __enter__(self):
        self.all_well()
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.end()
        for replica in self.replicas:
            replica.close()
        self.world.close()
        shutil.rmtree(self.folder)

    def all_well(self):
        for _ in range(NUM_BOUNDS):
            with contextlib.suppress(TimeoutError):
                self.world.until(lambda: len(self.lane.serving) == NUM_REPLICAS)
                break
        else:
            healths = {name: (port.link.ready, port.health) for name, port in self.lane._fleet.ports.items()}
            pytest.fail(f"not all are back: {healths} at {time.monotonic_ns()}\n{self.told()}")

    def round(self, replica, fault):
        """Hurt one replica, wait until it is out, heal it, and wait until it is back."""
        replica.hurt(fault)
        began = time.monotonic()
        self.world.until(lambda: replica.name not in self.lane.serving)
        self.ejected_s[fault].append(time.monotonic() - began)
        replica.heal(fault)
        self.all_well()

    def end(self):
        """Let every client have its last answer; return what was wrong."""
        self._stop.set()
        for client in self.clients:
            client.join(BOUND_SECONDS)
        return [problem for client in self.clients for problem in client.problems]

    def num_records(self):
        """How many answers the log holds."""
        paths = segment_files(self.folder / "answers")
        return sum(len(read_segment(path, ANSWER_KEY).answers) for path in paths)

    def told(self):
        """Return lines for people: how soon each fault was noticed, and how long clients waited."""
        lines = [
            f"{fault}: {len(times)} rounds, ejected after {quantile(times, 0.5):.2f} s (p50), {max(times):.2f} s (max)"
            for fault, times in self.ejected_s.items()
            if times
        ]
        waited = [seconds for client in self.clients for seconds in client.waited_s]
        failed = sum(len(client.problems) for client in self.clients)
        lines.append(
            f"{len(waited)} calls, {failed} failed, waited {quantile(waited, 0.5) * 1e3:.1f} ms (p50), "
            f"{quantile(waited, 0.99) * 1e3:.1f} ms (p99), {max(waited) * 1e3:.0f} ms (max)"
        )
        return "\n".join(lines)


def torture(faults, seed):
    """Hurt replicas one after another; return what was wrong."""
    draw = random.Random(f"replicas {seed}")  # noqa: S311  (which replica is hurt when is no secret)
    with Chaos() as chaos:
        for fault in faults:
            threading.Event().wait(draw.uniform(0, 0.2))
            chaos.round(draw.choice(chaos.replicas), fault)
        problems = chaos.end()
        num_answers = sum(len(client.waited_s) for client in chaos.clients)
        num_records = chaos.num_records()
        print(chaos.told())  # noqa: T201  (a failure shows it, and `make torture` tells it)
    assert problems == []
    assert num_records == num_answers, "each is recorded once, however often it was asked"
    assert max(max(times) for times in chaos.ejected_s.values() if times) <= EJECTED_S


def test_a_replica_killed_stopped_or_slowed_costs_nobody_an_answer():
    torture(FAULTS, 0)


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_fifty_replicas_killed_stopped_or_slowed_cost_nobody_an_answer():
    draw = random.Random("faults")  # noqa: S311  (likewise)
    torture([draw.choice(FAULTS) for _ in range(NUM_ROUNDS_LONG)], 1)


def test_without_retries_a_killed_replica_would_cost_answers(monkeypatch):
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 1)
    with Chaos() as chaos:
        for number in range(10):
            chaos.round(chaos.replicas[number % NUM_REPLICAS], "killed")
            if any(client.problems for client in chaos.clients):
                break
        assert chaos.end() != []


def test_without_ejection_a_slowed_replica_would_stay(monkeypatch):
    monkeypatch.setattr(health, "NUM_SLOW", 10**9)
    with Chaos() as chaos:
        chaos.replicas[0].hurt("slowed")
        chaos.world.until(lambda: sum(len(client.waited_s) for client in chaos.clients) >= NUM_CALLS_SLOW)
        assert chaos.replicas[0].name in chaos.lane.serving
        assert chaos.end() == []
