"""Brings the hall to what its deployments say: asks the rollout policy, then starts, stops and publishes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

import msgspec

from datahall.app.contents import Manifests
from datahall.app.decisions import DecisionLog
from datahall.app.environment import node_class
from datahall.app.processes import started_at
from datahall.app.replicas import Replicas, wait_ready, why_ended
from datahall.core.errors import DatahallError, IntegrityError, NotFoundError, RefusedError
from datahall.core.ids import new_id
from datahall.core.ports import Catalogue, Launcher, Process
from datahall.core.ports.clock import Clock
from datahall.core.records import (
    Act,
    ApiKey,
    Bundle,
    Change,
    Decided,
    Deployment,
    EntryKind,
    Replica,
    RouteTable,
    TeamRule,
)
from datahall.deploy.admission import Admission
from datahall.deploy.table import TABLE_ID, Rules, next_table, routed_by, routes_body, rules_of
from datahall.policy import rollout
from datahall.security.access import key_grants
from datahall.serve.decisions import policy_code

BUSY_S, IDLE_S, FAILING_S = 0.1, 0.5, 5.0
"""How long until the next round: after one that changed something, after one that found nothing to do, and at most
where one after another fails."""
SETTLE_S = 2.0
STOP_SECONDS = 10.0
"""What a replica gets at most to finish when the whole hall stops."""
Publish = Callable[[RouteTable], None]
"""Makes gateways see a table."""
Confirm = Callable[[int, int], None]
"""Tells gateways that the table of this revision is still the newest, and when that was (nanoseconds since 1970)."""
CONFIRM_S = 60.0
Acknowledged = Callable[[], int]
"""Returns the lowest route revision that every living gateway follows."""


class Reconciler:
    """Owns this machine's replicas. One runs in each hall, in a thread of control."""

    def __init__(
        self,
        catalogue: Catalogue,
        admission: Admission,
        replicas: Replicas,
        launcher: Launcher,
        clock: Clock,
        *,
        publish: Publish,
        acknowledged: Acknowledged,
        decisions: DecisionLog,
        integrate: Callable[[], object],
        manifests: Manifests,
        confirm: Confirm = lambda _revision, _now_ns: None,
        teams: Callable[[], dict[str, TeamRule]] = dict,
        num_gateways: int = 1,
    ) -> None:
        self._problems: dict[str, str] = {}
        self._catalogue, self._admission = catalogue, admission
        self._replicas, self._launcher, self._clock = replicas, launcher, clock
        self._publish, self._acknowledged, self._decisions = publish, acknowledged, decisions
        self._processes: dict[str, Process] = {}
        self._greeted: set[str] = set()
        self._integrate, self._manifests = integrate, manifests
        self._confirm, self._teams, self._num_gateways = confirm, teams, num_gateways
        self._confirm_after_ns = 0
        self._published = False
        self._late: RouteTable | None = None
        self._logged: tuple[rollout.RolloutView, rollout.Rollout] | None = None
        self._state: rollout.RolloutState = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None

    def problems(self) -> tuple[str, ...]:
        """Return why the newest round failed, and why replicas that are wanted do not answer; empty if all is well."""
        return tuple(f"{what}: {why}" for what, why in sorted(self._problems.items()))

    def start(self) -> None:
        """Adopt the replicas that an earlier control left running, then keep reconciling in a thread."""
        with self._lock:
            self._adopt()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reconciling, then every replica; each finishes what it was asked."""
        self._ending.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            processes = dict(self._processes)
        waiters = [
            threading.Thread(target=process.stop, args=(min(self._drain_seconds(name), STOP_SECONDS),))
            for name, process in processes.items()
        ]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            waiter.join()
        for replica_id in processes:
            self._mark(replica_id, "gone")
            self._replicas.forget(replica_id)

    def tick(self) -> bool:
        """Do one round: load what is, ask the policy, apply what it says. Return whether there was anything to do."""
        with self._lock:
            self._greet()
            ended = self._reap()
            events: list[rollout.ReplicaEnded | rollout.Tick] = [
                rollout.ReplicaEnded(deployment=lost) for lost in ended
            ]
            for event in (*events, rollout.Tick()):
                decision = self._decide(self._view(), event)
            did = self._apply(decision)
            self._confirm_if_due()
        return bool(ended) or did

    def settle(self) -> None:
        """Do a round now and return once gateways follow its table, or after two seconds: a key then holds at once."""
        with contextlib.suppress(DatahallError):  # the next round tells what is wrong, and goes on
            self.tick()
        table = self._table()
        deadline = self._clock.monotonic_ns() + int(SETTLE_S * 1e9)
        while table is not None and self._acknowledged() < table.revision and self._clock.monotonic_ns() < deadline:
            self._clock.sleep(0.02)

    def _decide(self, view: rollout.RolloutView, event: rollout.ReplicaEnded | rollout.Tick) -> rollout.Rollout:
        # Waits are counted on the monotonic clock: set back by a year, the wall's would keep a replica down for a year.
        now, before = self._clock.monotonic_ns(), self._state
        self._state, decision, reason = rollout.decide(before, view, event, now, 0.0)
        # A decision that cannot be carried out is taken again each round; once is enough to read.
        repeated = (view, decision) == self._logged
        if decision != rollout.Rollout() and not repeated:
            self._logged = (view, decision)
            self._decisions.append(
                Decided(
                    policy="rollout",
                    state=before,
                    view=view,
                    event=event,
                    now=now,
                    draw=0.0,
                    new_state=self._state,
                    decision=decision,
                    reason=reason,
                    code=policy_code(),
                )
            )
        return decision

    def _run(self) -> None:
        wait_s = BUSY_S
        while not self._ending.is_set():
            try:
                wait_s = BUSY_S if self.tick() else IDLE_S
            except Exception as error:  # noqa: BLE001  whatever it was, this thread must be there when it is over
                self._problems["routes"] = error.what if isinstance(error, DatahallError) else repr(error)
                wait_s = min(2 * max(wait_s, IDLE_S), FAILING_S)
            else:
                self._problems.pop("routes", None)
            self._news.wait(wait_s)
            self._news.clear()

    def _adopt(self) -> None:
        for replica in self._living():
            process = self._launcher.adopt(replica.pid, replica.pid_started_at)
            if process is None or replica.state == "starting":
                if process is not None:
                    process.stop()
                self._mark(replica.id, "gone")
                self._replicas.forget(replica.id)
            else:
                self._processes[replica.id] = process

    def _view(self) -> rollout.RolloutView:
        table = self._table()
        routed = routed_by(table)
        deployments = {d.id: d for d in self._catalogue.find(Deployment, state="live")}
        for replica in self._living():
            if replica.deployment not in deployments:
                deployments[replica.deployment] = self._catalogue.get(Deployment, replica.deployment)
        return rollout.RolloutView(
            deployments=tuple(
                rollout.DeploymentView(id=d.id, app=d.app, state=d.state, num_replicas=d.num_replicas)
                for d in sorted(deployments.values(), key=lambda d: d.id)
            ),
            replicas=tuple(
                rollout.ReplicaView(id=r.id, deployment=r.deployment, state=r.state)  # type: ignore[arg-type]
                for r in self._living()
            ),
            routed=routed,
            revision=table.revision if table else 0,
            acknowledged=self._acknowledged(),
        )

    def _apply(self, decision: rollout.Rollout) -> bool:
        """Do what was decided; return whether anything came of it."""
        for deployment in decision.start:
            self._start(self._catalogue.get(Deployment, deployment))
        for replica_id in decision.stop:
            self._mark(replica_id, "draining")
            threading.Thread(target=self._drain, args=(replica_id,), daemon=True).start()
        table = self._table()
        routes = routed_by(table) if decision.routes is None else decision.routes
        rules = Rules(
            keys=key_grants(self._catalogue.find(ApiKey), self._clock.now_ns()),
            teams=self._teams(),
            num_gateways=self._num_gateways,
        )
        # The first round signs a table of its own: the stored one may be older than a revocation, or not ours at all.
        stored = table is not None and not self._published and self._late is None
        if stored or decision.routes is not None or rules != rules_of(table):
            return self._route(table, routes, rules) or bool(decision.start or decision.stop)
        if self._late is not None:
            self._hand_out(self._late)
            return True
        return bool(decision.start or decision.stop)

    def _route(self, table: RouteTable | None, routes: Iterable[rollout.Routed], rules: Rules) -> bool:
        """Publish the lines that may be published, all keys and all rules; return whether that is anything new.

        A line that is refused is left out and named: it must not hold up the other applications, or a revocation.
        """
        lines, deployments, bundles = [], {}, {}
        for line in routes:
            try:
                deployment, bundle = self._admitted(line.deployment)
                manifest = self._manifests(bundle, deployment.team)
            except (RefusedError, IntegrityError, NotFoundError) as error:
                self._problems[f"{line.app} has no traffic"] = error.what
                continue
            self._problems.pop(f"{line.app} has no traffic", None)
            lines.append(line)
            deployments[line.deployment] = deployment
            bundles[deployment.bundle] = msgspec.structs.replace(bundle, manifest=manifest)
        settled = self._published and self._late is None
        if settled and (tuple(sorted(lines)), rules) == (routed_by(table), rules_of(table)):
            return False
        replicas = {replica.id: replica for replica in self._living()}
        new = next_table(table, lines, deployments, bundles, replicas, rules, self._clock.now_ns())
        body = {"revision": new.revision, "routes": routes_body(new)}
        self._act("routes.published", body, Change(old=table, new=new.outline()))
        self._hand_out(new)
        return True

    def _hand_out(self, table: RouteTable) -> None:
        """Publish what is written down; where that fails, each round tries it again, for it may revoke a key."""
        self._late = table
        self._publish(table)
        self._late, self._published = None, True

    def _confirm_if_due(self) -> None:
        """Once a minute, after a round that could read the catalogue: gateways may go on believing what they have."""
        now, table = self._clock.monotonic_ns(), self._table()
        if table is None or self._late is not None or not self._published or now < self._confirm_after_ns:
            return
        self._confirm(table.revision, self._clock.now_ns())
        self._confirm_after_ns = now + int(CONFIRM_S * 1e9)

    def _admitted(self, deployment_id: str) -> tuple[Deployment, Bundle]:
        """Return a deployment that may answer, and its bundle. Raises RefusedError or IntegrityError."""
        deployment = self._catalogue.get(Deployment, deployment_id)
        try:
            return deployment, self._admission.serve(deployment)
        except (RefusedError, IntegrityError):
            # What was written this moment is not in the tree yet: that alone must cost nobody an answer.
            self._integrate()
            deployment = self._catalogue.get(Deployment, deployment_id)
            return deployment, self._admission.serve(deployment)

    def _start(self, deployment: Deployment) -> None:
        replica_id = new_id("rep", self._clock)
        process = self._replicas.start(replica_id, self._catalogue.get(Bundle, deployment.bundle), deployment.team)
        try:
            self._write_down(replica_id, deployment, process)
        except (DatahallError, OSError):
            # Nobody would ever count, stop or adopt what is not written down, and the next round would start another.
            process.stop(grace_seconds=0)
            self._replicas.forget(replica_id)
            raise
        self._processes[replica_id] = process
        threading.Thread(target=self._await_ready, args=(replica_id, deployment.id, process), daemon=True).start()

    def _write_down(self, replica_id: str, deployment: Deployment, process: Process) -> None:
        replica = Replica(
            id=replica_id,
            deployment=deployment.id,
            bundle=deployment.bundle,
            address=self._replicas.address(replica_id),
            pid=process.pid,
            pid_started_at=started_at(process.pid),
            state="starting",
            node_class=node_class(),
            isolation=process.isolation,  # type: ignore[arg-type]
            started_at_ns=self._clock.now_ns(),
        )
        self._act("replica.started", {"replica": replica_id}, Change(new=replica), app=deployment.app)

    def _await_ready(self, replica_id: str, deployment: str, process: Process) -> None:
        try:
            wait_ready(process)
        except DatahallError as error:
            self._problems[deployment] = error.what
        else:
            self._problems.pop(deployment, None)
            with self._lock:
                self._greeted.add(replica_id)
        self._news.set()

    def _greet(self) -> None:
        """Mark the replicas that have said that they answer; one that is to stop by now is left to it."""
        for replica_id in sorted(self._greeted):
            if self._catalogue.get(Replica, replica_id).state == "starting":
                self._mark(replica_id, "ready")
            self._greeted.discard(replica_id)

    def _drain(self, replica_id: str) -> None:
        process = self._processes.get(replica_id)
        if process is not None:
            process.stop(grace_seconds=self._drain_seconds(replica_id))

    def _drain_seconds(self, replica_id: str) -> float:
        deployment = self._catalogue.get(Replica, replica_id).deployment
        return self._catalogue.get(Deployment, deployment).drain_seconds

    def _reap(self) -> list[str]:
        """Mark replicas whose process has ended; return the deployments that lost one nobody had stopped."""
        lost = []
        for replica_id, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            replica = self._catalogue.get(Replica, replica_id)
            self._mark(replica_id, "gone")
            # Only now: where that cannot be written, the next round must find the process again.
            del self._processes[replica_id]
            self._replicas.forget(replica_id)
            if replica.state != "draining":
                lost.append(replica.deployment)
                if replica.state == "ready":  # one that never answered is told by whoever waits for it
                    self._problems[replica.deployment] = why_ended(process)
        return lost

    def _mark(self, replica_id: str, state: str) -> None:
        old = self._catalogue.get(Replica, replica_id)
        if old.state not in {state, "gone"}:
            new = msgspec.structs.replace(old, state=state)
            self._act("replica.changed", {"replica": replica_id, "state": state}, Change(old=old, new=new))

    def _living(self) -> list[Replica]:
        return [
            replica
            for state in ("starting", "ready", "draining")
            for replica in self._catalogue.find(Replica, state=state)
        ]

    def _table(self) -> RouteTable | None:
        try:
            return self._catalogue.get(RouteTable, TABLE_ID)
        except NotFoundError:
            return None

    def _act(self, kind: EntryKind, body: dict[str, object], change: Change, app: str | None = None) -> None:
        self._catalogue.act(Act(kind=kind, actor="reconciler", app=app, body=body, changes=(change,)))
