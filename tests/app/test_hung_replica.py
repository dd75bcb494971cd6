"""A replica whose model never answers a batch is ended and replaced, though it may still answer pings."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from datahall.app.replicas import Replicas
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.launch.local import LocalLauncher
from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.canonical import digest_of
from datahall.core.records import Bundle, Replica
from datahall.data.frames import load_columns
from datahall.engines.bundle import unpack
from datahall.serve.config import GatewayLimits
from datahall.serve.frames import Header, encode
from datahall.serve.replica import MAX_BATCH_SECONDS
from datahall.testing.models import small_bundle
from datahall.testing.tables import TEAM, small_table
from tests.app.hanging_main import HANG, SLOW, SLOW_SECONDS
from tests.app.test_reconciler import World

BLOBS = MemoryBlobStore()
MAIN = str(Path(__file__).with_name("hanging_main.py"))
BOUND_SECONDS = 30.0
HOW = ("in the model's thread", "on the loop", "with the interpreter's lock")


class Vault:
    """Holds one packed bundle."""

    def __init__(self, packed):
        self.packed = packed

    def read(self, team, digest):
        return self.packed


class Started(Replicas):
    """Remembers the processes that it starts."""

    def start(self, *given):
        self.newest = super().start(*given)
        return self.newest


@pytest.fixture(scope="module")
def table():
    return small_table(BLOBS, task="classification")


@pytest.fixture(scope="module")
def packed(table):
    return small_bundle(BLOBS, table, "forest")


@pytest.fixture
def hall(tmp_path, packed):
    """Start a hall whose one replica may hang in a stated way."""
    folder = Path(tempfile.mkdtemp(prefix="dh"))  # short: a Unix socket's path has at most 107 bytes
    made = []

    def start(how, **settings):
        launcher = LocalLauncher(folder / "logs", folder / "work", entry=(MAIN, how))
        manifest, _ = unpack(packed)
        bundle = Bundle(id=digest_of(manifest), app="flowers", manifest=manifest, artifact="a" * 64, equivalence={})
        made.append(World(tmp_path, Started(launcher, Vault(packed), folder, **settings), bundle))
        ready(made[-1])
        return made[-1]

    yield start
    for world in made:
        world.reconciler.stop()
        world.catalogue.close()
    shutil.rmtree(folder)


def ready(world):
    """Do rounds until the replica that is started answers."""
    world.reconciler.tick()
    assert world.reconciler._news.wait(BOUND_SECONDS)
    world.reconciler._news.clear()
    world.reconciler.tick()
    assert "ready" in world.states()


def ended(process):
    """Wait, with a bound, for a process's end."""
    descriptor = os.pidfd_open(process.pid)
    try:
        return select.select([descriptor], [], [], BOUND_SECONDS)[0] != []
    finally:
        os.close(descriptor)


def connect(world):
    (replica,) = world.catalogue.find(Replica, state="ready")
    return closing(UnixAnswerer(replica.address, timeout_s=BOUND_SECONDS))


def rows(table, first):
    columns = load_columns(BLOBS.get(table.holdout, team=TEAM), table.features)
    name = table.features[0].name
    assert columns[name].dtype.kind == "f"
    return columns | {name: columns[name] * 0 + first}


@pytest.mark.parametrize("how", HOW)
def test_a_replica_that_hangs_is_ended_and_replaced(hall, table, how):
    world = hall(how, max_batch_seconds=1.0)
    hung, columns = world.replicas.newest, rows(table, HANG)
    with connect(world) as caller:
        caller._socket.sendall(encode(Header("infer", id=1, num_rows=len(columns[table.features[0].name])), columns))
        if how == HOW[0]:
            assert caller._ask(Header("ping")).header.kind == "ready", "it answers pings as if nothing were the matter"
        assert ended(hung)
    assert hung.poll() == -signal.SIGALRM
    assert "in predict" in hung.log.read_text(), "where it hung"
    world.reconciler.tick()
    (problem,) = world.reconciler.problems()
    assert "hung, and ended itself" in problem
    world.clock.advance(1.0)
    ready(world)
    assert sorted(world.states()) == ["gone", "ready"]
    assert world.replicas.newest is not hung
    with connect(world) as caller:
        assert len(caller.answer(rows(table, 0.0))["label"]) > 0


@pytest.mark.parametrize("how", HOW[:2])
def test_one_that_is_slow_or_idle_is_left_alone(hall, table, how):
    """The negative control: together these batches take longer than one may."""
    world = hall(how, max_batch_seconds=2.0)
    with connect(world) as caller:
        for _ in range(4):
            assert len(caller.answer(rows(table, SLOW))["label"]) > 0
    assert 4 * SLOW_SECONDS > 2.0 * 1.5
    assert world.replicas.newest.poll() is None


def test_nobody_waits_any_more_for_what_is_given_up():
    assert 2 * GatewayLimits().answer_seconds <= MAX_BATCH_SECONDS
