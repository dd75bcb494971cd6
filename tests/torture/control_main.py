"""A control process to be killed: opens the hall as production does, and takes a few operations more over its socket.

    python -m tests.torture.control_main HALL [--early] [--zygote]

The operations write what the lifecycle writes, in acts of the same shape, without the minutes of training between them.
`--early` answers before the commit: the control. `--zygote` imports everything once, then forks a fresh server for
each line on its standard input and prints its pid: 200 lives would else spend their time on imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import msgspec

from datahall.app import stores, wiring
from datahall.app.collection import Collector
from datahall.app.control import Control
from datahall.app.http.api import ApiRoute, _guarded, _once, make_api
from datahall.app.http.guard import _bytes_of, answer
from datahall.app.http.listen import serve_until_told
from datahall.app.leasing import leased
from datahall.app.owner import ensure_owner
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError, NotFoundError
from datahall.core.hall import HallPaths
from datahall.core.records import (
    Act,
    App,
    Bundle,
    BundleManifest,
    Candidate,
    Change,
    Column,
    Deployment,
    RouteTable,
    Step,
    Version,
)
from datahall.deploy.table import TABLE_ID, Rules, next_table, routed_by
from datahall.engines.bundle import bundle_digest
from datahall.policy.rollout import Routed
from datahall.registry.semver import next_semver, order
from datahall.serve.table import publish_routes

TEAM = "ward"
NUM_TRIES = 200


class Operations:
    """What the torture asks for beyond the control API; each call takes what was said and the call's key, if it had one."""

    def __init__(self, hall, control):
        self._hall, self._control, self._catalogue = hall, control, hall.catalogue
        # No grace: what a job has stored is garbage until its act names it, so the two race all the time.
        self._collector = Collector(hall.catalogue, hall.blobs, hall.catalogue.leases, hall.clock, grace_s=0)
        self._publishing, self._running, self._collecting = threading.Lock(), threading.Lock(), threading.Lock()
        self._busy = set()

    def record(self, said, once):
        """Create, read, replace or delete a register: an App whose text is its value."""
        for _ in range(NUM_TRIES):
            now = self._get(App, said["record"])
            value = None if now is None else now.spec_text
            if said["name"] == "read":
                return {"answer": value}
            if said["name"] == "create" and now is not None:
                return {"answer": "exists"}
            if said["name"] == "replace" and (now is None or value != said["argument"][0]):
                return {"answer": "conflict"}
            if said["name"] == "delete" and now is None:
                return {"answer": "missing"}
            new = None if said["name"] == "delete" else _register(said)
            try:
                self._act("app.declared", (Change(old=now, new=new),), once, {"answer": "done"}, said)
            except ConflictError:
                continue
            return {"answer": "done"}
        raise ConflictError("too many others write this record")

    def register(self, said, once):
        """Register the next version of an application: bundle, candidate and version in one act."""
        name = said["app"]
        for _ in range(NUM_TRIES):
            versions = self._catalogue.find(Version, app=name)
            newest = max(versions, key=lambda version: order(version.semver), default=None)
            before = newest and (newest.semver, self._catalogue.get(Bundle, newest.bundle).manifest)
            manifest = _manifest(name, said["seed"])
            semver, _ = next_semver(before, manifest)
            serial = len(self._catalogue.find(Candidate, app=name)) + 1
            bundle = Bundle(id=bundle_digest(manifest), app=name, artifact="0" * 64, manifest=manifest, equivalence={})
            candidate = Candidate(
                id=f"{name}#{serial}", app=name, serial=serial, name="c", bundle=bundle.id, run=said["seed"]
            )
            version = Version(
                id=f"{name}@{semver}",
                app=name,
                semver=semver,
                candidate=candidate.id,
                bundle=bundle.id,
                verdict="v",
                parent=newest.id if newest else None,
                registered_at_ns=self._hall.clock.now_ns(),
            )
            said_back = {"version": version.id}
            changes = tuple(Change(new=each) for each in (bundle, candidate, version))
            try:
                self._act("version.registered", changes, once, said_back, said)
            except ConflictError:
                continue
            return said_back
        raise ConflictError("too many others register")

    def release(self, said, once):
        """Put an application's newest version in the place of the one that is live, and publish the route table."""
        name = said["app"]
        with self._publishing:
            newest = max(self._catalogue.find(Version, app=name), key=lambda v: order(v.semver), default=None)
            if newest is None:
                raise NotFoundError(f"{name} has no version")
            before = self._catalogue.find(Deployment, app=name)
            now = self._hall.clock.now_ns()
            deployment = Deployment(
                id=f"dep_{name}_{len(before) + 1}",
                app=name,
                team=TEAM,
                version=newest.id,
                bundle=newest.bundle,
                verdict=newest.verdict,
                state="live",
                num_replicas=1,
                protocols=("predict",),
                drain_seconds=1.0,
                opened_at_ns=now,
            )
            retired = [
                Change(old=old, new=msgspec.structs.replace(old, state="retired", closed_at_ns=now))
                for old in before
                if old.state == "live"
            ]
            table, new = self._next_table(deployment, now)
            changes = (Change(new=deployment), *retired, Change(old=table, new=new))
            self._act("deployment.opened", changes, once, {"deployment": deployment.id}, said)
            publish_routes(self._hall.paths.routes, new, self._hall.keys.signer, self._hall.keys.routes_key)
        return {"deployment": deployment.id}

    def _next_table(self, deployment, now):
        table = self._get(RouteTable, TABLE_ID)
        lines = [line for line in routed_by(table) if line.app != deployment.app]
        lines.append(Routed(app=deployment.app, deployment=deployment.id, replicas=()))
        deployments = {line.deployment: self._get(Deployment, line.deployment) or deployment for line in lines}
        bundles = {d.bundle: self._catalogue.get(Bundle, d.bundle) for d in deployments.values()}
        return table, next_table(table, sorted(lines), deployments, bundles, {}, Rules(keys={}), now)

    def publish(self):
        """Publish the table that is written down, as the reconciler's first round does."""
        table = self._get(RouteTable, TABLE_ID)
        if table is not None:
            publish_routes(self._hall.paths.routes, table, self._hall.keys.signer, self._hall.keys.routes_key)

    def job(self, said, once):
        """Do a step under its lease: running, an artifact into the vault, done."""
        with self._running:
            if said["app"] in self._busy:
                raise ConflictError("another job of this application runs")
            self._busy.add(said["app"])
        try:
            name, busy = f"run/{said['app']}", "another job runs"
            with leased(self._catalogue, self._catalogue.leases, name, busy, clock=self._hall.clock) as fenced:
                return self._job(fenced, said, once)
        finally:
            self._busy.discard(said["app"])

    def _job(self, fenced, said, once):
        before = self._get(Step, said["step"])
        if before is not None and before.state == "done":
            return {"digest": before.outputs["artifact"]}
        now = self._hall.clock.now_ns()
        running = Step(
            id=said["step"], app=said["app"], stage="data", name="", state="running", outputs={}, started_at_ns=now
        )
        fenced.act(Act(kind="step.started", actor="torture", body={}, changes=(Change(old=before, new=running),)))
        for _ in range(NUM_TRIES):
            digest, kept = self._hall.vault.store(TEAM, content(said["step"]), "text/plain")
            done = msgspec.structs.replace(running, state="done", outputs={"artifact": digest}, ended_at_ns=now)
            call = self._control.calls.call(once, {"digest": digest})
            changes = (Change(old=running, new=done), *kept)
            body = {"call": said["call"]}
            try:
                fenced.act(Act(kind="step.completed", actor="torture", body=body, changes=changes, call=call))
            except ConflictError:  # collected before it was named
                continue
            return {"digest": digest}
        raise ConflictError("collected too often")

    def erase(self, said, once):
        """Erase an artifact; one that is gone has been erased already."""
        del once
        try:
            self._hall.vault.erase(TEAM, said["digest"], actor="torture")
        except NotFoundError:
            return {"erased": False}
        return {"erased": True}

    def collect(self, said, once):
        """Collect what no artifact names; one at a time, as in control: a lease keeps out other processes only."""
        del said, once
        with self._collecting:
            return {"num_removed": self._collector.collect()}

    def _get(self, kind, name):
        try:
            return self._catalogue.get(kind, name)
        except NotFoundError:
            return None

    def _act(self, kind, changes, once, said_back, said):
        call = self._control.calls.call(once, said_back)
        self._catalogue.act(Act(kind=kind, actor="torture", body={"call": said["call"]}, changes=changes, call=call))


