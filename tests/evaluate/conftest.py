"""One look at a small table's holdout: candidates, champion, keys and clock as the job gets them."""

import io
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.core.errors import UnavailableError
from datahall.core.records import Claim, Column, Evidence, EvidenceKey, Grant, Particulars
from datahall.data.frames import ROW, SUBJECT, to_parquet
from datahall.engines.bundle import bundle_digest
from datahall.engines.open import open_predictor
from datahall.evaluate.contract import Contender, EvaluateRequest
from datahall.evaluate.job import run
from datahall.evaluate.statement import evidence_id, read_statement
from datahall.optimize.job import run as export
from datahall.security.signing import Ed25519Signer, dsse_open
from datahall.testing.clock import AutoClock
from datahall.testing.models import export_request, no_report, train_request
from datahall.testing.tables import TEAM, small_table
from datahall.train.job import run as train

SEX = Column(name="sex", kind="category", categories=("f", "m"))
AGE = Column(name="age", kind="number", nullable=True)


def claim(kind, metric, bound, *, name=None, direction="at_least", confidence=0.95, **settings) -> Claim:
    return Claim(
        kind=kind,
        name=name or kind,
        metric=metric,
        direction=direction,
        bound=bound,
        confidence=confidence,
        reason="a test says so",
        settings=settings,
    )


@dataclass
class Replica:
    """Answers like a bundle, a millisecond later; `takes_ms` can be a list that is gone through."""

    predictor: Any
    clock: AutoClock
    takes_ms: Any = (1.0,)
    closed: bool = False
    num_answered: int = 0

    def answer(self, columns):
        took = self.takes_ms[self.num_answered % len(self.takes_ms)]
        self.num_answered += 1
        if took is None:
            raise UnavailableError("the replica is gone")
        self.clock.advance(took / 1e3)
        return self.predictor.predict(columns)

    def close(self):
        self.closed = True


class Stage:
    """Everything stored once; `request` makes the job's request from it."""

    def __init__(self, task: str) -> None:
        self.blobs = MemoryBlobStore()
        self.task = task
        self.table = small_table(self.blobs, task=task, num_rows=1600)
        holdout = pl.read_parquet(io.BytesIO(self.blobs.get(self.table.holdout, team=TEAM)))
        rng = np.random.default_rng(3)
        num = holdout.height
        self.inputs = holdout.drop(self.table.target.name).with_columns(pl.Series(ROW, np.arange(num)))
        self.outcomes = holdout.select(self.table.target.name).with_columns(
            pl.Series(ROW, np.arange(num)),
            pl.Series("sex", rng.choice(["f", "m"], num)),
            pl.Series("age", [None if x < 20 else int(x) for x in rng.integers(18, 90, num)]),
        )
        self.contenders = {name: self._contender(name) for name in self.models}

    @property
    def models(self) -> tuple[str, ...]:
        return ("logistic", "forest") if self.task == "classification" else ("ridge", "forest")

    def _contender(self, model: str) -> Contender:
        settings = {"num_trees": 25} if model == "forest" else {}
        fits = train(train_request(self.table, model, seeds=(1, 2, 3), settings=settings), self.blobs, no_report)
        exported = export(export_request(self.table, fits), self.blobs, no_report)
        return Contender(
            candidate=model,
            bundle=bundle_digest(exported.manifests[0]),
            packed=exported.bundles[0],
            seed_bundles=exported.bundles[1:],
            address=None,
        )

    def store(self, frame: pl.DataFrame) -> Grant:
        return self.blobs.put(to_parquet(frame), team=TEAM)

    def with_subjects(self) -> pl.DataFrame:
        """Return the outcomes with every four rows belonging to one person."""
        return self.outcomes.with_columns(pl.Series(SUBJECT, [f"s{i // 4}" for i in range(self.outcomes.height)]))

    def predictor(self, name: str) -> Any:
        return open_predictor(self.blobs.get(self.contenders[name].packed, team=TEAM))

    def request(self, *claims: Claim, contenders=None, outcomes=None, **changes) -> EvaluateRequest:
        chosen = tuple(
            self.contenders[each] if isinstance(each, str) else each for each in (contenders or self.models[:1])
        )
        base = EvaluateRequest(
            app="small",
            team=TEAM,
            task=self.task,
            policy="pol_1",
            claims=claims,
            target=self.table.target,
            sensitive=(SEX, AGE),
            contenders=chosen,
            champion=None,
            holdout="hold_1",
            holdout_inputs=self.store(self.inputs),
            holdout_outcomes=self.store(self.outcomes if outcomes is None else outcomes),
            train=self.table.train,
            look=1,
            alphas={each.name: 0.025 / len(chosen) for each in claims},
            seed=5,
            node_class="node",
            environment="env_1",
            expires_at_ns=AutoClock().now_ns() + 10**15,
            signing_key=Ed25519Signer.generate().private_raw(),
        )
        return msgspec.structs.replace(base, **changes)

    def run(self, request: EvaluateRequest, clock=None, open_answerer=None):
        return run(request, self.blobs, no_report, clock or AutoClock(), open_answerer)

    def measure(self, *claims, **changes):
        """Return the measurements by (candidate, claim name)."""
        arguments = {name: changes.pop(name) for name in ("clock", "open_answerer") if name in changes}
        request = self.request(*claims, **changes)
        signer = Ed25519Signer.from_private(request.signing_key)
        names = {each.bundle: each.candidate for each in request.contenders}
        found = {}
        result = self.run(request, **arguments)
        stored = {grant.digest: self.blobs.get(grant, team=TEAM) for grant in result.particulars}
        for bundle, name, envelope in result.envelopes:
            opened = dsse_open(envelope, {signer.key_id: signer.public_key})
            subject, measurement = read_statement(opened.payload_type, opened.payload)
            assert (subject, measurement.claim) == (bundle, name)
            assert measurement.groups == {}, "the names of groups are no part of what is signed"
            if measurement.particulars:
                more = msgspec.json.decode(stored[measurement.particulars], type=Particulars)
                details = {**measurement.details, **more.details}
                measurement = msgspec.structs.replace(measurement, groups=more.groups, details=details)
            found[names[bundle], name] = measurement
        return found

    def key(self, request: EvaluateRequest, **changes) -> EvidenceKey:
        signer = Ed25519Signer.from_private(request.signing_key)
        now = AutoClock().now_ns()
        base = EvidenceKey(
            id=signer.key_id,
            app=request.app,
            step="step_1",
            public_key=signer.public_key,
            bundles=tuple(each.bundle for each in request.contenders),
            holdout=request.holdout,
            look=request.look,
            issued_at_ns=now - 10**9,
            expires_at_ns=now + 10**12,
        )
        return msgspec.structs.replace(base, **changes)

    def evidence(self, request: EvaluateRequest, number: int = 0, **changes) -> tuple[Evidence, EvidenceKey]:
        """Run the job and return its `number`-th statement as the catalogue keeps it, and the key's public half."""
        bundle, name, envelope = self.run(request).envelopes[number]
        key = self.key(request)
        base = Evidence(
            id=evidence_id(envelope),
            app=request.app,
            bundle=bundle,
            claim=name,
            step=key.step,
            envelope=envelope,
            key_id=key.id,
        )
        return msgspec.structs.replace(base, **changes), key


@pytest.fixture(scope="session")
def stage():
    return Stage("classification")


@pytest.fixture(scope="session")
def regression():
    return Stage("regression")


@pytest.fixture(scope="session")
def make_claim():
    return claim


@pytest.fixture
def make_replica():
    return Replica
