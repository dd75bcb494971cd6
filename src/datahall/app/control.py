"""What can be asked of a hall: the same operations whether the caller holds the hall or talks to who does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from datahall.app.archive import Archive
from datahall.app.backup.make import Backups
from datahall.app.calls import Calls, Once
from datahall.app.collection import LEASE as COLLECTING
from datahall.app.events import BackedUp, Ended, Notify, Planned
from datahall.app.jobs import Cancel
from datahall.app.kinds import KINDS
from datahall.app.leasing import leased
from datahall.app.lifecycle.walk import Walk
from datahall.app.planning import intend, read_app
from datahall.app.processes import is_running
from datahall.app.stores import snapshot_of
from datahall.app.wiring import Hall
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.shelf import CacheStats
from datahall.core.clock import iso
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, RepeatedError
from datahall.core.records import (
    Act,
    ApiKey,
    App,
    Change,
    Deployment,
    EntryKind,
    Priority,
    Replica,
    RouteTable,
    Step,
    Verdict,
    Version,
)
from datahall.core.records.base import noun_of
from datahall.deploy.table import TABLE_ID
from datahall.ledger.proofs import lies_in_tree
from datahall.registry.provenance import Provenance, trace
from datahall.registry.report import Report, make_report
from datahall.registry.routed import IdFacts, trace_id
from datahall.security.access import EVERY_TEAM, issue_key, reaches
from datahall.serve.answers import open_answer_id


class AppStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One application: what answers, and what was refused last."""

    app: str
    team: str
    task: str
    version: str | None
    deployment: str | None
    num_ready: int
    num_replicas: int
    state: str
    verdict: str
    running_step: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The hall at a glance."""

    hall: str
    apps: tuple[AppStatus, ...]
    replicas: tuple[dict[str, Any], ...]
    route_revision: int
    num_entries: int
    problems: tuple[str, ...]
    cache: CacheStats | None = None
    """How the read cache does since the hall was opened; None where the objects lie in the hall's own folder."""


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its text."""

    id: str
    name: str
    principal: str
    team: str
    scopes: tuple[str, ...]
    expires: str | None
    state: str
    priority: Priority = "normal"


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key just issued: the only time that its text is shown."""

    key: str
    status: KeyStatus


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """How a rotation of the master key went."""

    num_rewrapped: int
    num_masters: int
    """Master keys that can open something: more than one keeps backups of before readable."""
    num_retired: int


class Operations(Protocol):
    """Everything that the command line asks of a hall."""

    def plan(self, file: Path) -> Planned:
        """Return what a run of this application file would do."""

    def run(self, file: Path, notify: Notify, cancel: Cancel) -> Ended:
        """Take the application through its lifecycle, telling what happens."""

    def status(self) -> Status:
        """Return the hall at a glance."""

    def provenance(self, answer_id: str) -> Provenance:
        """Return the proven way of an answer back to its origins."""

    def report(self, app: str) -> Report:
        """Return what is proven about an application."""

    def issue_key(
        self, name: str, scopes: tuple[str, ...], team: str, days: float | None, *, priority: Priority = "normal"
    ) -> NewKey:
        """Issue an API key."""

    def keys(self) -> tuple[KeyStatus, ...]:
        """Return every key that was issued."""

    def revoke_key(self, key_id: str) -> KeyStatus:
        """Make a key worthless, now."""

    def rotate_keys(self, *, retire: bool) -> Rotated:
        """Wrap every data key under a new master key, and with `retire` destroy the old ones."""

    def backup(self, file: Path, replace: bool, notify: Notify, cancel: Cancel) -> BackedUp:
        """Write all of the hall but its keys into a file, telling what happens."""


