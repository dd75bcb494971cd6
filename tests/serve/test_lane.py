"""A lane against replicas that die, hang, slow, fail and come back, in every order, on a virtual clock."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.app.replay import Replayer
from datahall.core.errors import DatahallError, UnavailableError, UserError
from datahall.policy import health, retry
from datahall.serve.decisions import DecisionFiles, decision_files, read_decision_file
from tests.serve.virtual import MS, S, World


def faults(world):
    return {
        "killed": lambda link: link.kill(),
        "stopped": lambda link: setattr(link, "stopped", True),
        "slowed": lambda link: setattr(link, "ratio", 10.0),
        "failing": lambda link: setattr(link, "error", lambda _: DatahallError("the device is broken")),
    }


@pytest.mark.parametrize("place", [None, 1], ids=["alone", "its own"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", ["killed", "stopped", "slowed", "failing"])
def test_a_faulty_replica_costs_nobody_an_answer_and_is_out_within_three_seconds(fault, seed, place):
    world = World(seed=seed, place=place)
    world.load(2.0)
    assert world.lane.serving == ("a", "b", "c")
    faults(world)[fault](world.links["b"])
    began = world.timers.ns
    clients = world.load(3.0)
    assert world.lane.serving == ("a", "c")
    ejected = [decision[4] - began for decision in world.decisions if decision[7] == "eject"]
    assert fault == "killed" or 0 <= ejected[0] <= 3 * S
    world.settle()
    assert world.failed() == []
    assert world.waited_ms(clients) < 500
    assert world.lane.num_open == 0


@pytest.mark.parametrize("fault", ["killed", "stopped", "failing"])
def test_without_retries_a_faulty_replica_would_cost_answers(fault, monkeypatch):
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 1)
    failed = 0
    for seed in range(5):
        world = World(seed=seed)
        world.load(2.0)
        world.timers.run(1 * MS)
        faults(world)[fault](world.links["b"])
        clients = world.load(3.0)
        failed += len(world.failed(clients))
    assert failed > 0


@pytest.mark.parametrize("fault", ["slowed", "failing"])
def test_without_ejection_a_faulty_replica_would_stay(fault, monkeypatch):
    monkeypatch.setattr(health, "NUM_SLOW", 10**9)
    monkeypatch.setattr(health, "NUM_FAILURES", 10**9)
    monkeypatch.setattr(health, "hang_ns", lambda _: 10**18)
    world = World()
    world.load(2.0)
    faults(world)[fault](world.links["b"])
    world.load(3.0)
    assert world.lane.serving == ("a", "b", "c")


@pytest.mark.parametrize("fault", ["killed", "stopped", "slowed", "failing"])
def test_it_returns_once_it_is_well(fault):
    world = World()
    world.load(2.0)
    link = world.links["b"]
    faults(world)[fault](link)
    world.load(3.0)
    link.kill()
    link.revive()
    num_before = len(link.batches)
    world.load(8.0)
    assert world.lane.serving == ("a", "b", "c")
    assert len(link.batches) > num_before + 20
    assert [decision[7] for decision in world.decisions][-2:] == ["try", "return"] or fault == "killed"
    world.settle()
    assert world.failed() == []


def test_the_last_replica_is_used_however_bad_it_is():
    world = World(1)
    world.load(1.0)
    world.links["a"].ratio = 10.0
    world.load(3.0, every_ms=50)
    world.settle()
    assert world.failed() == []
    assert world.decisions == []


def test_a_late_batch_is_asked_again_and_answered_once():
    world = World(2)
    world.load(2.0, every_ms=20)
    late = next(link for link in world.links.values() if link.ready)
    late.stopped = True
    other = world.links["b" if late.name == "a" else "a"]
    clients = world.load(0.4, every_ms=20)
    late.stopped = False
    world.settle()
    assert {one.replica for one in clients[:3]} <= {other.name, late.name}
    assert world.failed() == []
    assert world.waited_ms(clients) < 100
    assert sum(link.batches.count(1) for link in world.links.values()) > len(world.clients), "some were asked twice"


def test_a_batch_that_was_sent_before_anything_was_known_hides_no_later_one():
    world = World(3)
    for link in world.links.values():
        link.stopped = True
    clients = [world.ask()]
    world.timers.run(MS)
    for link in world.links.values():
        link.stopped = bool(link.batches)
    clients += world.load(0.2, every_ms=20)
    next(link for link in world.links.values() if not link.stopped).stopped = True
    clients += world.load(0.3, every_ms=20)
    assert world.failed(clients[:-1]) == []
    assert world.waited_ms(clients[1:-1]) < 100
    assert clients[0].waited_ns < 200 * MS, "once others are answered, it is known to be late"


@pytest.mark.parametrize("num", [1, 2, 3])
def test_replicas_that_live_and_never_answer_cost_a_client_no_more_than_its_deadline(num):
    world = World(num)
    world.load(0.2)
    world.settle()
    for link in world.links.values():
        link.stopped = True
    clients = [world.ask(patience_ns=2 * S) for _ in range(20)]
    world.timers.run(1 * S)
    clients += [world.ask(patience_ns=2 * S) for _ in range(20)]
    world.timers.run(10 * S)
    assert [len(one.outcomes) for one in clients] == [1] * 40
    assert all(isinstance(one.outcomes[0], UnavailableError) for one in clients)
    assert world.waited_ms(clients) < 2050
    assert world.lane.num_open == 0
    world.lane.close()
    assert all(link.closed for link in world.links.values()), "a lane that has nothing open does not stay for them"


def test_an_answer_after_the_deadline_is_dropped_and_the_replica_is_used_again():
    world = World(1)
    world.links["a"].stopped = True
    late = world.ask(patience_ns=1 * S)
    world.timers.run(2 * S)
    world.links["a"].stopped = False
    world.timers.run(1 * S)
    assert [type(outcome) for outcome in late.outcomes] == [UnavailableError]
    assert world.lane.num_open == 0
    client = world.ask()
    world.settle()
    assert world.failed([client]) == []


def test_hedges_and_retries_stay_within_their_budget():
    world = World(2)
    world.load(1.0)
    world.lane._budget, world.lane._num_new = retry.Budget(0.0, world.timers.ns), 0
    for link in world.links.values():
        link.error = lambda _: DatahallError("the device is broken")
    began = world.timers.ns
    sent = -sum(sum(link.batches) for link in world.links.values())
    clients = world.load(5.0)
    sent += sum(sum(link.batches) for link in world.links.values())
    seconds = (world.timers.ns - began) / S
    assert 10 < sent - len(clients) <= retry.RATIO * len(clients) + retry.PER_S * seconds + 1
    world.settle()
    assert all(len(one.outcomes) == 1 for one in world.clients)


def test_one_bad_call_is_the_only_one_that_fails():
    world = World(1)
    world.links["a"].error = lambda x: UserError("no") if (x == 3).any() else None
    world.ask(0.0)
    world.timers.run(MS)
    clients = [world.ask(float(x)) for x in range(1, 6)]
    world.settle()
    assert world.failed() == [clients[2]]
    assert isinstance(clients[2].outcomes[0], UserError)


@pytest.mark.parametrize("num", [1, 2])
def test_a_model_that_fails_on_one_call_is_asked_for_the_others_alone(num):
    world = World(num)
    for link in world.links.values():
        link.error = lambda x: DatahallError("the model failed") if (x == 3).any() else None
        link.stopped = True
    first = [world.ask(0.0, num_rows=256) for _ in range(num)]
    world.timers.run(MS)
    clients = [world.ask(float(x)) for x in range(1, 6)]
    for link in world.links.values():
        link.stopped = False
    world.settle()
    assert world.failed([*first, *clients]) == [clients[2]]


def test_a_client_that_has_left_is_told_so_and_never_computed_for():
    world = World(1)
    world.ask(0.0)
    world.timers.run(MS)
    gone, here = world.ask(1.0), world.ask(2.0)
    gone.gone = True
    world.settle()
    assert [str(one.outcomes[0]).splitlines()[0] for one in world.clients if one is gone] == ["the client has left"]
    assert world.failed() == [gone]
    assert sum(world.links["a"].batches) == 2
    assert here.outcomes
    assert world.lane.num_open == 0


def test_without_any_replica_calls_are_refused_at_once():
    world = World(2)
    world.ask()
    for link in world.links.values():
        link.kill()
    world.timers.run(MS)
    assert isinstance(world.clients[0].outcomes[0], UnavailableError)
    assert "no replica" in world.ask().outcomes[0].what
    assert not world.lane.ready


def test_a_full_queue_refuses_and_a_deadline_that_cannot_be_met_too():
    world = World(1, max_rows=2, max_requests=6)
    world.load(0.5, every_ms=20)
    world.links["a"].stopped = True
    clients = [world.ask() for _ in range(2)]
    world.timers.run(MS)
    clients += [world.ask() for _ in range(5)]
    late = world.ask(patience_ns=20 * MS)
    assert late.outcomes[0].what == "no answer would come in time"
    clients.append(world.ask())
    assert world.lane.full
    assert world.ask().outcomes[0].what == "too many requests are waiting"
    world.links["a"].stopped = False
    world.settle()
    assert world.failed(clients) == []


def test_batches_are_no_larger_than_most_replicas_want_them():
    world = World(3)
    for link, max_rows in zip(world.links.values(), (0, 4, 16), strict=True):
        link.max_rows = max_rows
        link.kill()
        link.revive()
    for x in range(24):
        world.ask(float(x))
    world.settle()
    assert world.failed() == []
    assert {rows for link in world.links.values() for rows in link.batches} == {4}


def answered_by(place):
    """By whom a client's lone requests are answered after the first ones, how often each."""
    world = World(2, place=place)
    world.load(1.0)
    clients = world.load(2.0, every_ms=20.0)
    world.settle()
    return Counter(client.replica for client in clients)


