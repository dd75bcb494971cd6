"""A mixed load whose clients know what was acknowledged, and the checks of what a killed control left behind."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import DatahallError, NotFoundError
from datahall.core.records import ApiKey, App, Artifact, Bundle, Candidate, Deployment, RouteTable, Step, Version
from datahall.ledger.verify import verify_hall
from datahall.security.access import hash_key
from datahall.security.keys import KeyRing
from datahall.serve.table import read_routes
from datahall.testing.clock import AutoClock
from tests.torture.control_main import TEAM, content
from tests.torture.hall import Client, GoneError

KINDS = ("record", "register", "release", "job", "erase", "issue", "revoke", "collect")
WEIGHTS = (6, 3, 3, 4, 2, 2, 1, 1)


class Worker:
    """One client: draws what to ask from a seed, repeats what was cut off with its key, and keeps the facts."""

    def __init__(self, hall, number, seed):
        self._hall, self._number = hall, number
        self._draw = random.Random(f"{seed} worker {number}")  # noqa: S311
        self._values, self._made, self._keys = {}, {}, []
        self._num_calls = 0
        self._pending = None
        self._apps = (f"own{number}", "shared")
        self.facts = {}
        """What was acknowledged and not touched since: subject to what must be found of it."""
        self.problems = []
        self.num_done = Counter()

    def live(self, sending):
        """Ask until cut off; tell `sending` the kind of each call just before it goes out."""
        client = Client(self._hall)
        try:
            while True:
                call = self._pending = self._pending or self._next()
                sending(call.kind)
                status, body = client.ask(call.method, call.path, call.said, call.key)
                self._pending = None
                if status < 300:
                    self.num_done[call.kind] += 1
                    call.settle(body)
                elif not (call.contended and status in {404, 409}):
                    self.problems.append(f"{call.path} {json.dumps(call.said)}: {status} {body}")
        except GoneError:
            pass
        finally:
            client.close()

    def _next(self):
        kind = self._draw.choices(KINDS, WEIGHTS)[0]
        made = getattr(self, f"_{kind}")()
        return made or self._next()

    def _call(self, kind, settle, said=None, *, method="POST", path=None, contended=False, about=None):
        self._num_calls += 1
        name = f"w{self._number}c{self._num_calls}"
        if said is not None and path is None:
            said["call"] = name
        self.facts.pop(about, None)  # until it is answered, either state is right
        return SimpleNamespace(
            kind=kind,
            method=method,
            path=path or f"/torture/{kind}",
            said=said,
            key=name,
            settle=settle,
            contended=contended,
        )

    def _record(self):
        name = f"rec{self._number}x{self._draw.randrange(20)}"
        value = self._values.get(name)
        action = "create" if value is None else self._draw.choice(["replace", "replace", "delete"])
        new = None if action == "delete" else f"v{self._num_calls}"
        argument = {"create": new, "replace": [value, new], "delete": None}[action]

        def settle(body):
            if body != {"answer": "done"}:
                self.problems.append(f"{action} {name}: {body}")
            self._values[name] = new
            self.facts["record", name] = new

        said = {"name": action, "record": name, "argument": argument}
        return self._call("record", settle, said, about=("record", name))

    def _register(self):
        said = {"app": self._draw.choice(self._apps), "seed": f"{self._number} {self._num_calls}"}
        return self._call("register", lambda body: self._note("version", body["version"]), said)

    def _release(self):
        app = self._draw.choice(self._apps)
        return self._call(
            "release", lambda body: self._note("deployment", body["deployment"]), {"app": app}, contended=True
        )

    def _job(self):
        app, step = self._draw.choice(self._apps), f"step-{self._number}-{self._num_calls}"

        def settle(body):
            self._made[step] = body["digest"]
            self.facts["step", step] = body["digest"]

        return self._call("job", settle, {"app": app, "step": step}, contended=True)

    def _erase(self):
        if not self._made:
            return None
        step = self._draw.choice(sorted(self._made))
        digest = self._made.pop(step)

        def settle(_body):
            self.facts["erased", step] = digest

        return self._call("erase", settle, {"digest": digest}, about=("step", step))

    def _issue(self):
        said = {"name": f"k{self._number}-{self._num_calls}", "scopes": ["predict"], "team": TEAM}

        def settle(body):
            key = body["status"]["id"]
            self._keys.append(key)
            self.facts["key", key] = (hash_key(body["key"]), False)

        return self._call("issue", settle, said, path="/api/v1/keys")

    def _revoke(self):
        if not self._keys:
            return None
        key = self._keys.pop(self._draw.randrange(len(self._keys)))
        sha256 = self.facts["key", key][0]

        def settle(_body):
            self.facts["key", key] = (sha256, True)

        path = f"/api/v1/keys/{key}"
        return self._call("revoke", settle, method="DELETE", path=path, about=("key", key))

    def _collect(self):
        return self._call("collect", lambda _body: None, {})

    def _note(self, kind, name):
        self.facts[kind, name] = True


def live_until_killed(hall, workers, kind, life_s, delay_s):
    """Let every worker ask for `life_s`; kill control `delay_s` after the next call of that kind was sent."""
    seen = threading.Event()
    threads = [
        threading.Thread(target=worker.live, args=(lambda sent: sent == kind and seen.set(),)) for worker in workers
    ]
    for thread in threads:
        thread.start()
    threading.Event().wait(life_s)
    seen.clear()
    seen.wait(5)
    threading.Event().wait(delay_s)
    hall.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a client hangs"


@contextmanager
def left_behind(hall):
    """Yield what a dead control left, opened from a copy so that the next life has to recover by itself."""
    keys = KeyRing.open(hall.folder / "keys")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hall.db"
        for end in ("", "-wal"):
            if (hall.folder / f"hall.db{end}").exists():
                shutil.copy(hall.folder / f"hall.db{end}", f"{path}{end}")
        catalogue = SqliteCatalogue(path, AutoClock(), entry_key=keys.entry_key)
        blobs = LocalBlobStore(hall.folder / "blobs")
        try:
            yield SimpleNamespace(
                path=path,
                catalogue=catalogue,
                blobs=blobs,
                keys=keys,
                vault=Vault(catalogue, blobs, keys),
                running=lambda: catalogue.find(Step, state="running"),
                named=lambda: {artifact.object for artifact in catalogue.find(Artifact)},
            )
        finally:
            catalogue.close()


def lost(found, facts):
    """Return what was acknowledged and is not there, or is not what was acknowledged."""
    return [
        f"{kind} {name}: {expected!r}"
        for (kind, name), expected in facts.items()
        if not _holds(found, kind, name, expected)
    ]


def _holds(found, kind, name, expected):
    try:
        return _KINDS[kind](found, name, expected)
    except NotFoundError:
        return kind == "record" and expected is None


def _step_holds(found, name, digest):
    done = found.catalogue.get(Step, name).state == "done"
    return done and found.vault.read(TEAM, digest) == content(name)


def _key_holds(found, name, expected):
    key = found.catalogue.get(ApiKey, name)
    return (key.sha256, key.revoked_at_ns is not None) == expected


_KINDS = {
    "record": lambda found, name, value: found.catalogue.get(App, name).spec_text == value,
    "version": lambda found, name, _: found.catalogue.get(Version, name).id == name,
    "deployment": lambda found, name, _: found.catalogue.get(Deployment, name).id == name,
    "step": _step_holds,
    "erased": lambda found, _, digest: not found.catalogue.find(Artifact, digest=digest),
    "key": _key_holds,
}


def halves(found):
    """Return what no kill may leave: half of an act, two of what there is one of, a name without what it names."""
    catalogue = found.catalogue
    entries = catalogue.entries()
    problems = [] if [entry.seq for entry in entries] == list(range(len(entries))) else ["the entries have a gap"]
    problems += map(str, verify_hall(found.path, found.keys.signer.public_key).problems)
    twice = Counter(entry.body["call"] for entry in entries if "call" in entry.body)
    problems += [f"call {call} had {number} effects" for call, number in twice.items() if number > 1]
    done = Counter(
        mark.id for entry in entries if entry.kind == "step.completed" for mark in entry.touched if mark.kind == "step"
    )
    problems += [f"{step} was done {number} times" for step, number in done.items() if number > 1]
    versions = catalogue.find(Version)
    parts = [sorted(v.candidate for v in versions), sorted({v.bundle for v in versions})]
    if parts != [sorted(c.id for c in catalogue.find(Candidate)), sorted(b.id for b in catalogue.find(Bundle))]:
        problems.append("a version without its candidate or bundle, or one of them alone")
    live = Counter(deployment.app for deployment in catalogue.find(Deployment, state="live"))
    problems += [f"{app} has {number} live deployments" for app, number in live.items() if number > 1]
    table = next(iter(catalogue.find(RouteTable)), None)
    routed = {route.app: route.deployment for route in table.routes} if table else {}
    if routed != {deployment.app: deployment.id for deployment in catalogue.find(Deployment, state="live")}:
        problems.append("the route table and the live deployments differ")
    for artifact in catalogue.find(Artifact):
        try:
            found.vault.read(TEAM, artifact.digest)
        except DatahallError as error:
            problems.append(f"{artifact.id} cannot be read: {error}")
    held = {lease.name for lease in catalogue.leases.leases()}
    running = [step for step in catalogue.find(Step, state="running") if f"run/{step.app}" not in held]
    return problems + [f"{step.id} is running without its lease" for step in running]


def stale_routes(hall, found):
    """Return what is wrong with the table that gateways follow, once control has recovered."""
    stored = next(iter(found.catalogue.find(RouteTable)), None)
    if stored is None:
        return []
    keys = {found.keys.signer.key_id: found.keys.signer.public_key}
    published = read_routes((hall.folder / "routes.json").read_bytes(), keys, found.keys.routes_key)
    return (
        []
        if published.revision == stored.revision
        else [f"{published.revision} is published, {stored.revision} written"]
    )
