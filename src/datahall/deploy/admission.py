"""The last check before traffic: follows a version back to its evidence and asks the gate once more."""

from __future__ import annotations

import msgspec

from datahall.core.errors import NotFoundError, RefusedError
from datahall.core.ports import Catalogue
from datahall.core.records import Bundle, Candidate, Evidence, Policy, Verdict, Version
from datahall.policy import gate
from datahall.registry.exhibits import Anchored, exhibits_of


class Admission:
    """Knows whether a version may answer anybody; there is no other way to traffic."""

    def __init__(self, catalogue: Catalogue, anchored: Anchored) -> None:
        self._catalogue = catalogue
        self._anchored = anchored

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
            if not self._anchored(record):
                raise RefusedError(
                    f"the {record.KIND} {record.id} is not what the ledger says", where=where, hint="datahall verify"
                )
        if verdict.outcome != "pass":
            raise RefusedError(f"its verdict is {verdict.outcome}: {verdict.reason}", where=where)
        chain = (verdict.candidate, verdict.bundle, candidate.bundle, verdict.app, verdict.policy)
        if chain != (version.candidate, version.bundle, version.bundle, version.app, policy.id):
            raise RefusedError("its verdict is about another candidate, bundle or policy", where=where)
        self._repeat(version, verdict, policy)
        return bundle

    def _repeat(self, version: Version, verdict: Verdict, policy: Policy) -> None:
        """Ask the gate again on the recorded view, after holding that view against what is stored."""
        view = msgspec.convert(verdict.view, gate.GateView)
        if gate.view_digest(view) != verdict.view_digest:
            raise RefusedError("the view that its verdict was given on was altered", where=version.id)
        if (view.bundle, view.candidate, view.policy) != (version.bundle, version.candidate, policy):
            raise RefusedError("its verdict was given on the view of something else", where=version.id)
        now = {
            exhibit.id: exhibit for exhibit in exhibits_of(self._catalogue, self._anchored, version.app, version.bundle)
        }
        for exhibit in view.exhibits:
            if now.get(exhibit.id) != exhibit:
                raise RefusedError(f"the {Evidence.KIND} {exhibit.id} changed after the verdict", where=version.id)
        _, decision, reason = gate.decide(None, view, None, verdict.decided_at_ns, 0.0)
        if (decision.outcome, decision.findings, reason) != (verdict.outcome, verdict.findings, verdict.reason):
            raise RefusedError("the gate does not repeat its verdict", where=version.id)
