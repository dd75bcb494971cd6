"""The evaluate stage: opens the holdout once for all candidates, and keeps what the job signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from datahall.app.contents import columns_of
from datahall.app.environment import current_environment
from datahall.app.jobs import Jobs
from datahall.app.lifecycle.stage import StageCall, StageResult, ensure
from datahall.app.replicas import Replicas, wait_ready
from datahall.app.vault import Vault
from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError
from datahall.core.ids import new_id
from datahall.core.jobs import Progress
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Act, Bundle, Change, Evidence, EvidenceKey, Grant, Holdout, Policy, Snapshot
from datahall.core.seeds import derive_seed
from datahall.evaluate.contract import Contender, EvaluateRequest, EvaluateResult
from datahall.policy.gate import spend
from datahall.registry.exhibits import Anchored, require_whole
from datahall.security.signing import Ed25519Signer

KEY_LIFETIME_NS = 3600 * 10**9
DAY_NS = 86_400 * 10**9


class EvaluateStage:
    """Measures every candidate, all of them in one look."""

    def __init__(
        self,
        catalogue: Catalogue,
        vault: Vault,
        jobs: Jobs,
        replicas: Replicas,
        anchored: Anchored,
        integrate: Callable[[], object],
        clock: Clock,
    ) -> None:
        self._catalogue = catalogue
        self._vault = vault
        self._jobs = jobs
        self._replicas = replicas
        self._anchored = anchored
        self._integrate = integrate
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Count the look, give out a key that signs for an hour, run the job, keep its statements."""
        policy = self._catalogue.get(Policy, call.app.policy)
        champion = call.champion.bundle if call.champion else None
        names = {name: out for name, out in call.upstream.items() if name.startswith("export/")}
        # The version that answers now is measured with the rest where the file still names it: under changed claims it
        # must hold its place by the same figures as they.
        contenders = {out["bundle"]: out for _, out in sorted(names.items())}
        signer = Ed25519Signer.generate()
        holdout, key = self._open_holdout(call, signer, tuple(sorted(contenders)))
        with ExitStack() as stack:
            needs_replica = any(claim.kind == "latency" for claim in policy.claims)
            request = self._request(call, policy, holdout, key, signer, champion)
            request = msgspec.structs.replace(
                request,
                contenders=tuple(
                    self._contender(call, out, stack.enter_context(self._shadow(call, bundle, wanted=needs_replica)))
                    for bundle, out in contenders.items()
                ),
            )
            result = self._jobs.run(
                "evaluate", request, EvaluateResult, team=call.app.team, report=call.report, cancel=call.cancel
            )
        evidence = [
            Evidence(
                id=f"evd_{digest_bytes(envelope.encode())[:32]}",
                app=call.app.id,
                bundle=bundle,
                claim=claim,
                step=call.key,
                envelope=envelope,
                key_id=signer.key_id,
            )
            for bundle, claim, envelope in result.envelopes
        ]
        return StageResult(
            changes=(
                *self._vault.keep(call.app.team, [(grant, "application/json") for grant in result.particulars]),
                *ensure(self._catalogue, current_environment()),
                *(Change(new=item) for item in evidence),
            ),
            outputs={"holdout": holdout.id, "look": str(holdout.num_looks)},
            summary=(
                f"{len(evidence)} claims measured for {len(contenders)} candidate(s); "
                f"look {holdout.num_looks} at this holdout"
            ),
        )

    def _open_holdout(
        self, call: StageCall, signer: Ed25519Signer, bundles: tuple[str, ...]
    ) -> tuple[Holdout, EvidenceKey]:
        """Write the look and the key before anybody can see a figure: a crash then costs the look all the same."""
        before = self._catalogue.get(Holdout, call.upstream["data"]["holdout"])
        holdout = msgspec.structs.replace(before, num_looks=self._looks_at(before) + 1)
        now = self._clock.now_ns()
        key = EvidenceKey(
            id=signer.key_id,
            app=call.app.id,
            step=call.key,
            public_key=signer.public_key,
            bundles=bundles,
            holdout=holdout.id,
            look=holdout.num_looks,
            issued_at_ns=now,
            expires_at_ns=now + KEY_LIFETIME_NS,
        )
        self._catalogue.act(
            Act(
                kind="holdout.opened",
                actor="lifecycle",
                app=call.app.id,
                body={"holdout": holdout.id, "look": holdout.num_looks, "bundles": list(bundles)},
                changes=(Change(old=before, new=holdout), Change(new=key)),
            )
        )
        return holdout, key

    def _looks_at(self, holdout: Holdout) -> int:
        """Return how often rows of the same files were looked at, whichever holdout they were dealt into.

        Counted anew at each look: holdouts that were all made before the first one would else have a count each.
        Raises IntegrityError where a count is not the ledger's.
        """
        self._integrate()
        require_whole(self._catalogue, self._anchored, Holdout)
        files = self._files(holdout)
        family = [other for other in self._catalogue.find(Holdout, app=holdout.app) if files & self._files(other)]
        for other in family:
            if not self._anchored(other):
                raise IntegrityError(f"the looks at {other.id} are not what the ledger counted", hint="datahall verify")
        return max(other.num_looks for other in family)

    def _files(self, holdout: Holdout) -> set[str]:
        return {source.digest for source in self._catalogue.get(Snapshot, holdout.snapshot).sources}

    def _request(
        self,
        call: StageCall,
        policy: Policy,
        holdout: Holdout,
        key: EvidenceKey,
        signer: Ed25519Signer,
        champion: str | None,
    ) -> EvaluateRequest:
        team = call.app.team
        snapshot = self._catalogue.get(Snapshot, call.upstream["data"]["snapshot"])
        columns = columns_of(self._vault, snapshot)
        environment = current_environment()
        return EvaluateRequest(
            app=call.app.id,
            team=team,
            task=call.app.task,
            policy=policy.id,
            claims=policy.claims,
            target=columns.target,
            sensitive=columns.sensitive,
            contenders=(),
            champion=self._champion(team, champion) if champion else None,
            holdout=holdout.id,
            holdout_inputs=self._vault.grant(team, holdout.inputs),
            holdout_outcomes=self._vault.grant(team, holdout.outcomes),
            train=self._vault.grant(team, snapshot.split("train").artifact),
            look=holdout.num_looks,
            alphas={
                claim.name: spend(claim.confidence, holdout.num_looks, len(key.bundles)) for claim in policy.claims
            },
            seed=derive_seed(call.spec.train.seed, "evaluate", holdout.num_looks),
            node_class=environment.node_class,
            environment=environment.id,
            expires_at_ns=self._clock.now_ns() + int(policy.evidence_days * DAY_NS),
            signing_key=signer.private_raw(),
        )

    def _contender(self, call: StageCall, outputs: dict[str, str], address: str | None) -> Contender:
        siblings = [name for name in sorted(outputs) if name.startswith("seed_bundle_")]
        return Contender(
            candidate=outputs["candidate"],
            bundle=outputs["bundle"],
            packed=self._packed(call.app.team, outputs["bundle"]),
            seed_bundles=tuple(self._packed(call.app.team, outputs[name]) for name in siblings),
            address=address,
        )

    def _champion(self, team: str, bundle: str) -> Contender:
        packed = self._packed(team, bundle)
        return Contender(candidate="champion", bundle=bundle, packed=packed, seed_bundles=(), address=None)

    def _packed(self, team: str, bundle: str) -> Grant:
        return self._vault.grant(team, self._catalogue.get(Bundle, bundle).artifact)

    @contextmanager
    def _shadow(self, call: StageCall, bundle: str, *, wanted: bool) -> Iterator[str | None]:
        """Run a replica without traffic while the job measures it; yield its address."""
        if not wanted:
            yield None
            return
        replica_id = new_id("shadow", self._clock)
        call.report(Progress(done=0, total=1, message="starting a shadow replica"))
        process = self._replicas.start(replica_id, self._catalogue.get(Bundle, bundle), call.app.team)
        try:
            with call.cancel.calling(lambda: process.stop(grace_seconds=2.0)):
                wait_ready(process)
            yield self._replicas.address(replica_id)
        finally:
            process.stop(grace_seconds=5.0)
            self._replicas.forget(replica_id)
