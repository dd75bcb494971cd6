"""The train and export stages: a candidate of the file becomes fitted models, then a bundle."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.app.contents import columns_of
from datahall.app.environment import current_environment
from datahall.app.jobs import Jobs
from datahall.app.lifecycle.stage import StageCall, StageResult, ensure
from datahall.app.vault import Vault
from datahall.core.canonical import canonical_json
from datahall.core.ids import new_id
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Bundle, Candidate, Change, Run, Snapshot
from datahall.core.seeds import derive_seed
from datahall.engines.bundle import bundle_digest
from datahall.optimize.contract import ExportRequest, ExportResult
from datahall.train.contract import TrainRequest, TrainResult

SKOPS = "application/vnd.skops"
BUNDLE = "application/vnd.datahall.bundle"


class TrainStage:
    """Fits one candidate under every seed."""

    def __init__(self, catalogue: Catalogue, vault: Vault, jobs: Jobs, clock: Clock) -> None:
        self._catalogue = catalogue
        self._vault = vault
        self._jobs = jobs
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Run the train job; it is given the training and validation rows and nothing else."""
        snapshot = self._catalogue.get(Snapshot, call.upstream["data"]["snapshot"])
        columns = columns_of(self._vault, snapshot)
        candidate = call.spec.train.candidates[call.subject]
        seeds = tuple(derive_seed(call.spec.train.seed, "fit", i) for i in range(call.spec.train.seeds))
        started_at_ns = self._clock.now_ns()
        result = self._jobs.run(
            "train",
            TrainRequest(
                app=call.app.id,
                team=call.app.team,
                task=call.app.task,
                candidate=call.subject,
                model=candidate.model,
                settings=candidate.settings,
                search=candidate.search.model_dump(mode="json") if candidate.search else None,
                features=columns.features,
                target=columns.target,
                train=self._vault.grant(call.app.team, snapshot.split("train").artifact),
                validation=self._vault.grant(call.app.team, snapshot.split("validation").artifact),
                seeds=seeds,
                search_metric=call.spec.search_metric,
            ),
            TrainResult,
            team=call.app.team,
            report=call.report,
            cancel=call.cancel,
        )
        run, details = self._run(call, snapshot, result, started_at_ns)
        kept = self._vault.keep(
            call.app.team,
            [(model.model, SKOPS) for model in result.models] + [(result.trials, "application/json")],
        )
        return StageResult(
            changes=(*kept, *details, *ensure(self._catalogue, current_environment()), Change(new=run)),
            outputs={"run": run.id},
            summary=_summary(run, result),
        )

    def _run(
        self, call: StageCall, snapshot: Snapshot, result: TrainResult, started_at_ns: int
    ) -> tuple[Run, tuple[Change, ...]]:
        fits, changes = self._vault.store(
            call.app.team,
            canonical_json([{"seed": model.seed, "metrics": model.metrics} for model in result.models]),
            "application/json",
        )
        environment = current_environment()
        run = Run(
            id=new_id("run", self._clock),
            app=call.app.id,
            candidate=call.subject,
            step=call.key,
            snapshot=snapshot.id,
            environment=environment.id,
            code_digest=environment.datahall_digest,
            seeds=tuple(model.seed for model in result.models),
            parameters=result.parameters,
            metrics=result.models[0].metrics,
            models=tuple(model.model.digest for model in result.models),
            fits=fits,
            trials=result.trials.digest,
            started_at_ns=started_at_ns,
            ended_at_ns=self._clock.now_ns(),
        )
        return run, changes


class ExportStage:
    """Turns the fitted models into bundles, the first of which is the candidate."""

    def __init__(self, catalogue: Catalogue, vault: Vault, jobs: Jobs) -> None:
        self._catalogue = catalogue
        self._vault = vault
        self._jobs = jobs

    def run(self, call: StageCall) -> StageResult:
        """Run the export job; it sees the held-out inputs, to prove equality on them, but no outcome."""
        team = call.app.team
        snapshot = self._catalogue.get(Snapshot, call.upstream["data"]["snapshot"])
        columns = columns_of(self._vault, snapshot)
        run = self._catalogue.get(Run, call.upstream[f"train/{call.subject}"]["run"])
        fits: list[dict[str, Any]] = msgspec.json.decode(self._vault.read(team, run.fits))
        result = self._jobs.run(
            "export",
            ExportRequest(
                app=call.app.id,
                team=team,
                task=call.app.task,
                features=columns.features,
                target=columns.target,
                models=tuple(self._vault.grant(team, digest) for digest in run.models),
                train=self._vault.grant(team, snapshot.split("train").artifact),
                holdout_inputs=self._vault.grant(team, snapshot.split("holdout_inputs").artifact),
                threshold=call.spec.train.threshold if call.app.task == "classification" else None,
                engine=call.spec.train.engine,
                interval_half_widths=tuple(
                    fit["metrics"]["interval_half_width_90"]
                    for fit in fits
                    if "interval_half_width_90" in fit["metrics"]
                ),
            ),
            ExportResult,
            team=team,
            report=call.report,
            cancel=call.cancel,
        )
        return self._kept(call, run, result)

    def _kept(self, call: StageCall, run: Run, result: ExportResult) -> StageResult:
        bundles = [
            Bundle(
                id=bundle_digest(manifest),
                app=call.app.id,
                artifact=grant.digest,
                manifest=manifest.outline(),
                equivalence=result.equivalence if index == 0 else {},
            )
            for index, (grant, manifest) in enumerate(zip(result.bundles, result.manifests, strict=True))
        ]
        unique = {bundle.id: bundle for bundle in bundles}
        candidates = self._catalogue.find(Candidate, app=call.app.id)
        known = [c for c in candidates if c.bundle == bundles[0].id and c.name == call.subject]
        candidate = (
            known[0]
            if known
            else Candidate(
                id=f"{call.app.id}#{len(candidates) + 1}",
                app=call.app.id,
                serial=len(candidates) + 1,
                name=call.subject,
                bundle=bundles[0].id,
                run=run.id,
            )
        )
        return StageResult(
            changes=(
                *self._vault.keep(call.app.team, [(grant, BUNDLE) for grant in result.bundles]),
                *(change for bundle in unique.values() for change in ensure(self._catalogue, bundle)),
                *(() if known else (Change(new=candidate),)),
            ),
            outputs={
                "candidate": candidate.id,
                "bundle": bundles[0].id,
                **{f"seed_bundle_{index}": bundle.id for index, bundle in enumerate(bundles)},
            },
            summary=f"{bundles[0].manifest.engine} engine: {result.equivalence.get('reason', '')}".rstrip(": "),
        )


def _summary(run: Run, result: TrainResult) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in sorted(run.metrics.items())[:3])
    search = f"; {result.num_trials} trials, {result.num_pruned} pruned" if result.num_trials else ""
    return f"{len(run.seeds)} seeds; validation {figures}{search}"