def content(step):
    """Return the bytes that a step makes."""
    return f"made by {step}\n".encode() * 50


def _register(said):
    value = said["argument"] if said["name"] == "create" else said["argument"][1]
    return App(
        id=said["record"],
        team=TEAM,
        task="regression",
        spec_digest=said["call"],
        spec_text=value,
        policy="p",
        declared_at_ns=1,
    )


def _manifest(name, seed):
    number = Column(name="x", kind="number")
    return BundleManifest(
        app=name,
        task="regression",
        engine="onnx",
        engine_settings={"seed": seed},
        features=(number,),
        target=number,
        threshold=None,
        environment="e",
        files={},
    )


class EarlyCatalogue(SqliteCatalogue):
    """Answers before the commit, which comes with the next transaction: what a kill takes was acknowledged."""

    def _transact(self, works):
        connection = self._writer._connection
        if connection.in_transaction:
            connection.execute("COMMIT")
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        return list(self._outcomes(cursor, works))


def serve(folder):
    """Hold the hall and answer until killed."""
    with wiring.open_hall(HallPaths(folder)) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        control = Control(hall)
        control.recover()
        operations = Operations(hall, control)
        operations.publish()
        api = make_api(control, hall.catalogue, hall.clock)
        for name in ("record", "register", "release", "job", "erase", "collect"):
            route = ApiRoute("POST", f"/torture/{name}", "admin", name, mutates=True)
            handler = _once(route, partial(_handle, getattr(operations, name)), control)
            api.add_route(route.path, _guarded(route, handler, hall.catalogue, hall.clock), methods=["POST"])
        serve_until_told(api, hall.paths.control_socket())


async def _handle(work, request):
    said = json.loads(await _bytes_of(request))
    return answer(await asyncio.to_thread(work, said, request.state.once))


def breed(folder):
    """Fork a server for each line that is read; each dies with this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    lives = []
    for _ in sys.stdin:
        read, write = os.pipe()
        lives.append(write)
        if pid := os.fork():
            os.close(read)
            print(pid, flush=True)  # noqa: T201  (the test reads it)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in lives:
            os.close(descriptor)
        threading.Thread(target=end_with, args=(read,), daemon=True).start()
        serve(folder)
        os._exit(0)


def end_with(pipe):
    """End this process once nobody holds the other end of `pipe` any more."""
    os.read(pipe, 1)
    os._exit(1)


if __name__ == "__main__":
    if "--early" in sys.argv:
        stores.SqliteCatalogue = EarlyCatalogue
    (breed if "--zygote" in sys.argv else serve)(Path(sys.argv[1]))
