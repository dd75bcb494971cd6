"""The clock on the wall jumps by an hour or ten years, or stands still: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace

import httpx
import pytest

from datahall.app import wiring
from datahall.app.collection import Collector
from datahall.app.control import Control
from datahall.app.http.api import make_api
from datahall.app.owner import ensure_owner
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.leases import Leases
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import FencedError, UnauthenticatedError
from datahall.core.hall import HallPaths
from datahall.core.records import Act, ApiKey, Change, Lease, Replica, Step
from datahall.ledger.sequencer import Sequencer
from datahall.ledger.verify import verify_hall
from datahall.security.access import authenticate, issue_key, key_grants
from datahall.security.keys import KeyRing
from datahall.serve.cached import AnswerCache
from datahall.serve.config import GatewayConfig
from datahall.serve.recording import Recorder
from datahall.serve.segments import read_segment, segment_files
from datahall.testing.answers import some_answer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from tests.app.test_reconciler import World as Reconciled
from tests.torture.control_main import TEAM, Operations, content

HOUR_S, YEARS_S = 3600, 10 * 365 * 86_400
JUMPS = {
    "an hour on": HOUR_S,
    "an hour back": -HOUR_S,
    "ten years on": YEARS_S,
    "ten years back": -YEARS_S,
    "frozen": 0,
}
TTL_S, BEAT_S = 10.0, 2.5


@pytest.fixture(params=JUMPS)
def jump(request):
    """A function that sets a clock as this test's parameter says; `back` is whether that is into the past."""

    def set_clock(clock):
        clock.frozen = request.param == "frozen"
        clock.jump(JUMPS[request.param])

    set_clock.seconds = JUMPS[request.param]
    return set_clock


@pytest.fixture
def hall(tmp_path):
    clock = AutoClock()
    keys = KeyRing.open(tmp_path / "keys", create=True)
    catalogue = SqliteCatalogue(tmp_path / "hall.db", clock, entry_key=keys.entry_key)
    ensure_owner(catalogue, keys, clock)
    yield SimpleNamespace(
        catalogue=catalogue,
        clock=clock,
        keys=keys,
        paths=SimpleNamespace(root=tmp_path),
        sequencer=Sequencer(catalogue, keys.signer, "datahall/test", clock),
    )
    catalogue.close()


def test_acts_keep_their_order_and_their_tree(hall, jump):
    ids = []
    for number in range(6):
        declare(hall.catalogue, app(f"a{number}"))
        text, key = issue_key(name="k", principal="k", team=TEAM, scopes=("read",), clock=hall.clock)
        del text
        ids.append(key.id)
        hall.catalogue.act(Act(kind="key.issued", actor="t", changes=(Change(new=key),)))
        if number in {1, 3}:
            jump(hall.clock)
        hall.sequencer.flush()
        hall.clock.advance(1)
    entries = hall.catalogue.entries()
    assert [entry.seq for entry in entries] == list(range(13))
    assert len(set(ids)) == 6
    report = verify_hall(hall.catalogue.path, hall.keys.signer.public_key)
    assert (report.problems, report.size) == ([], 13)


def holders(clock, catalogue, make=Leases):
    """Return two holders who compete over one catalogue."""
    return [make(catalogue.transact, catalogue._sql, clock) for _ in range(2)]


def beaten(clock, mine, theirs, jump, name):
    """Let `mine` beat for a minute while `theirs` tries, with a jump in the middle; return what `theirs` ever got."""
    got = []
    for number in range(24):
        mine.beat()
        clock.advance(BEAT_S)
        if number == 12:
            jump(clock)
        got.append(theirs.acquire(name, ttl_s=TTL_S))
    return [lease for lease in got if lease is not None]