def test_each_of_several_gateways_asks_another_replica_first():
    assert answered_by(0)["a"] > 90
    assert answered_by(1)["b"] > 90
    assert answered_by(3)["b"] > 90, "with more gateways than replicas they share"


def test_control_a_gateway_that_is_alone_has_none_of_its_own():
    assert answered_by(None)["b"] < 10, "equals go by id"


def test_a_retired_replica_answers_what_it_has_and_is_closed():
    world = World(2)
    for link in world.links.values():
        link.stopped = True
    clients = [world.ask(float(x)) for x in range(2)]
    world.timers.run(MS)
    clients.append(world.ask(2.0))
    world.timers.run(MS)
    world.lane.keep(world.route(world.replicas[1:]))
    assert not world.links["a"].closed, "it is busy"
    for link in world.links.values():
        link.stopped = False
    world.settle()
    assert world.links["a"].closed
    assert not world.links["b"].closed
    assert world.failed() == []
    world.lane.keep(world.route(()))
    assert world.links["b"].closed


def test_a_retired_replica_that_hangs_is_not_waited_for():
    world = World(2)
    world.load(1.0)
    world.links["a"].stopped = world.links["b"].stopped = True
    clients = [world.ask(), world.ask(num_rows=256)]
    world.timers.run(2 * MS)
    world.lane.keep(world.route(world.replicas[1:]))
    world.links["b"].stopped = False
    clients += world.load(2.5)
    assert world.failed(clients[:2]) == []
    world.links["a"].kill()
    assert world.links["a"].closed


