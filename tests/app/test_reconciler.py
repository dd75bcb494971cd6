"""The reconciler where the world fails it: a catalogue that cannot be written, processes that die at once."""

import os

import pytest

from datahall.app.decisions import DecisionLog
from datahall.app.reconciler import Reconciler
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.telemetry import Telemetry
from datahall.core.errors import UnavailableError
from datahall.core.jobs import Failure, Message, Progress
from datahall.core.records import (
    Act,
    Bundle,
    BundleManifest,
    Change,
    Column,
    Deployment,
    Quota,
    Replica,
    RouteTable,
    TeamRule,
)
from datahall.deploy.table import TABLE_ID
from datahall.security.access import issue_key
from datahall.testing.clock import AutoClock

MANIFEST = BundleManifest(
    app="flowers",
    task="classification",
    engine="sklearn",
    engine_settings={},
    features=(Column(name="petal", kind="number"),),
    target=Column(name="kind", kind="category", categories=("rose", "tulip")),
    threshold=None,
    environment="e" * 64,
    files={},
)
BUNDLE = Bundle(id="b" * 64, app="flowers", manifest=MANIFEST, artifact="a" * 64, equivalence={})


class Process:
    """A process that says it answers, and ends when told; its pid is our own, which is surely alive."""

    pid = os.getpid()
    isolation = "none"

    def __init__(self):
        self.status = None

    def messages(self):
        if self.status is None:
            yield Message(progress=Progress(done=1, total=1))
        else:
            yield Message(failure=Failure(error="UnavailableError", what="'rep' ran out of memory"))

    def poll(self):
        return self.status

    def stop(self, grace_seconds=10.0):
        self.status = self.status if self.status is not None else -15
        return self.status


class Replicas:
    """Starts what is asked for and remembers it."""

    def __init__(self):
        self.started = []

    def address(self, replica_id):
        return f"/nowhere/{replica_id}"

    def start(self, replica_id, bundle, team):
        self.started.append(Process())
        return self.started[-1]

    def forget(self, replica_id):
        return None


class Launcher:
    """Finds nothing to adopt."""

    def adopt(self, pid, started_at):
        return None


class Admission:
    """Lets every deployment serve: admission itself is tested elsewhere."""

    def __init__(self, bundle):
        self.bundle = bundle

    def serve(self, deployment):
        return self.bundle


class Full(SqliteCatalogue):
    """A catalogue on a disk that can be full."""

    full = False

    def act(self, act):
        if self.full:
            raise UnavailableError("the disk is full")
        return super().act(act)


class World:
    def __init__(self, folder, replicas=None, bundle=BUNDLE):
        self.clock = AutoClock()
        self.catalogue = Full(folder / "hall.db", self.clock)
        self.replicas = replicas or Replicas()
        self.published = []
        self.confirmed, self.teams = [], {}
        deployment = Deployment(
            id="dep_1",
            app="flowers",
            team="main",
            version="flowers@1.0.0",
            bundle=bundle.id,
            verdict="v",
            state="live",
            num_replicas=1,
            protocols=("predict",),
            drain_seconds=1.0,
            opened_at_ns=1,
            quota=Quota(rate_per_s=7.0),
            cache_seconds=3.0,
        )
        changes = (Change(new=bundle), Change(new=deployment))
        self.catalogue.act(Act(kind="deployment.opened", actor="test", app="flowers", body={}, changes=changes))
        self.reconciler = Reconciler(
            self.catalogue,
            Admission(bundle),
            self.replicas,
            Launcher(),
            self.clock,
            publish=self.published.append,
            acknowledged=lambda: self.published[-1].revision if self.published else 0,
            decisions=DecisionLog(Telemetry(folder / "telemetry.db")),
            integrate=lambda: None,
            manifests=lambda bundle, _team: bundle.manifest,
            confirm=lambda revision, now_ns: self.confirmed.append((revision, now_ns)),
            teams=lambda: self.teams,
            num_gateways=2,
        )

    @property
    def running(self):
        return [process for process in self.replicas.started if process.poll() is None]

    def states(self):
        return [replica.state for replica in self.catalogue.find(Replica)]

    def settle(self):
        """Do rounds until one finds nothing to do; a thread that waits for readiness may need a glance."""
        for _ in range(200):
            if not self.reconciler.tick() and "starting" not in self.states():
                return
            self.clock.advance(1.0)
            self.reconciler._news.wait(0.02)
        raise AssertionError("it never comes to rest")


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.catalogue.full = False
    made.reconciler.stop()
    made.catalogue.close()