def test_a_lease_is_neither_lost_nor_held_twice(hall, jump):
    mine, theirs = holders(hall.clock, hall.catalogue)
    lease = mine.acquire("work", ttl_s=TTL_S)
    assert beaten(hall.clock, mine, theirs, jump, "work") == []
    declare_under(hall, lease, "still mine")
    for _ in range(3):  # my heart stands still: soon it is theirs, by the monotonic clock alone
        hall.clock.advance(BEAT_S)
        assert theirs.acquire("work", ttl_s=TTL_S) is None
    jump(hall.clock)
    hall.clock.advance(TTL_S)
    taken = theirs.acquire("work", ttl_s=TTL_S)
    assert (taken.holder, taken.token) == (theirs.holder, lease.token + 1)
    with pytest.raises(FencedError):
        declare_under(hall, lease, "not mine")
    declare_under(hall, taken, "theirs")


def declare_under(hall, lease, name):
    change = Change(new=app(name))
    hall.catalogue.act(Act(kind="app.declared", actor="t", changes=(change,), fence=lease))


class WallLeases:
    """The control: leases that expire by the clock on the wall, as many do."""

    def __init__(self, transact, _sql, clock):
        self.table = transact.__self__.__dict__.setdefault("wall_leases", {})  # one table for all holders
        self._clock, self.holder = clock, str(id(self))

    def acquire(self, name, *, ttl_s):
        now_s = self._clock.now_ns() / 1e9
        holder, until_s = self.table.get(name, ("", 0.0))
        if holder not in {"", self.holder} and now_s < until_s:
            return None
        self.table[name] = (self.holder, now_s + ttl_s)
        return Lease(name=name, holder=self.holder, token=1)

    def beat(self):
        now_s = self._clock.now_ns() / 1e9
        for name, (holder, _) in self.table.items():
            if holder == self.holder:
                self.table[name] = (holder, now_s + TTL_S)


def test_a_lease_that_expires_by_the_wall_s_clock_is_held_twice(hall):
    """The control: whose heart beats all the time loses its lease to a clock that was set an hour on."""
    mine, theirs = holders(hall.clock, hall.catalogue, WallLeases)
    assert mine.acquire("work", ttl_s=TTL_S) is not None
    assert beaten(hall.clock, mine, theirs, lambda clock: clock.jump(HOUR_S), "work") != []


def test_a_key_expires_by_the_wall_s_clock_and_a_revoked_one_never_comes_back(hall, jump):
    clock, catalogue = hall.clock, hall.catalogue
    clock.advance(10)
    text, key = issue_key(name="k", principal="k", team=TEAM, scopes=("read",), clock=clock, lifetime_s=600)
    revoked_text, other = issue_key(name="r", principal="r", team=TEAM, scopes=("read",), clock=clock)
    for each in (key, other):
        catalogue.act(Act(kind="key.issued", actor="t", changes=(Change(new=each),)))
    Control(hall).revoke_key(other.id)
    jump(clock)

    def holds(text):
        try:
            authenticate(text, key_grants(catalogue.find(ApiKey), clock.now_ns()), clock.now_ns())
        except UnauthenticatedError:
            return False
        return True

    assert holds(text) == (jump.seconds <= 0)
    assert not holds(revoked_text)
    clock.advance(600)  # a frozen wall keeps it, one that was set back has not come there yet
    assert holds(text) == (jump.seconds < 0 or clock.frozen)
    assert not holds(revoked_text)


def test_garbage_keeps_its_grace(hall, jump):
    blobs = MemoryBlobStore()
    vault = Vault(hall.catalogue, blobs, hall.keys)
    declare(hall.catalogue, app(team=TEAM))
    digest, changes = vault.store(TEAM, b"kept", "text/plain")
    hall.catalogue.act(Act(kind="step.completed", actor="t", changes=changes))
    blobs.put(b"orphan", team=TEAM)
    collector = Collector(hall.catalogue, blobs, hall.catalogue.leases, hall.clock, grace_s=60)
    assert collector.collect() == 0
    jump(hall.clock)
    hall.clock.advance(59)
    assert collector.collect() == 0
    hall.clock.advance(2)
    assert collector.collect() == 1
    assert vault.read(TEAM, digest) == b"kept"


