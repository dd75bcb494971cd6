"""The data stage: sources become a snapshot and its holdout."""

from __future__ import annotations

from datahall.app.contents import Columns
from datahall.app.jobs import Jobs
from datahall.app.lifecycle.stage import StageCall, StageResult, ensure
from datahall.app.vault import Vault
from datahall.core.canonical import digest_of
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Holdout, Snapshot, Split
from datahall.data.contract import DataRequest, DataResult

PARQUET = "application/vnd.apache.parquet"


class DataStage:
    """Runs the data job and records what it made."""

    def __init__(self, catalogue: Catalogue, vault: Vault, jobs: Jobs, clock: Clock) -> None:
        self._catalogue = catalogue
        self._vault = vault
        self._jobs = jobs
        self._clock = clock

    def run(self, call: StageCall) -> StageResult:
        """Make (or find) the snapshot of the application's sources."""
        paths = tuple((call.folder / source.path).resolve() for source in call.spec.data.sources)
        request = DataRequest(
            app=call.app.id,
            team=call.app.team,
            task=call.app.task,
            data=call.spec.data.model_dump(mode="json"),
            sources=tuple(map(str, paths)),
        )
        result = self._jobs.run(
            "data",
            request,
            DataResult,
            team=call.app.team,
            report=call.report,
            cancel=call.cancel,
            readable=paths,
        )
        whole = Columns(features=result.features, target=result.target, sensitive=result.sensitive)
        columns, columns_kept = self._vault.store(call.app.team, whole.as_bytes(), "application/json")
        snapshot = self._snapshot(call, result, columns)
        holdout = self._holdout(snapshot)
        kept = self._vault.keep(
            call.app.team,
            [(grant, PARQUET) for grant in result.splits.values()] + [(result.statistics, "application/json")],
        )
        return StageResult(
            changes=(*kept, *columns_kept, *ensure(self._catalogue, snapshot), *ensure(self._catalogue, holdout)),
            outputs={"snapshot": snapshot.id, "holdout": holdout.id},
            summary=(
                f"{result.num_rows:,} rows: {result.split_rows['train']:,} to train, "
                f"{result.split_rows['validation']:,} to validate, {holdout.num_rows:,} held out"
            ),
        )

    def _snapshot(self, call: StageCall, result: DataResult, columns: str) -> Snapshot:
        recipe = digest_of(call.spec.data.model_dump(mode="json"))
        splits = tuple(
            Split(name=name, artifact=grant.digest, num_rows=result.split_rows[name])  # type: ignore[arg-type]
            for name, grant in sorted(result.splits.items())
        )
        named = digest_of([call.app.id, [source.digest for source in result.sources], recipe, splits])
        return Snapshot(
            id=f"snap_{named[:32]}",
            app=call.app.id,
            team=call.app.team,
            sources=result.sources,
            recipe_digest=recipe,
            features=tuple(column.outline() for column in result.features),
            target=result.target.outline(),
            sensitive=tuple(column.outline() for column in result.sensitive),
            columns=columns,
            has_subject=result.has_subject,
            splits=splits,
            statistics=result.statistics.digest,
            num_rows=result.num_rows,
            num_rows_dropped=result.num_rows_dropped,
            made_at_ns=self._clock.now_ns(),
        )

    def _holdout(self, snapshot: Snapshot) -> Holdout:
        # Named by its rows alone: a changed contract that keeps the rows keeps the count of looks at them, too.
        inputs, outcomes = snapshot.split("holdout_inputs"), snapshot.split("holdout_outcomes")
        return Holdout(
            id=f"hold_{digest_of([snapshot.app, inputs.artifact, outcomes.artifact])[:32]}",
            app=snapshot.app,
            snapshot=snapshot.id,
            inputs=inputs.artifact,
            outcomes=outcomes.artifact,
            num_rows=outcomes.num_rows,
            num_looks=self._looks_inherited(snapshot),
        )

    def _looks_inherited(self, snapshot: Snapshot) -> int:
        """Return how often rows of the same files were looked at: another seed deals the same cards again."""
        files = {source.digest for source in snapshot.sources}
        before = [
            holdout.num_looks
            for holdout in self._catalogue.find(Holdout, app=snapshot.app)
            if files & {source.digest for source in self._catalogue.get(Snapshot, holdout.snapshot).sources}
        ]
        return max(before, default=0)
