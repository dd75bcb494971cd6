"""The replace rollout loses no request, whatever dies when: laws over simulated halls."""

from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.rollout import (
    LAST_RETRY_S,
    DeploymentView,
    ReplicaEnded,
    ReplicaView,
    Retry,
    Rollout,
    RolloutView,
    Routed,
    Tick,
    _after_failure,
    decide,
)


def deployment(id="dep_1", state="live", num_replicas=1, app="a"):
    return DeploymentView(id=id, app=app, state=state, num_replicas=num_replicas)


def replica(id, deployment="dep_1", state="ready"):
    return ReplicaView(id=id, deployment=deployment, state=state)


def view(deployments, replicas=(), routed=(), revision=1, acknowledged=1):
    return RolloutView(
        deployments=tuple(deployments),
        replicas=tuple(replicas),
        routed=tuple(routed),
        revision=revision,
        acknowledged=acknowledged,
    )


def act(view, state=None, event=None, now=0):
    return decide(state or {}, view, event or Tick(), now, 0.0)


def test_missing_replicas_are_started():
    _, rollout, reason = act(view([deployment(num_replicas=2)], [replica("r1", state="starting")]))
    assert rollout == Rollout(start=("dep_1",))
    assert reason == "1 replica(s) missing"


def test_a_newcomer_gets_traffic_only_when_all_its_replicas_are_ready():
    two = deployment(num_replicas=2)
    _, waiting, _ = act(view([two], [replica("r1"), replica("r2", state="starting")]))
    _, whole, _ = act(view([two], [replica("r1"), replica("r2")]))
    assert waiting.routes is None
    assert whole.routes == (Routed(app="a", deployment="dep_1", replicas=("r1", "r2")),)


def test_the_old_one_keeps_its_traffic_until_the_new_one_is_ready_and_goes_only_after_every_gateway_knows():
    old, new = deployment("dep_1", state="retired"), deployment("dep_2")
    routed_old = Routed(app="a", deployment="dep_1", replicas=("r1",))
    routed_new = Routed(app="a", deployment="dep_2", replicas=("r2",))
    both = [replica("r1", "dep_1"), replica("r2", "dep_2")]

    _, before, _ = act(view([old, new], [both[0], replica("r2", "dep_2", "starting")], [routed_old]))
    _, switch, _ = act(view([old, new], both, [routed_old]))
    _, unknown, _ = act(view([old, new], both, [routed_new], revision=2, acknowledged=1))
    _, known, _ = act(view([old, new], both, [routed_new], revision=2, acknowledged=2))

    assert before == Rollout()
    assert switch == Rollout(routes=(routed_new,))
    assert unknown == Rollout()
    assert known == Rollout(stop=("r1",))


def test_replicas_that_keep_dying_are_restarted_with_growing_patience():
    state, rollout, _ = act(view([deployment()]), event=ReplicaEnded(deployment="dep_1"), now=0)
    assert rollout.start == ()
    assert state == {"dep_1": Retry(num_failures=1, not_before_ns=500_000_000)}
    state, rollout, _ = act(view([deployment()]), state, now=500_000_000)
    assert rollout.start == ("dep_1",)
    for _ in range(20):
        state, _, _ = act(view([deployment()]), state, ReplicaEnded(deployment="dep_1"), now=0)
    assert state["dep_1"].not_before_ns == 30_000_000_000


S = 1_000_000_000


def test_failures_are_forgotten_once_all_replicas_have_been_ready_for_a_minute_without_a_break():
    state = {"dep_1": Retry(num_failures=3, not_before_ns=5)}
    two, one, both = deployment(num_replicas=2), [replica("r1")], [replica("r1"), replica("r2")]
    for now, replicas, since in (
        (10, one, None),
        (500, one, None),
        (510, both, 510),
        (569, both, 510),
        (569.5, one, None),
        (580, both, 580),
        (639, both, 580),
    ):
        state, _, _ = act(view([two], replicas), state, now=int(now * S))
        since_ns = None if since is None else since * S
        assert state == {"dep_1": Retry(num_failures=3, not_before_ns=5, whole_since_ns=since_ns)}, now
    state, _, _ = act(view([two], both), state, now=640 * S)
    assert state == {}


def waits_s(lives_s, num_deaths=12):
    """Return how long each start waits of a deployment whose only replica is ready at once and dies after so long."""
    state, now, waits = {}, 0, []
    for _ in range(num_deaths):
        for _ in range(int(lives_s)):
            now += S
            state, _, _ = act(view([deployment()], [replica("r1")]), state, now=now)
        died = now
        state, rollout, _ = act(view([deployment()]), state, ReplicaEnded(deployment="dep_1"), now)
        while rollout.start == ():
            now += S // 2
            state, rollout, _ = act(view([deployment()]), state, now=now)
        waits.append((now - died) / S)
    return waits


