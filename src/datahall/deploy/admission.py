"""The last check before traffic: follows a version back to its evidence and asks the gate once more."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from datahall.core.errors import NotFoundError, RefusedError
from datahall.core.ports import Catalogue
from datahall.core.records import (
    App,
    Bundle,
    Candidate,
    Deployment,
    Evidence,
    Holdout,
    Policy,
    Record,
    Verdict,
    Version,
)
from datahall.policy import gate
from datahall.registry.exhibits import Anchored, exhibits_of, gate_view, require_whole

_VERIFY = "datahall verify"


class Admission:
    """Knows whether a version may answer anybody; there is no other way to traffic."""

    def __init__(self, catalogue: Catalogue, anchored: Anchored) -> None:
        self._catalogue = catalogue
        self._anchored = anchored

    def serve(self, deployment: Deployment) -> Bundle:
        """Return the bundle with which a deployment may answer.

        Raises RefusedError where the deployment is not what the ledger says or runs something else than its version,
        and as `check` does.
        """
        self._require(deployment, where=deployment.id)
        try:
            version = self._catalogue.get(Version, deployment.version)
            app = self._catalogue.get(App, deployment.app)
        except NotFoundError as error:
            raise RefusedError(f"a link of its chain is missing: {error.what}", where=deployment.id) from error
        chain = (deployment.app, deployment.bundle, deployment.verdict, deployment.team)
        if chain != (version.app, version.bundle, version.verdict, app.team):
            raise RefusedError(f"it runs something else than {version.id}", where=deployment.id, hint=_VERIFY)
        return self.check(version)

    def promote(self, version: Version, deployments: Sequence[Deployment], *, now_ns: int, node_class: str) -> None:
        """Return only if a new deployment of `version` may open now, on machines of `node_class`.

        What had traffic before may have it again. Anything else must be proven today: under the claims of today,
        by evidence that has not expired, against the champion of today. `deployments` are all of the application's;
        whoever then opens one must do so on just these, or another promotion may have come in between.
        Raises RefusedError, as `check` does too, and IntegrityError where records that the ledger knows are gone.
        """
        self.check(version)
        require_whole(self._catalogue, self._anchored, Deployment)
        for deployment in deployments:
            self._require(deployment, where=version.id)
        if any(deployment.version == version.id for deployment in deployments):
            return
        live = [deployment.bundle for deployment in deployments if deployment.state == "live"]
        verdict = self._catalogue.get(Verdict, version.verdict)
        if self._catalogue.get(App, version.app).policy != verdict.policy:
            raise RefusedError("the claims were changed after its verdict", where=version.id, hint="datahall run")
        seen = msgspec.convert(verdict.view, gate.GateView)
        view = gate_view(
            self._catalogue,
            self._anchored,
            policy=seen.policy,
            holdout=self._catalogue.get(Holdout, seen.holdout.id),
            candidate=version.candidate,
            bundle=version.bundle,
            champion=seen.champion if version.bundle in live else (live[-1] if live else None),
            node_class=node_class,
        )
        _, decision, reason = gate.decide(None, view, None, now_ns, 0.0)
        if decision.outcome != "pass":
            raise RefusedError(f"it is not proven any more: {reason}", where=version.id, hint="datahall run")

    def check(self, version: Version) -> Bundle:
        """Return the bundle that may get traffic.

        Raises RefusedError naming the first broken link: a record that differs from the ledger, a verdict that is
        not a pass or is about something else, evidence that changed since, or a decision that does not repeat.
        """
        where = version.id
        if version.revoked:
            raise RefusedError("the version was revoked", where=where, hint="release another one")
        try:
            verdict = self._catalogue.get(Verdict, version.verdict)
            candidate = self._catalogue.get(Candidate, version.candidate)
            policy = self._catalogue.get(Policy, verdict.policy)
            bundle = self._catalogue.get(Bundle, version.bundle)
        except NotFoundError as error:
            raise RefusedError(f"a link of its chain is missing: {error.what}", where=where) from error
        for record in (version, verdict, candidate, policy, bundle):
            self._require(record, where=where)
        if verdict.outcome != "pass":
            raise RefusedError(f"its verdict is {verdict.outcome}: {verdict.reason}", where=where)
        chain = (verdict.candidate, verdict.bundle, candidate.bundle, verdict.app, candidate.app, bundle.app)
        if chain != (version.candidate, *[version.bundle] * 2, *[version.app] * 3):
            raise RefusedError("its verdict is about another candidate, bundle or policy", where=where)
        self._repeat(version, verdict, policy)
        return bundle

    def _require(self, record: Record, *, where: str) -> None:
        if not self._anchored(record):
            raise RefusedError(f"the {record.KIND} {record.id} is not what the ledger says", where=where, hint=_VERIFY)

    def _repeat(self, version: Version, verdict: Verdict, policy: Policy) -> None:
        """Ask the gate again on the recorded view, after holding that view against what is stored."""
        view = msgspec.convert(verdict.view, gate.GateView)
        if gate.view_digest(view) != verdict.view_digest:
            raise RefusedError("the view that its verdict was given on was altered", where=version.id)
        if (view.bundle, view.candidate, view.policy) != (version.bundle, version.candidate, policy):
            raise RefusedError("its verdict was given on the view of something else", where=version.id)
        stored = exhibits_of(self._catalogue, self._anchored, version.app, version.bundle)
        now = {exhibit.id: exhibit for exhibit in stored}
        for exhibit in view.exhibits:
            if now.pop(exhibit.id, None) != exhibit:
                raise RefusedError(f"the {Evidence.KIND} {exhibit.id} changed after the verdict", where=version.id)
        for exhibit in now.values():
            # What was found in a later look, or in another holdout, was not there to be seen.
            measured = exhibit.measurement
            if measured.holdout == view.holdout.id and measured.look <= view.holdout.num_looks:
                raise RefusedError(f"its verdict was given without the {Evidence.KIND} {exhibit.id}", where=version.id)
        _, decision, reason = gate.decide(None, view, None, verdict.decided_at_ns, 0.0)
        if (decision.outcome, decision.findings, reason) != (verdict.outcome, verdict.findings, verdict.reason):
            raise RefusedError("the gate does not repeat its verdict", where=version.id)