class Control:
    """The operations, done by the process that holds the hall."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._running = threading.Lock()
        self._rotating = threading.Lock()
        self.keys_changed: Callable[[], None] = lambda: None
        """Called after a key was issued or revoked, so that gateways know before the caller does."""
        self._watched: list[Callable[[], tuple[str, ...]]] = []

    def watch(self, problems: Callable[[], tuple[str, ...]]) -> None:
        """Show in `status` what another part of this process says is wrong."""
        self._watched.append(problems)

    def recover(self) -> None:
        """Write down how what an earlier holder left running has ended: jobs end with it, replicas with their hall."""
        catalogue, clock = self._hall.catalogue, self._hall.clock
        for state in ("starting", "ready", "draining"):
            for replica in catalogue.find(Replica, state=state):
                if not is_running(replica.pid, replica.pid_started_at):
                    gone = msgspec.structs.replace(replica, state="gone")
                    body = {"replica": replica.id, "state": "gone"}
                    change = Change(old=replica, new=gone)
                    catalogue.act(Act(kind="replica.changed", actor="control", body=body, changes=(change,)))
                    self._hall.replicas.forget(replica.id)
        for step in catalogue.find(Step, state="running"):
            ended = msgspec.structs.replace(
                step, state="interrupted", reason="the hall ended while it ran", ended_at_ns=clock.now_ns()
            )
            body = {"step": step.id, "reason": ended.reason}
            change = Change(old=step, new=ended)
            catalogue.act(Act(kind="step.interrupted", actor="control", app=step.app, body=body, changes=(change,)))

    def plan(self, file: Path) -> Planned:
        """Return what a run of this application file would do."""
        loaded = read_app(file, KINDS)
        return intend(loaded, self._hall.catalogue, self._hall.clock, serving=self._serving).event

    def run(self, file: Path, notify: Notify, cancel: Cancel, *, once: Once | None = None) -> Ended:
        """Take the application through its lifecycle. Raises ConflictError while another lifecycle runs here.

        A run that was cut off and is asked for again, with `once` or without, goes on where it stopped.
        """
        loaded = read_app(file, KINDS)
        if not self._running.acquire(blocking=False):
            raise ConflictError("another lifecycle runs in this hall", hint="see it with: datahall ps")
        try:
            intent = intend(loaded, self._hall.catalogue, self._hall.clock, serving=self._serving)
            busy = f"another lifecycle of '{loaded.spec.name}' runs"
            catalogue, clock = self._hall.catalogue, self._hall.clock
            with leased(catalogue, catalogue.leases, f"run/{loaded.spec.name}", busy, clock=clock) as fenced:
                ended = Walk(fenced, self._hall.stages, clock).run(intent, notify, cancel)
            if once is not None:
                body = {"app": ended.app, "outcome": ended.outcome}
                call = self.calls.call(once, ended)
                self._hall.catalogue.act(Act(kind="run.answered", actor="control", app=ended.app, body=body, call=call))
        finally:
            self._running.release()
        notify(ended)
        return ended

    def status(self, team: str = EVERY_TEAM) -> Status:
        """Return the hall at a glance, as far as a key of `team` may see it."""
        catalogue = self._hall.catalogue
        apps = [app for app in catalogue.find(App) if reaches(team, app.team)]
        deployments = {found.id for app in apps for found in catalogue.find(Deployment, app=app.id)}
        replicas = [r for state in ("starting", "ready", "draining") for r in catalogue.find(Replica, state=state)]
        replicas = [replica for replica in replicas if replica.deployment in deployments]
        problem = self._hall.sequencer.problem
        checkpoint = catalogue.checkpoint()
        table = self._table()
        problems = [*(said for watched in self._watched for said in watched()), *([str(problem)] if problem else [])]
        return Status(
            hall=str(self._hall.paths.root),
            apps=tuple(self._app_status(app, replicas) for app in apps),
            replicas=tuple(_replica_line(replica) for replica in replicas),
            route_revision=table.revision if table else 0,
            num_entries=checkpoint.size if checkpoint else 0,
            problems=_problems_for(team, problems),
            cache=None if isinstance(self._hall.blobs, LocalBlobStore) else self._hall.blobs.stats(),
        )

    def provenance(self, answer_id: str, team: str = EVERY_TEAM) -> Provenance:
        """Return the way of an answer. Raises NotFoundError for an id that this hall never gave out to `team`."""
        try:
            parts = open_answer_id(answer_id, self._hall.keys.answer_key)
        except IntegrityError as error:  # not our stored bytes are wrong, but what somebody asked for
            raise NotFoundError(error.what, hint=error.hint) from error
        kept = self._archive.look(parts)
        self._hall.sequencer.flush()
        catalogue, anchored = self._hall.catalogue, self._hall.anchored
        if kept.answer is None and kept.state != "kept":
            facts = IdFacts(id=answer_id, **msgspec.structs.asdict(parts))
            proven = partial(lies_in_tree, catalogue, public_key=self._hall.keys.signer.public_key)
            return trace_id(catalogue, anchored, facts, kept.state, sees=partial(reaches, team), proven=proven)
        if kept.answer is None or not reaches(team, kept.answer.team):
            raise NotFoundError("this is not an answer id of this key's team", where=answer_id[:80])
        return trace(catalogue, anchored, kept.answer, kept.root)

    def report(self, app: str, team: str = EVERY_TEAM) -> Report:
        """Return what is proven about an application. Raises NotFoundError where `team` has nothing of that name."""
        if not reaches(team, self._hall.catalogue.get(App, app).team):
            raise NotFoundError(f"there is no {noun_of(App)} '{app}'")
        return make_report(self._hall.catalogue, app, read=self._hall.vault.read)

    @property
    def calls(self) -> Calls:
        """The answers to calls that carried an idempotency key."""
        return Calls(self._hall.catalogue, self._hall.keys.call_key)

    def issue_key(
        self,
        name: str,
        scopes: tuple[str, ...],
        team: str,
        days: float | None,
        *,
        priority: Priority = "normal",
        once: Once | None = None,
    ) -> NewKey:
        """Issue an API key; only its hash is kept, and with `once` the sealed answer."""
        text, key = issue_key(
            name=name,
            principal=name,
            team=team,
            scopes=scopes,
            clock=self._hall.clock,
            lifetime_s=None if days is None else days * 86_400,
            priority=priority,
        )
        expires = None if key.expires_at_ns is None else iso(key.expires_at_ns)
        body = {"key": key.id, "name": name, "team": team, "scopes": list(key.scopes), "expires": expires}
        if priority != "normal":
            body["priority"] = priority
        made = NewKey(key=text, status=self._key_status(key))
        self._act("key.issued", body, Change(new=key), once, made)
        self.keys_changed()
        return made

    def keys(self) -> tuple[KeyStatus, ...]:
        """Return every key that was issued."""
        return tuple(self._key_status(key) for key in self._hall.catalogue.find(ApiKey))

    def revoke_key(self, key_id: str, *, once: Once | None = None) -> KeyStatus:
        """Make a key worthless; gateways know within a second. One that is worthless stays so since when it was."""
        key = self._hall.catalogue.get(ApiKey, key_id)
        if key.revoked_at_ns is not None:
            return self._key_status(key)
        revoked = msgspec.structs.replace(key, revoked_at_ns=self._hall.clock.now_ns())
        status = self._key_status(revoked)
        self._act("key.revoked", {"key": key_id}, Change(old=key, new=revoked), once, status)
        self.keys_changed()
        return status

    def rotate_keys(self, *, retire: bool, once: Once | None = None) -> Rotated:
        """Wrap every data key under a new master key, beside readers and writers; with `retire` destroy the old ones.

        One at a time, so that none counts another's keys as its own. Where it is cut off every key stays readable, and
        the next one goes on. Raises RepeatedError where `once` was answered while this call waited its turn.
        """
        keys, vault, catalogue = self._hall.keys, self._hall.vault, self._hall.catalogue
        with self._rotating:
            if once is not None and self.calls.answered(once) is not None:
                raise RepeatedError("this call was done before")
            keys.rotate()
            num_rewrapped = vault.rewrap(actor="owner")
            num_retired = 0
            if retire:
                old = keys.older
                vault.condemn_masters(old, actor="owner")
                # A writer may have wrapped before the rotation and acted just before the condemnation.
                num_rewrapped += vault.rewrap(actor="owner")
                num_retired = keys.retire(old)
            done = Rotated(num_rewrapped=num_rewrapped, num_masters=keys.num_masters, num_retired=num_retired)
            call = self.calls.call(once, done) if once else None
            body = {"num_rewrapped": num_rewrapped, "num_retired": num_retired}
            catalogue.act(Act(kind="keys.rotated", actor="owner", body=body, call=call))
            return done

    def _act(self, kind: EntryKind, body: dict[str, Any], change: Change, once: Once | None, answer: object) -> None:
        """Write one change, and in the same transaction the answer to the call that asked for it."""
        call = self.calls.call(once, answer) if once else None
        self._hall.catalogue.act(Act(kind=kind, actor="owner", body=body, changes=(change,), call=call))

    @cached_property
    def _archive(self) -> Archive:
        return Archive(self._hall.catalogue, self._hall.vault, self._hall.paths.answers, self._hall.keys.answer_key)

    def backup(self, file: Path, replace: bool, notify: Notify, cancel: Cancel) -> BackedUp:
        """Write all of the hall but its keys into a file of this machine, while everything else goes on."""
        hall = self._hall
        hall.sequencer.flush()  # so that the backup's checkpoint covers what is in it
        busy = "garbage is being collected"
        alone = partial(leased, hall.catalogue, hall.catalogue.leases, COLLECTING, busy, clock=hall.clock)
        copy, is_erased = snapshot_of(hall.catalogue), hall.vault.is_erased
        backups = Backups(hall.paths, hall.keys, hall.blobs, hall.clock, copy, alone=alone, is_erased=is_erased)
        made = backups.make(file, replace=replace, notify=notify, cancel=cancel)
        notify(made)
        return made

    def _app_status(self, app: App, replicas: list[Replica]) -> AppStatus:
        catalogue = self._hall.catalogue
        live = catalogue.find(Deployment, app=app.id, state="live")
        serving = catalogue.get(Version, live[-1].version) if live else None
        verdicts = [catalogue.get(Verdict, serving.verdict)] if serving else catalogue.find(Verdict, app=app.id)
        steps = [step for step in catalogue.find(Step, app=app.id) if step.state == "running"]
        ready = [r for r in replicas if live and r.deployment == live[-1].id and r.state == "ready"]
        return AppStatus(
            app=app.id,
            team=app.team,
            task=app.task,
            version=live[-1].version if live else None,
            deployment=live[-1].id if live else None,
            num_ready=len(ready),
            num_replicas=live[-1].num_replicas if live else 0,
            state=("ready" if ready else "not running") if live else "nothing released",
            verdict=f"{verdicts[-1].candidate}: {verdicts[-1].outcome}" if verdicts else "",
            running_step=f"{steps[-1].stage}/{steps[-1].name}" if steps else None,
        )

    def _serving(self, deployment: str) -> bool:
        table = self._table()
        routes = table.routes if table else ()
        return any(route.deployment == deployment and route.replicas for route in routes) and bool(
            self._hall.catalogue.find(Replica, deployment=deployment, state="ready")
        )

    def _table(self) -> RouteTable | None:
        try:
            return self._hall.catalogue.get(RouteTable, TABLE_ID)
        except NotFoundError:
            return None

    def _key_status(self, key: ApiKey) -> KeyStatus:
        now = self._hall.clock.now_ns()
        expired = key.expires_at_ns is not None and key.expires_at_ns <= now
        state = "revoked" if key.revoked_at_ns is not None else "expired" if expired else "good"
        return KeyStatus(
            id=key.id,
            name=key.name,
            principal=key.principal,
            team=key.team,
            scopes=key.scopes,
            expires=iso(key.expires_at_ns) if key.expires_at_ns is not None else None,
            state=state,
            priority=key.priority,
        )


def _problems_for(team: str, problems: list[str]) -> tuple[str, ...]:
    """Return the problems for who may see every team; they name deployments, so others learn only that there are any."""
    if team == EVERY_TEAM or not problems:
        return tuple(problems)
    return ("the hall has problems: its owner sees them with datahall ps",)


def _replica_line(replica: Replica) -> dict[str, Any]:
    return {
        "id": replica.id,
        "deployment": replica.deployment,
        "state": replica.state,
        "pid": replica.pid,
        "isolation": replica.isolation,
        "since": iso(replica.started_at_ns),
    }