def test_a_call_is_remembered(hall, jump):
    api = make_api(Control(hall), hall.catalogue, hall.clock)
    headers = {"Authorization": f"Bearer {hall.keys.owner_key}", "Idempotency-Key": "one"}

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://control") as client:
            said = {"name": "ci", "scopes": ["predict"]}
            return (await client.post("/api/v1/keys", json=said, headers=headers)).content

    first = asyncio.run(ask())
    jump(hall.clock)
    hall.catalogue.take_over()  # as a new holder does, who also forgets the oldest calls
    assert asyncio.run(ask()) == first
    hall.clock.advance(86_400)
    assert asyncio.run(ask()) == first
    assert [entry.kind for entry in hall.catalogue.entries()].count("key.issued") == 1


def test_the_answer_log_goes_on_sealing_and_loses_nothing(tmp_path, jump):
    clock = AutoClock()
    config = GatewayConfig(
        gateway="g1",
        control_address="",
        routes="",
        answers=str(tmp_path),
        runtime="",
        answer_key=bytes(32),
        routes_key=bytes(32),
        route_keys={},
    )
    recorder = Recorder(config, clock, AnswerCache(config.cache_bytes, log=None))
    for number in range(6):
        recorder._log.append([_answer(recorder._log.next_sequence, clock)])
        if number == 2:
            jump(clock)
        clock.advance(61)
        asyncio.run(recorder.tick())
    recorder.close()
    files = segment_files(tmp_path)
    assert [answer.sequence for file in files for answer in read_segment(file, config.answer_key).answers] == list(
        range(6)
    )
    assert len(files) == 6, "each was sealed after its minute"


def _answer(sequence, clock):
    return some_answer(sequence, at_ns=clock.now_ns())


def test_a_replica_that_died_is_started_again_once_and_soon(tmp_path, jump):
    world = Reconciled(tmp_path)
    try:
        world.settle()
        world.running[0].status = -9
        world.reconciler.tick()
        jump(world.clock)
        world.clock.advance(1.0)
        world.settle()
        assert len(world.running) == 1
        assert Counter(replica.state for replica in world.catalogue.find(Replica)) == {"gone": 1, "ready": 1}
    finally:
        world.reconciler.stop()
        world.catalogue.close()


def test_a_step_that_was_cut_off_is_done_once_and_a_done_one_never_again(tmp_path, jump, monkeypatch):
    for name, folder in (("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "r")):
        (tmp_path / folder).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(tmp_path / folder))
    paths, clock = HallPaths(tmp_path / "hall"), AutoClock()
    with wiring.open_hall(paths, clock) as hall:
        control = Control(hall)
        control.recover()
        first = Operations(hall, control).job({"app": "a", "step": "s1", "call": "1"}, None)
        cut = Step(id="s2", app="a", stage="data", name="", state="running", outputs={}, started_at_ns=clock.now_ns())
        hall.catalogue.act(Act(kind="step.started", actor="t", changes=(Change(new=cut),)))
        jump(clock)
    jump(clock)
    with wiring.open_hall(paths, clock) as hall:
        control = Control(hall)
        control.recover()
        assert hall.catalogue.get(Step, "s2").state == "interrupted"
        operations = Operations(hall, control)
        for step in ("s1", "s2", "s2"):
            operations.job({"app": "a", "step": step, "call": step}, None)
        done = Counter(
            mark.id
            for entry in hall.catalogue.entries()
            if entry.kind == "step.completed"
            for mark in entry.touched
            if mark.kind == "step"
        )
        assert done == {"s1": 1, "s2": 1}
        assert hall.vault.read(TEAM, first["digest"]) == content("s1")
        hall.sequencer.flush()
        key = hall.keys.signer.public_key
    assert verify_hall(paths.db, key).problems == []
