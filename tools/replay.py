"""Have policies decide over a simulated time, log every decision as a gateway does, and take each again.

Usage: python tools/replay.py [NUM]   (`make replay`; NUM decisions, 100,000 by default)
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import simulated

from datahall.app.replay import Replayed, Replayer
from datahall.policy import rollout
from datahall.serve.cache import ENTRY_BYTES, ResponseCache
from datahall.serve.decisions import DecisionFiles, decision_files, read_decision_file

NUM_DECISIONS = 100_000
FLUSH_EVERY = 100
STEP_NS = 1_000_000


class Kept:
    """A log that keeps every decision, and counts until there are enough."""

    def __init__(self, files: DecisionFiles, policy: str, num: int) -> None:
        self._log, self._files, self.num_left = files.of(policy), files, num

    def due(self) -> bool:
        """Every one is, until there are enough."""
        return self.num_left > 0

    def keep(self, call: tuple[object, object, object, int, float], answered: tuple[object, object, str]) -> None:
        """Keep it, and hand what waits to the kernel now and then."""
        self._log.keep(call, answered)
        self.num_left -= 1
        if self.num_left % FLUSH_EVERY == 0 and (work := self._files.flush(0)) is not None:
            work()


def decide_cache(log: Kept, rng: random.Random) -> None:
    """A small response cache under Zipf traffic with answers of all sizes, a third of it asked for once only."""
    cache: ResponseCache[int] = ResponseCache(100 * (ENTRY_BYTES + 500), draw=rng.random, log=log, secret=bytes(16))  # type: ignore[arg-type]
    popular = [rng.randbytes(16) for _ in range(2_000)]
    weights = [1 / (rank + 1) ** 0.9 for rank in range(len(popular))]
    now = 0
    while log.num_left > 0:
        for asked in rng.choices(popular, weights, k=1_000):
            now += STEP_NS
            key = rng.randbytes(16) if rng.random() < 1 / 3 else asked
            if cache.get(key, seconds=0.5, now_ns=now) is None:
                num_bytes = int(rng.paretovariate(1.2) * 200)
                cache.put(key, 0, num_bytes=num_bytes, deployment="dep", seconds=rng.choice((0.01, 0.5)), now_ns=now)
        cache.tick(now)


def decide_rollout(log: Kept, rng: random.Random) -> None:
    """A hall whose versions come and go, whose replicas start, die and drain, and whose gateways follow late."""
    state: rollout.RolloutState = {}
    deployments: list[rollout.DeploymentView] = []
    replicas: dict[str, rollout.ReplicaView] = {}
    routed: tuple[rollout.Routed, ...] = ()
    revision = acknowledged = serial = now = 0
    while log.num_left > 0:
        now += rng.randrange(20 * STEP_NS)
        serial += 1
        if rng.random() < 0.05:
            app = f"app_{rng.randrange(3)}"
            old = [each for each in deployments if each.app == app]
            retired = [msgspec.structs.replace(each, state="retired") for each in old[-1:]]
            new = rollout.DeploymentView(id=f"dep_{serial}", app=app, state="live", num_replicas=rng.randint(1, 3))
            deployments = [each for each in deployments if each.app != app] + [*retired, new]
        acknowledged = revision if rng.random() < 0.7 else acknowledged
        event: rollout.ReplicaEnded | rollout.Tick = rollout.Tick()
        if replicas and rng.random() < 0.1:
            event = rollout.ReplicaEnded(deployment=replicas.pop(rng.choice(sorted(replicas))).deployment)
        for name, replica in list(replicas.items()):
            if replica.state == "draining":
                del replicas[name]
            elif rng.random() < 0.3:
                replicas[name] = msgspec.structs.replace(replica, state="ready")
        view = rollout.RolloutView(
            deployments=tuple(deployments),
            replicas=tuple(replicas.values()),
            routed=routed,
            revision=revision,
            acknowledged=acknowledged,
        )
        before, draw = state, rng.random()
        answered = rollout.decide(before, view, event, now, draw)
        log.keep((before, view, event, now, draw), answered)
        state, decision, _ = answered
        for number, deployment in enumerate(decision.start):
            name = f"rep_{serial}_{number}"
            replicas[name] = rollout.ReplicaView(id=name, deployment=deployment, state="starting")
        for name in decision.stop:
            replicas[name] = msgspec.structs.replace(replicas[name], state="draining")
        if decision.routes is not None:
            routed, revision = decision.routes, revision + 1


SOURCES: dict[str, Callable[[Kept, random.Random], None]] = {
    "admit": simulated.decide_admit,
    "cache": decide_cache,
    "concurrency": simulated.decide_concurrency,
    "health": simulated.decide_health,
    "rate": simulated.decide_rate,
    "retry": simulated.decide_retry,
    "rollout": decide_rollout,
    "route": simulated.decide_route,
    "share": simulated.decide_share,
    "shed": simulated.decide_shed,
}
"""How each policy comes to its decisions."""


def simulate(folder: Path, num: int, *, seed: int) -> None:
    """Write the files of a gateway with `num` decisions, as many of each policy."""
    files = DecisionFiles(folder, "g1", max_bytes=1 << 30)
    for place, (policy, decide) in enumerate(SOURCES.items()):
        share = num // len(SOURCES) + (place < num % len(SOURCES))
        decide(Kept(files, policy, share), random.Random(f"{seed} {policy}"))  # noqa: S311  a simulation, no secret
    files.close()


def replay(folder: Path, replayer: Replayer) -> Replayed:
    """Take every decision in a folder's files again."""
    for path in decision_files(folder):
        found = read_decision_file(path)
        replayer.replayed.num_lost_bytes += found.num_lost_bytes
        replayer.take(found.decisions, "msgpack", path.name)
    return replayer.replayed


def main(argv: list[str]) -> int:
    """Print how many were taken again, how many differ, and how long it took; 1 where any differs."""
    num = int(argv[0]) if argv else NUM_DECISIONS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        simulate(folder, num, seed=1)
        logged_s = time.perf_counter() - begun
        num_bytes = sum(path.stat().st_size for path in decision_files(folder))
        begun = time.perf_counter()
        done = replay(folder, Replayer())
        replayed_s = time.perf_counter() - begun
    shares = ", ".join(f"{policy} {count:,}" for policy, count in sorted(done.num_by_policy.items()))
    print(
        f"decided and logged {done.num_decisions:,} in {logged_s:.1f} s, {num_bytes / done.num_decisions:,.0f} bytes each"
    )
    print(f"replayed {done.num_decisions:,} in {replayed_s:.1f} s: {len(done.differences):,} differ ({shares})")
    if done.differences:
        print(
            f"the first: {done.differences[0].place}, policy {done.differences[0].policy}: {done.differences[0].what}"
        )
    return 1 if done.differences or done.num_decisions != num or done.num_lost_bytes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