def test_a_lane_that_closes_answers_first():
    world = World(2)
    clients = [world.ask(float(x), num_rows=200) for x in range(5)]
    world.timers.run(MS)
    world.lane.close()
    assert not any(link.closed for link in world.links.values())
    world.settle()
    assert world.failed(clients) == []
    assert all(link.closed for link in world.links.values())
    assert "no replica" in world.ask().outcomes[0].what, "one that comes too late is refused at once"


def test_a_lane_that_is_aborted_fails_what_is_open():
    world = World(2)
    clients = [world.ask(float(x), num_rows=200) for x in range(5)]
    world.timers.run(MS)
    world.lane.abort()
    world.settle()
    assert world.failed(clients) == clients
    assert all(len(one.outcomes) == 1 for one in clients)
    assert all(link.closed for link in world.links.values())


def test_every_decision_can_be_made_again():
    world = World()
    for name in "abc":
        world.load(1.0)
        for fault in ("slowed", "stopped"):
            faults(world)[fault](world.links[name])
            world.load(2.0)
            world.links[name].kill()
            world.links[name].revive()
            world.load(4.0)
    assert {decision[7] for decision in world.decisions} == {"eject", "try", "return"}
    for policy, state, view, event, now, draw, *result in world.decisions:
        decide = importlib.import_module(f"datahall.policy.{policy}").decide
        assert decide(state, view, event, now, draw) == tuple(result)


steps = st.one_of(
    st.tuples(st.sampled_from(["kill", "revive", "stop", "go", "slow", "fail", "user", "retire"]), st.integers(0, 3)),
    st.tuples(st.just("ask"), st.integers(1, 300)),
    st.tuples(st.just("many"), st.integers(1, 20)),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 7, 30, 400, 2500])),
)