def test_one_that_becomes_ready_and_dies_again_and_again_waits_longer_each_time():
    assert waits_s(lives_s=5) == [0.5, 1, 2, 4, 8, 16, *[30] * 6]
    assert waits_s(lives_s=55)[-1] == 30


def test_one_that_dies_once_in_a_while_starts_again_at_once():
    assert waits_s(lives_s=62) == [0.5] * 12


@given(st.lists(st.tuples(st.sampled_from(["ready", "die", "tick"]), st.integers(0, 40)), max_size=60))
def test_no_failure_is_forgotten_unless_a_minute_went_by_without_another(steps):
    """Starts keep to the wait that was told, and each death since the last good minute makes the next wait longer."""
    state, replicas, now, since, num_deaths = {}, [], 0, None, 0
    for event, seconds in steps:
        now += seconds * S
        happened = Tick()
        if event == "ready":
            replicas = [replica(r.id) for r in replicas]
        elif event == "die" and replicas:
            replicas, happened, num_deaths = [], ReplicaEnded(deployment="dep_1"), num_deaths + 1
        before = state.get("dep_1")
        state, rollout, _ = act(view([deployment()], replicas), state, happened, now)
        since = (now if since is None else since) if [r.state for r in replicas] == ["ready"] else None
        if since is not None and now - since >= 60 * S:
            num_deaths = 0
        retry = state.get("dep_1")
        assert (retry.num_failures if retry else 0) == num_deaths
        if happened != Tick():
            assert (retry.not_before_ns - now) / S == min(0.5 * 2 ** (num_deaths - 1), 30)
        if rollout.start:
            assert before is None or before.not_before_ns <= now
            replicas = [replica("r1", state="starting")]


@given(
    st.lists(st.sampled_from(["new", "ready", "die", "ack", "tick"]), max_size=60),
    st.integers(min_value=1, max_value=3),
)
def test_whatever_happens_no_gateway_is_ever_sent_to_a_replica_that_was_stopped(events, num_replicas):
    """A simulated hall: replicas stop only when no table that a gateway may still follow names them."""
    deployments, replicas, routed, state = [], {}, (), {}
    tables, acknowledged, now, serial = [()], 0, 0, 0
    for event in events:
        now += 60_000_000_000
        happened = Tick()
        if event == "new":
            deployments = [
                DeploymentView(id=d.id, app="a", state="retired", num_replicas=d.num_replicas) for d in deployments
            ]
            deployments.append(deployment(f"dep_{len(deployments):03}", num_replicas=num_replicas))
        elif event == "ready":
            replicas = {k: ReplicaView(id=k, deployment=r.deployment, state="ready") for k, r in replicas.items()}
        elif event == "die" and replicas:
            gone = replicas.pop(min(replicas))
            happened = ReplicaEnded(deployment=gone.deployment)
        elif event == "ack":
            acknowledged = len(tables) - 1
        seen = view(deployments, replicas.values(), routed, len(tables) - 1, acknowledged)
        state, rollout, _ = decide(state, seen, happened, now, 0.0)
        assert decide(state, seen, Tick(), now, 0.0) == decide(state, seen, Tick(), now, 0.0)
        for wanted in rollout.start:
            serial += 1
            replicas[f"r{serial:04}"] = replica(f"r{serial:04}", wanted, "starting")
        followed = {r for table in tables[acknowledged:] for line in table for r in line.replicas}
        assert not followed & set(rollout.stop)
        for stopped in rollout.stop:
            del replicas[stopped]
        if rollout.routes is not None:
            routed = rollout.routes
            tables.append(routed)
        assert (
            len([r for r in replicas.values() if r.deployment == (deployments or [deployment()])[-1].id])
            <= num_replicas
        )


def test_nothing_is_remembered_of_a_deployment_that_is_gone():
    """Or the state, which is logged with each decision, would grow for as long as the hall lives."""
    known, gone = Retry(num_failures=1, not_before_ns=9), Retry(num_failures=3, not_before_ns=9)
    state, _, _ = act(view([deployment("dep_2")]), {"dep_2": known, "dep_1": gone}, now=1)
    assert state == {"dep_2": known}


def test_one_that_dies_again_and_again_for_days_waits_as_long_as_the_longest():
    assert _after_failure(Retry(num_failures=5_000, not_before_ns=0), 0).not_before_ns == int(LAST_RETRY_S * 1e9)