def test_a_live_deployment_gets_its_replica_and_its_route(world):
    world.settle()
    assert (world.states(), len(world.running)) == (["ready"], 1)
    (route,) = world.catalogue.get(RouteTable, TABLE_ID).routes
    assert (route.app, len(route.replicas)) == ("flowers", 1)
    assert world.published[-1].outline().routes == (route,)
    assert (route.quota, route.cache_seconds) == (Quota(rate_per_s=7.0), 3.0)
    assert world.published[-1].num_gateways == 2


def test_a_rule_that_changes_is_published_with_the_routes_of_before(world):
    world.settle()
    before = world.published[-1]
    world.teams = {"red": TeamRule(weight=2.0)}
    world.settle()
    after = world.published[-1]
    assert (after.teams, after.routes, after.revision) == (world.teams, before.routes, before.revision + 1)
    world.settle()
    assert world.published[-1] is after, "once"


def test_keys_are_confirmed_once_a_minute_and_only_while_the_catalogue_can_be_read(world):
    world.settle()
    world.confirmed.clear()
    world.clock.advance(61.0)
    assert [world.reconciler.tick() for _ in range(3)] == [False] * 3
    assert world.confirmed == [(world.published[-1].revision, world.clock.now_ns())]
    world.clock.advance(61.0)
    find, world.catalogue.find = world.catalogue.find, None
    with pytest.raises(TypeError):
        world.reconciler.tick()
    assert len(world.confirmed) == 1, "what cannot be read is not confirmed"
    world.catalogue.find = find
    world.reconciler.tick()
    assert len(world.confirmed) == 2


def test_a_table_that_is_not_published_yet_is_not_confirmed(world):
    world.settle()
    world.confirmed.clear()
    world.clock.advance(61.0)
    world.teams = {"red": TeamRule(weight=2.0)}
    publish = world.reconciler._publish
    world.reconciler._publish = lambda _table: (_ for _ in ()).throw(UnavailableError("no room"))
    with pytest.raises(UnavailableError):
        world.reconciler.tick()
    assert world.confirmed == []
    world.reconciler._publish = publish
    world.settle()
    assert world.confirmed[0][0] == world.published[-1].revision


def test_a_full_disk_leaves_no_replica_that_nobody_counts(world):
    world.catalogue.full = True
    for _ in range(5):
        with pytest.raises(UnavailableError):
            world.reconciler.tick()
        assert world.running == []
    world.catalogue.full = False
    world.settle()
    assert (world.states(), len(world.running)) == (["ready"], 1)


def test_a_death_on_a_full_disk_is_mended_once_there_is_room(world):
    world.settle()
    world.running[0].status = -9
    world.catalogue.full = True
    for _ in range(3):
        with pytest.raises(UnavailableError):
            world.reconciler.tick()
    assert world.states() == ["ready"], "what could not be written is not lost from sight"
    world.catalogue.full = False
    world.settle()
    assert (sorted(world.states()), len(world.running)) == (["gone", "ready"], 1)


def test_why_a_replica_died_is_told_until_another_answers_which_waits_a_moment(world):
    world.settle()
    world.running[0].status = -9
    world.reconciler.tick()
    assert world.reconciler.problems() == ("dep_1: 'rep' ran out of memory",)
    world.clock.advance(0.4)
    world.reconciler.tick()
    assert world.running == [], "a replica that dies at once must not keep the machine busy with its starts"
    world.clock.advance(0.2)
    world.settle()
    assert (len(world.running), world.reconciler.problems()) == (1, ())