def act(world, what, value):
    link = world.links["abcd"[value % 4]]
    if what in ("kill", "revive"):
        getattr(link, what)()
    elif what in ("stop", "go"):
        link.stopped = what == "stop"
    elif what == "slow":
        link.ratio = 10.0
    elif what in ("fail", "user"):
        kind = DatahallError if what == "fail" else UserError
        link.error = lambda x: kind("no") if (x % 5 == 3).any() else None
    elif what == "retire":
        keep = tuple(one for one in world.lane.route.replicas if one.id != link.name)
        world.lane.keep(world.route(keep))
    elif what in ("ask", "many"):
        for _ in range(value if what == "many" else 1):
            world.ask(float(len(world.clients)), num_rows=value if what == "ask" else 1, patience_ns=3 * S)
    elif what == "leave" and value < len(world.clients):
        world.clients[value].gone = True
    elif what == "wait":
        world.timers.run(value * MS)


@settings(deadline=None)
@given(st.lists(steps, max_size=60), st.integers(0, 9), st.booleans())
def test_in_every_order_of_events_each_call_ends_once_and_nothing_is_left(events, seed, closes):
    world = World(4, seed=seed)
    for what, value in events:
        act(world, what, value)
        assert all(len(one.outcomes) <= 1 for one in world.clients), what
    for link in world.links.values():
        link.stopped = False
    if closes:
        world.lane.close()
    world.settle()
    assert all(len(one.outcomes) == 1 for one in world.clients)
    for one in world.clients:
        outcome = one.outcomes[0]
        assert isinstance(outcome, DatahallError) or (outcome["label"] == one.x * 2).all()
    assert world.lane.num_open == 0
    assert not world.lane._flights
    assert len(world.lane._queue) == 0
    assert all(port.flight is None for port in world.lane._fleet.ports.values())
    if closes:
        assert all(link.closed for link in world.links.values())


@pytest.mark.parametrize("fault", ["killed", "slowed", "failing"])
def test_what_a_gateway_logs_of_a_lane_comes_out_the_same_again(tmp_path, fault):
    files = DecisionFiles(tmp_path, "g1", sample_every=10)
    world = World(files=files)
    world.load(1.0)
    faults(world)[fault](world.links["b"])
    world.load(3.0)
    files.close()
    [path] = decision_files(tmp_path)
    replayer = Replayer()
    replayer.take(read_decision_file(path).decisions, "msgpack", path.name)
    done = replayer.replayed
    assert done.num_same == done.num_decisions
    assert done.num_by_policy.keys() >= {"health", "route"}
    assert "retry" in done.num_by_policy or fault == "slowed", "a lost or failed batch is sent again"


def crowd_of(world, num, seconds):
    """Let `num` clients each ask again as soon as they are answered, for so long."""
    end = world.timers.ns + int(seconds * S)
    clients = [world.ask(float(x)) for x in range(num)]
    while world.timers.ns < end:
        world.timers.run(MS)
        clients = [one if not one.outcomes else world.ask(one.x) for one in clients]


def passed_over(world):
    """Make one replica look slower than its siblings, as a moment of bad luck does; return its name."""
    crowd_of(world, 6, 1.0)
    port = world.lane._fleet.ports["b"]
    for num_rows in (1, 2, 4):
        port.pace.learn(num_rows, 60.0 * MS)
    world.links["b"].ratio = 10.0
    return "b"


@pytest.mark.parametrize("seed", range(5))
def test_one_that_was_slower_once_is_asked_again_and_found_out(seed):
    world = World(seed=seed)
    name = passed_over(world)
    crowd_of(world, 2, 3.0)
    assert name not in world.lane.serving
    world.settle()
    assert world.failed() == []


def test_if_nobody_were_remembered_it_would_never_be_judged(monkeypatch):
    monkeypatch.setattr(health, "NUM_PASSED", 10**9)
    world = World()
    name = passed_over(world)
    num_before = len(world.links[name].batches)
    crowd_of(world, 2, 3.0)
    assert name in world.lane.serving
    assert len(world.links[name].batches) <= num_before + 1


@pytest.mark.parametrize("seed", range(5))
def test_one_whose_first_late_batches_are_not_slow_yet_is_judged_soon(seed):
    world = World(seed=seed)
    crowd_of(world, 6, 1.0)
    world.links["b"].ratio = 3.0
    crowd_of(world, 6, 0.5)
    assert "b" in world.lane.serving
    world.links["b"].ratio = 10.0
    began = world.timers.ns
    crowd_of(world, 6, 3.0)
    assert "b" not in world.lane.serving
    [ejected] = [decision[4] - began for decision in world.decisions if decision[7] == "eject"][:1]
    assert ejected <= 1.5 * S
