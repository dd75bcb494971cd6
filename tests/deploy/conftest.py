"""A hall in a folder, wired as in production, in which releases cost milliseconds: only the jobs' work is made up."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from datahall.app import wiring
from datahall.app.decisions import DecisionLog
from datahall.app.environment import current_environment
from datahall.app.jobs import Cancel
from datahall.app.lifecycle.evaluate import EvaluateStage
from datahall.app.lifecycle.stage import StageCall, StageResult
from datahall.app.origin import origin_of
from datahall.app.reconciler import Reconciler
from datahall.app.settings import Settings
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.telemetry import Telemetry
from datahall.backends.launch.local import LocalLauncher
from datahall.core.canonical import digest_of
from datahall.core.errors import DatahallError
from datahall.core.hall import HallPaths
from datahall.core.jobs import Message, Progress
from datahall.core.records import (
    Act,
    App,
    Bundle,
    BundleManifest,
    Candidate,
    Change,
    Claim,
    Column,
    Deployment,
    Evidence,
    Figure,
    Holdout,
    Measurement,
    Policy,
    Record,
    Route,
    Snapshot,
    Source,
    Split,
    Verdict,
    Version,
)
from datahall.engines.bundle import bundle_digest
from datahall.evaluate.contract import EvaluateRequest, EvaluateResult
from datahall.evaluate.statement import sign_measurement
from datahall.ledger.sequencer import Sequencer
from datahall.security.keys import KeyRing
from datahall.security.signing import Ed25519Signer
from datahall.spec.schema import AppSpec
from datahall.testing.clock import AutoClock
from tests.deploy.vandal import Vandal

APP, TEAM = "tumours", "main"
replace = msgspec.structs.replace


def accuracy(bound: float = 0.9) -> Claim:
    return Claim(
        kind="accuracy",
        name="accuracy",
        metric="accuracy",
        direction="at_least",
        bound=bound,
        confidence=0.95,
        reason="fewer than one in ten may be wrong",
    )


def improvement() -> Claim:
    return replace(accuracy(0.0), kind="improvement", name="improvement", reason="a newcomer must be better")


class EvaluateJob:
    """Stands where jobs are run: signs what the test wants measured, with the key that the stage hands out."""

    def __init__(self, clock: AutoClock) -> None:
        self.clock = clock
        self.lower = 0.95
        self.requests: list[EvaluateRequest] = []
        self.change: Callable[[Measurement], Measurement] = lambda measurement: measurement

    def run(self, stage: str, request: EvaluateRequest, result_type: type, **options: Any) -> EvaluateResult:
        del result_type, options
        assert stage == "evaluate"
        self.requests.append(request)
        signer = Ed25519Signer.from_private(request.signing_key)
        return EvaluateResult(
            envelopes=tuple(
                (item.bundle, claim.name, sign_measurement(signer, item.bundle, item.candidate, measured))
                for item in request.contenders
                for claim in request.claims
                for measured in [self.change(self.measure(request, claim))]
            )
        )

    def measure(self, request: EvaluateRequest, claim: Claim) -> Measurement:
        lower = self.lower if claim.kind == "accuracy" else self.lower - 0.9
        figure = Figure(
            estimate=lower + 0.01,
            lower=lower,
            upper=lower + 0.02,
            alpha=request.alphas[claim.name],
            num=500,
            method="made up",
        )
        return Measurement(
            app=request.app,
            claim=claim.name,
            kind=claim.kind,
            metric=claim.metric,
            policy=request.policy,
            holdout=request.holdout,
            look=request.look,
            num_candidates=len(request.contenders),
            champion=request.champion.bundle if request.champion else None,
            figure=figure,
            node_class=request.node_class,
            environment=request.environment,
            measured_at_ns=self.clock.now_ns(),
            expires_at_ns=request.expires_at_ns,
        )


class IdleProcess:
    """A replica that says at once that it answers, and runs as long as this test."""

    pid = os.getpid()
    isolation = "none"

    def messages(self):
        yield Message(progress=Progress(done=1, total=1))

    def poll(self):
        return None

    def stop(self, grace_seconds=10.0):
        return 0


class Idle:
    """Launcher and replicas of a reconciler that is only asked what it would route."""

    def __init__(self) -> None:
        self.started: list[Bundle] = []

    def start(self, replica_id: str, bundle: Bundle, team: str) -> IdleProcess:
        del replica_id, team
        self.started.append(bundle)
        return IdleProcess()

    def address(self, replica_id: str) -> str:
        return f"/run/{replica_id}.sock"

    def forget(self, replica_id: str) -> None:
        del replica_id

    def adopt(self, pid: int, started_at: float) -> IdleProcess:
        del pid, started_at
        return IdleProcess()


class House(Vandal):
    """An open hall with one application, and everything that carries a candidate of it to traffic."""

    def __init__(self, folder: Path, mould: House | None = None) -> None:
        if mould is not None:
            shutil.copytree(mould.paths.root, folder)
        self.paths = HallPaths(folder)
        self.paths.create()
        self.db = self.paths.db
        self.clock = AutoClock()
        self.keys = KeyRing.open(self.paths.keys, create=True)
        self.catalogue = SqliteCatalogue(self.paths.db, self.clock, entry_key=self.keys.entry_key)
        self.sequencer = Sequencer(self.catalogue, self.keys.signer, origin_of(self.keys.signer), self.clock)
        launcher = LocalLauncher(self.paths.logs, self.paths.work)
        self.hall = wiring._wire(
            self.paths,
            Settings(),
            self.clock,
            self.keys,
            self.catalogue,
            LocalBlobStore(self.paths.blobs),
            self.sequencer,
            launcher,
            launcher,
        )
        self.stages = dict(self.hall.stages)
        self.job = EvaluateJob(self.clock)
        evaluate = self.stages["evaluate"]
        assert isinstance(evaluate, EvaluateStage)
        evaluate._jobs = self.job
        self.admission = self.hall.admission
        self.champion: Version | None = None
        self.outputs: dict[str, dict[str, str]] = {}
        if mould is not None:
            self.app, self.policy, self.outputs = mould.app, mould.policy, dict(mould.outputs)
        else:
            self.declare(accuracy())
            self.take_data()

    # what a lifecycle would have done before the gate

    def write(self, *records: Record, kind: Any = "step.completed") -> None:
        """Write records as an act does, in place of those of the same id."""
        changes = tuple(Change(old=self.stored(record), new=record) for record in records)
        self.catalogue.act(Act(kind=kind, actor="test", app=APP, changes=changes))

    def stored(self, record: Record) -> Record | None:
        found = self.catalogue.find(type(record), id=record.id)
        return found[0] if found else None

    def declare(self, *claims: Claim, days: float = 30.0) -> Policy:
        """Accept an application file with these claims."""
        policy = Policy(id="", app=APP, claims=claims, evidence_days=days)
        policy = replace(policy, id=f"pol_{digest_of(policy)}")
        self.app = App(
            id=APP,
            team=TEAM,
            task="classification",
            spec_digest=policy.id,
            spec_text="",
            policy=policy.id,
            declared_at_ns=self.clock.now_ns(),
        )
        self.write(self.app, policy, current_environment(), kind="app.declared")
        self.policy = policy
        return policy

    def take_data(self, seed: int = 0, files: str = "f" * 64) -> Holdout:
        """Do what the data stage does once its job has split the table under a seed."""
        stage = self.stages["data"]
        splits, kept = [], []
        for name in ("train", "validation", "holdout_inputs", "holdout_outcomes"):
            digest, changes = self.hall.vault.store(TEAM, f"{name} {seed}".encode(), "text/plain")
            splits.append(Split(name=name, artifact=digest, num_rows=500))
            kept += changes
        snapshot = Snapshot(
            id=f"snap_{seed}",
            app=APP,
            team=TEAM,
            sources=(Source(name="tumours.csv", digest=files, size_bytes=1, num_rows=2000),),
            recipe_digest=str(seed),
            features=(Column(name="radius", kind="number"),),
            target=Column(name="kind", kind="category", categories=("benign", "malignant")),
            sensitive=(),
            has_subject=False,
            splits=tuple(splits),
            statistics="0" * 64,
            num_rows=2000,
            num_rows_dropped=0,
            made_at_ns=self.clock.now_ns(),
        )
        holdout = stage._holdout(snapshot)
        new = [Change(new=record) for record in (snapshot, holdout) if self.stored(record) is None]
        self.catalogue.act(Act(kind="step.completed", actor="test", app=APP, changes=(*kept, *new)))
        self.outputs["data"] = {"snapshot": snapshot.id, "holdout": holdout.id}
        return holdout

    def train(self, name: str = "forest", *, threshold: float | None = None) -> Bundle:
        """Make a candidate of that name; its model is its name."""
        manifest = BundleManifest(
            app=APP,
            task="classification",
            engine="sklearn",
            engine_settings={},
            features=(Column(name="radius", kind="number"),),
            target=Column(name="kind", kind="category", categories=("benign", "malignant")),
            threshold=threshold,
            environment=current_environment().id,
            files={"model.skops": digest_of(name)},
        )
        artifact, kept = self.hall.vault.store(TEAM, f"packed {name} {threshold}".encode(), "text/plain")
        bundle = Bundle(id=bundle_digest(manifest), app=APP, artifact=artifact, manifest=manifest, equivalence={})
        serial = len(self.catalogue.find(Candidate, app=APP)) + 1
        candidate = Candidate(id=f"{APP}#{serial}", app=APP, serial=serial, name=name, bundle=bundle.id, run="run_1")
        changes = (*kept, Change(new=bundle), Change(new=candidate))
        self.catalogue.act(Act(kind="step.completed", actor="test", app=APP, changes=changes))
        self.outputs[f"export/{name}"] = {"candidate": candidate.id, "bundle": bundle.id, "seed_bundle_0": bundle.id}
        return bundle

    # the stages themselves

    def call(self, name: str, **changes: Any) -> StageCall:
        spec = AppSpec(
            datahall=1,
            name=APP,
            task="classification",
            data={"sources": ["tumours.csv"], "target": "kind"},  # type: ignore[arg-type]
        )
        fields: dict[str, Any] = {
            "app": self.app,
            "spec": spec,
            "folder": self.paths.root,
            "key": digest_of([name, len(self.catalogue.entries())]),
            "name": name,
            "upstream": dict(self.outputs),
            "champion": self.champion,
            "report": lambda _: None,
            "cancel": Cancel(),
        }
        return StageCall(**(fields | changes))

    def apply(self, result: StageResult) -> dict[str, str]:
        self.catalogue.act(Act(kind=result.kind, actor="lifecycle", app=APP, body=result.body, changes=result.changes))
        return result.outputs

    def step(self, name: str, **changes: Any) -> dict[str, str]:
        """Do one stage and write what it returns in one act, as the walk does."""
        self.outputs[name] = self.apply(self.stages[name].run(self.call(name, **changes)))
        return self.outputs[name]

    def measured(self) -> Evidence:
        """Train and measure one candidate, and return its evidence without storing it."""
        self.train()
        result = self.stages["evaluate"].run(self.call("evaluate"))
        (evidence,) = [change.new for change in result.changes if isinstance(change.new, Evidence)]
        return evidence

    def job_key(self) -> Ed25519Signer:
        """Return the key that the newest evaluate job was given."""
        return Ed25519Signer.from_private(self.job.requests[-1].signing_key)

    def evaluate(self) -> list[Evidence]:
        """Look at the holdout once for all candidates; return the evidence of this look."""
        before = {item.id for item in self.catalogue.find(Evidence)}
        self.step("evaluate")
        return [item for item in self.catalogue.find(Evidence) if item.id not in before]

    def gate(self) -> Verdict:
        """Ask the gate; return the last candidate's verdict."""
        return self.catalogue.get(Verdict, list(self.step("gate").values())[-1])

    def register(self) -> Version:
        return self.catalogue.get(Version, self.step("register")["version"])

    def register_unwritten(self) -> Version:
        """Return the version that would be registered."""
        (change,) = self.stages["register"].run(self.call("register")).changes
        assert isinstance(change.new, Version)
        return change.new

    def deploy(self) -> Deployment:
        return self.catalogue.get(Deployment, self.step("deploy")["deployment"])

    def release(self) -> Deployment:
        """Go from evidence to a deployment."""
        self.gate()
        self.register()
        return self.deploy()

    def released(self) -> Deployment:
        """Take a good candidate all the way from training."""
        self.train()
        self.evaluate()
        return self.release()

    def next_round(self) -> None:
        """Make what answers now the champion that the next candidates must beat."""
        live = self.catalogue.find(Deployment, app=APP, state="live")
        self.champion = self.catalogue.get(Version, live[-1].version)
        self.outputs = {"data": self.outputs["data"]}

    # what comes of it

    def reconciler(self, published: list[Any]) -> Reconciler:
        """Return a reconciler whose replicas answer at once and whose tables end up in `published`."""
        idle = Idle()
        return Reconciler(
            self.catalogue,
            self.admission,
            idle,  # type: ignore[arg-type]
            idle,  # type: ignore[arg-type]
            self.clock,
            publish=published.append,
            acknowledged=lambda: published[-1].revision if published else 0,
            decisions=DecisionLog(Telemetry(self.paths.telemetry)),
            integrate=self.sequencer.flush,
            manifests=lambda bundle, _team: bundle.manifest,
        )

    def rounds(self, reconciler: Reconciler, num: int = 2) -> str:
        """Let a reconciler work; return its problem."""
        self.sequencer.flush()
        problem = ""
        before = set(threading.enumerate())
        for _ in range(num):
            try:
                reconciler.tick()
            except DatahallError as error:
                problem = str(error)
            for thread in set(threading.enumerate()) - before:
                thread.join(10)
            self.sequencer.flush()
        return problem or "; ".join(reconciler.problems())

    def reconcile(self) -> tuple[list[Any], str]:
        """Run a reconciler of its own; return the tables that it published and its problem."""
        published: list[Any] = []
        return published, self.rounds(self.reconciler(published))

    def refusal(self) -> str:
        """Go on from the evidence; return why there is no way to traffic, and see that there is none."""
        try:
            verdict = self.gate()
            if verdict.outcome == "pass":
                self.register()
                self.deploy()
                reason = ""
            else:
                reason = verdict.reason
                self.pretend(verdict)
        except DatahallError as error:
            reason = str(error)
        assert self.routes() == []
        return reason

    def pretend(self, verdict: Verdict, /, **changes: Any) -> tuple[Version, Deployment]:
        """Register and deploy whatever a verdict is about, by proper acts, asking nobody."""
        version = Version(
            id=f"{APP}@9.9.{len(self.catalogue.find(Version))}",
            app=APP,
            semver="9.9.9",
            candidate=verdict.candidate,
            bundle=verdict.bundle,
            verdict=verdict.id,
            parent=None,
            registered_at_ns=self.clock.now_ns(),
        )
        version = replace(version, **changes)
        deployment = Deployment(
            id=f"dep_{version.id}",
            app=APP,
            team=TEAM,
            version=version.id,
            bundle=version.bundle,
            verdict=version.verdict,
            state="live",
            num_replicas=1,
            protocols=("predict",),
            drain_seconds=0.0,
            opened_at_ns=self.clock.now_ns(),
        )
        self.write(version, deployment, kind="deployment.opened")
        return version, deployment

    def routes(self) -> list[Route]:
        """Return what gateways would be told now."""
        published, _ = self.reconcile()
        return [route for route in published[-1].routes if route.replicas] if published else []


@pytest.fixture(scope="session")
def halls(tmp_path_factory):
    # In memory where there is such a folder: whether a disk keeps what it acknowledged is not the question here.
    memory = Path("/dev/shm")  # noqa: S108  (a fresh private folder in it)
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("halls")) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def mould(halls):
    made = House(halls / "mould")
    made.sequencer.flush()
    made.catalogue.close()
    return made


@pytest.fixture
def house(halls, mould):
    folder = halls / secrets.token_hex(8)
    made = House(folder, mould)
    yield made
    made.catalogue.close()
    shutil.rmtree(folder)


@pytest.fixture
def claim():
    return accuracy


@pytest.fixture
def better():
    return improvement
