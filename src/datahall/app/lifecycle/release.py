"""The gate, register and deploy stages: from evidence to a verdict, a version, and a deployment."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from datahall.app.contents import Reader, manifest_of
from datahall.app.environment import node_class
from datahall.app.lifecycle.stage import StageCall, StageResult
from datahall.core.errors import RefusedError
from datahall.core.ids import new_id
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Bundle, BundleManifest, Change, Deployment, Holdout, Policy, Quota, Verdict, Version
from datahall.deploy.admission import Admission
from datahall.policy import gate, select
from datahall.registry.exhibits import Anchored, gate_view
from datahall.registry.semver import next_semver, order


class GateStage:
    """Asks the gate about every candidate that was measured."""

    def __init__(self, catalogue: Catalogue, anchored: Anchored, integrate: Callable[[], object], clock: Clock) -> None:
        self._catalogue = catalogue
        self._anchored = anchored
        self._integrate = integrate
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Write a verdict for each candidate; the gate sees only evidence that the tree holds."""
        self._integrate()
        policy = self._catalogue.get(Policy, call.app.policy)
        champion = call.champion.bundle if call.champion else None
        exported = {name.partition("/")[2]: out for name, out in call.upstream.items() if name.startswith("export/")}
        verdicts = {
            name: self._verdict(call, policy, out["candidate"], out["bundle"], champion)
            for name, out in sorted(exported.items())
        }
        passed = sum(verdict.outcome == "pass" for verdict in verdicts.values())
        return StageResult(
            changes=tuple(Change(new=verdict) for verdict in verdicts.values()),
            outputs={name: verdict.id for name, verdict in verdicts.items()},
            kind="verdict.given",
            body={verdict.candidate: verdict.outcome for verdict in verdicts.values()},
            summary=f"{passed} of {len(verdicts)} candidate(s) passed",
        )

    def _verdict(self, call: StageCall, policy: Policy, candidate: str, bundle: str, champion: str | None) -> Verdict:
        view = gate_view(
            self._catalogue,
            self._anchored,
            policy=policy,
            holdout=self._catalogue.get(Holdout, call.upstream["data"]["holdout"]),
            candidate=candidate,
            bundle=bundle,
            champion=champion,
            node_class=node_class(),
        )
        now = self._clock.now_ns()
        _, decision, reason = gate.decide(None, view, None, now, 0.0)
        return Verdict(
            id=new_id("verdict", self._clock),
            app=call.app.id,
            candidate=candidate,
            bundle=bundle,
            policy=policy.id,
            outcome=decision.outcome,
            reason=reason,
            findings=decision.findings,
            view=msgspec.to_builtins(view),
            view_digest=gate.view_digest(view),
            decided_at_ns=now,
        )


class RegisterStage:
    """Gives the best candidate that passed a version number."""

    def __init__(self, catalogue: Catalogue, vault: Reader, clock: Clock) -> None:
        self._catalogue = catalogue
        self._vault = vault
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Register a version, or keep the one that answers. Raises RefusedError where no candidate passed."""
        champion = call.champion
        policy = self._catalogue.get(Policy, call.app.policy)
        verdicts = tuple(self._catalogue.get(Verdict, key) for _, key in sorted(call.upstream["gate"].items()))
        view = select.SelectView(policy=policy, verdicts=verdicts, champion=champion.bundle if champion else None)
        _, chosen, reason = select.decide(None, view, None, self._clock.now_ns(), 0.0)
        if chosen is None:
            raise RefusedError(reason, where=call.app.id)
        verdict = next(verdict for verdict in verdicts if verdict.id == chosen)
        if champion is not None and verdict.bundle == champion.bundle:
            return StageResult(
                outputs={"version": champion.id, "verdict": champion.verdict}, summary=f"{champion.id} stays: {reason}"
            )
        version, why = self._version(call, verdict)
        return StageResult(
            changes=(Change(new=version),),
            outputs={"version": version.id, "verdict": verdict.id},
            kind="version.registered",
            body={"version": version.id, "chosen": reason, "number": why},
            summary=f"{version.id}: {why}; {reason}",
        )

    def _version(self, call: StageCall, verdict: Verdict) -> tuple[Version, str]:
        parent = call.champion
        manifest = self._manifest(call, verdict.bundle)
        # What changed is told by the version that answers, the number by the newest one: an older one may answer again.
        numbers = [version.semver for version in self._catalogue.find(Version, app=call.app.id)]
        before = (max(numbers, key=order), self._manifest(call, parent.bundle)) if parent else None
        semver, why = next_semver(before, manifest)
        version = Version(
            id=f"{call.app.id}@{semver}",
            app=call.app.id,
            semver=semver,
            candidate=verdict.candidate,
            bundle=verdict.bundle,
            verdict=verdict.id,
            parent=parent.id if parent else None,
            registered_at_ns=self._clock.now_ns(),
        )
        return version, why

    def _manifest(self, call: StageCall, bundle: str) -> BundleManifest:
        return manifest_of(self._vault, self._catalogue.get(Bundle, bundle), call.app.team)


class DeployStage:
    """Opens a deployment of the registered version in place of the one before."""

    def __init__(
        self, catalogue: Catalogue, admission: Admission, integrate: Callable[[], object], clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._admission = admission
        self._integrate = integrate
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Check the version's whole chain, then open its deployment. Raises RefusedError where a link is missing."""
        self._integrate()
        version = self._catalogue.get(Version, call.upstream["register"]["version"])
        now = self._clock.now_ns()
        # Read once: the champion to beat, the deployments to retire and the new one's number are of the same moment.
        before = self._catalogue.find(Deployment, app=call.app.id)
        self._admission.promote(version, before, now_ns=now, node_class=node_class())
        deployment = Deployment(
            id=f"dep_{call.app.id}_{len(before) + 1}",  # of two that are opened at once, only one can be written
            app=call.app.id,
            team=call.app.team,
            version=version.id,
            bundle=version.bundle,
            verdict=version.verdict,
            state="live",
            num_replicas=call.spec.serve.replicas,
            protocols=call.spec.serve.protocols,
            drain_seconds=call.spec.serve.rollout.drain_seconds,
            opened_at_ns=now,
            quota=Quota(**call.spec.serve.limits.model_dump()),
            cache_seconds=call.spec.serve.cache.seconds,
        )
        live = [old for old in before if old.state == "live"]
        same = [old for old in live if msgspec.structs.replace(old, id=deployment.id, opened_at_ns=now) == deployment]
        if same:
            return StageResult(outputs={"deployment": same[0].id}, summary=f"{version.id} answers already")
        retired = tuple(
            Change(old=old, new=msgspec.structs.replace(old, state="retired", closed_at_ns=now)) for old in live
        )
        return StageResult(
            changes=(Change(new=deployment), *retired),
            outputs={"deployment": deployment.id},
            kind="deployment.opened",
            body={"deployment": deployment.id, "version": version.id, "replaces": [old.id for old in live]},
            summary=f"{version.id} on {deployment.num_replicas} replica(s)",
        )