def test_one_that_answers_and_dies_over_and_over_is_started_ever_more_seldom(world):
    waits = []
    for _ in range(4):
        world.settle()
        world.running[0].status = -11
        world.reconciler.tick()
        died_ns = world.clock.monotonic_ns()
        while not world.running:
            world.clock.advance(0.1)
            world.reconciler.tick()
        waits.append(round((world.clock.monotonic_ns() - died_ns) / 1e9, 1))
    assert waits == [0.5, 1.0, 2.0, 4.0]
    for _ in range(2):  # the state is kept round by round, from the first in which it answers
        world.settle()
        world.clock.advance(61.0)
    world.running[0].status = -11
    world.reconciler.tick()
    world.clock.advance(0.6)
    world.reconciler.tick()
    assert len(world.running) == 1, "what went well for a minute is well"


def test_a_readiness_that_could_not_be_written_is_written_later(world):
    world.reconciler.tick()
    assert world.reconciler._news.wait(10)
    world.catalogue.full = True
    with pytest.raises(UnavailableError):
        world.reconciler.tick()
    world.catalogue.full = False
    world.settle()
    assert (world.states(), len(world.running)) == (["ready"], 1)


def test_a_replica_that_is_to_stop_does_not_become_ready_again(world):
    world.reconciler.tick()
    assert world.reconciler._news.wait(10)
    (replica,) = world.catalogue.find(Replica)
    world.reconciler._mark(replica.id, "draining")
    world.reconciler._greet()
    assert world.states() == ["draining"]


def test_a_table_that_could_not_be_published_is_published_later(world):
    world.settle()
    revision, published = world.published[-1].revision, world.reconciler._publish

    def refuse(table):
        raise UnavailableError("the route table is too large")

    _, key = issue_key(name="ci", principal="ci", team="main", scopes=("predict",), clock=world.clock)
    world.catalogue.act(Act(kind="key.issued", actor="test", body={}, changes=(Change(new=key),)))
    world.reconciler._publish = refuse
    for _ in range(3):  # it is said for as long as it lasts, and written down once
        with pytest.raises(UnavailableError, match="too large"):
            world.reconciler.tick()
    assert world.catalogue.get(RouteTable, TABLE_ID).revision == revision + 1
    assert world.published[-1].revision == revision
    world.reconciler._publish = published
    world.settle()
    assert world.published[-1].outline() == world.catalogue.get(RouteTable, TABLE_ID)
    assert list(world.published[-1].keys) == [key.sha256]


def test_its_thread_survives_what_a_full_disk_raises(world):
    publish = world.reconciler._publish

    def fail(_table):
        raise OSError(28, "No space left on device")

    world.reconciler._publish = fail
    world.reconciler.start()
    for _ in range(500):
        if world.reconciler.problems():
            break
        world.reconciler._ending.wait(0.02)
    assert "routes" in world.reconciler.problems()[0]
    assert world.reconciler._thread.is_alive()
    world.reconciler._publish = publish
    world.reconciler._news.set()
    for _ in range(500):
        if (world.states(), world.reconciler.problems()) == (["ready"], ()):
            break
        world.reconciler._ending.wait(0.02)
    assert (world.states(), world.reconciler.problems()) == (["ready"], ())


def test_its_thread_survives_an_error_that_nobody_foresaw(world):
    acknowledged = world.reconciler._acknowledged
    world.reconciler._acknowledged = lambda: {}["revision"]
    world.reconciler.start()
    for _ in range(500):
        if world.reconciler.problems():
            break
        world.reconciler._ending.wait(0.02)
    assert world.reconciler.problems() == ("routes: KeyError('revision')",)
    world.reconciler._acknowledged = acknowledged
    world.reconciler._news.set()
    for _ in range(500):
        if world.states() == ["ready"]:
            break
        world.reconciler._ending.wait(0.02)
    assert (world.states(), world.reconciler.problems()) == (["ready"], ())
