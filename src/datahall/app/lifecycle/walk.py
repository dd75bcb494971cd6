"""The loop of a lifecycle: does each step of the plan that is not done, durably, and tells what happens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from datahall.app.environment import current_environment
from datahall.app.events import Ended, Judged, Notify, StepBegan, StepEnded, StepProgressed
from datahall.app.jobs import Cancel
from datahall.app.lifecycle.stage import Stage, StageCall, StageResult, ensure
from datahall.app.planning import Intent, live_version
from datahall.core.errors import ConflictError, DatahallError, NotFoundError, RefusedError
from datahall.core.jobs import Progress
from datahall.core.ports import Catalogue, Clock
from datahall.core.records import Act, App, Change, Step, Verdict
from datahall.spec.plan import Forecast
from datahall.spec.policy import policy_of


class Walk:
    """Walks applications through their steps. What is written is written step by step, each in one act."""

    def __init__(self, catalogue: Catalogue, stages: Mapping[str, Stage], clock: Clock) -> None:
        self._catalogue = catalogue
        self._stages = stages
        self._clock = clock

    def run(self, intent: Intent, notify: Notify, cancel: Cancel) -> Ended:
        """Do every step that is not done; return how it ended.

        Raises what a step raises; everything before that step stays done, so the next run goes on from there.
        """
        app = self._declare(intent)
        notify(intent.event)
        outputs: dict[str, dict[str, str]] = {}
        refused = ""
        ran = False
        for item in intent.forecasts:
            label = item.step.label
            if item.step.stage == "serve":
                break
            if refused:
                notify(StepEnded(name=label, how="skipped"))
            elif item.what == "reused":
                outputs[label] = self._catalogue.get(Step, item.step.key).outputs
                notify(StepEnded(name=label, how="reused", summary=item.why))
            else:
                ran = True
                try:
                    outputs[label] = self._step(app, intent, item, outputs, notify, cancel)
                except RefusedError as error:
                    refused = error.what
                    notify(StepEnded(name=label, how="skipped", summary=error.what))
            if item.step.stage == "gate" and not refused:
                self._tell_verdicts(outputs[label], intent, notify)
        return self._end(intent, outputs, refused, ran=ran)

    def _declare(self, intent: Intent) -> App:
        spec = intent.loaded.spec
        policy = policy_of(spec)
        app = App(
            id=spec.name,
            team=spec.team,
            task=spec.task,
            spec_digest=spec.digest(),
            spec_text=intent.loaded.text,
            policy=policy.id,
            declared_at_ns=self._clock.now_ns(),
        )
        try:
            before = self._catalogue.get(App, app.id)
        except NotFoundError:
            before = None
        if before is not None and before.team != app.team:
            raise ConflictError(
                f"the team of '{app.id}' is not '{app.team}': the name belongs to the team that declared it first",
                where="team",
                hint="give this application another name, or its team back",
            )
        if before is not None and (before.spec_digest, before.spec_text) == (app.spec_digest, app.spec_text):
            return before
        changes = (
            Change(old=before, new=app),
            *ensure(self._catalogue, policy),
            *ensure(self._catalogue, current_environment()),
        )
        body = {"spec": app.spec_digest, "policy": policy.id}
        self._catalogue.act(Act(kind="app.declared", actor="lifecycle", app=app.id, body=body, changes=changes))
        return app

    def _step(
        self,
        app: App,
        intent: Intent,
        item: Forecast,
        outputs: dict[str, dict[str, str]],
        notify: Notify,
        cancel: Cancel,
    ) -> dict[str, str]:
        planned = item.step
        label = planned.label
        notify(StepBegan(name=label))

        def report(progress: Progress) -> None:
            notify(StepProgressed(name=label, progress=progress))

        call = StageCall(
            app=app,
            spec=intent.loaded.spec,
            folder=Path(intent.loaded.folder),
            key=planned.key,
            name=label,
            upstream=dict(outputs),
            champion=intent.champion,
            report=report,
            cancel=cancel,
        )
        running = self._begin(app, item)
        try:
            result = self._stages[planned.stage].run(call)
        except DatahallError as error:
            self._fail(running, "failed", error.what)  # its hint may show rows of people, which no entry may hold
            raise
        except BaseException:  # Ctrl-C and our own mistakes: the step must not stay running in the catalogue
            self._fail(running, "interrupted", "stopped while it ran")
            raise
        try:
            done = self._finish(running, result)
        except ConflictError as error:  # its objects were condemned before they had a name, or the key over them was
            self._fail(running, "failed", error.what)
            raise ConflictError(f"what '{label}' made was not kept: {error.what}", hint="run it again") from error
        took_s = (done.ended_at_ns - done.started_at_ns) / 1e9
        notify(StepEnded(name=label, how="ran", summary=result.summary, took_s=took_s))
        return result.outputs

    def _begin(self, app: App, item: Forecast) -> Step:
        try:
            before = self._catalogue.get(Step, item.step.key)
        except NotFoundError:
            before = None
        running = Step(
            id=item.step.key,
            app=app.id,
            stage=item.step.stage,
            name=item.step.name,
            state="running",
            outputs={},
            parts=item.step.parts,
            reason=item.why,
            started_at_ns=self._clock.now_ns(),
        )
        self._act("step.started", running, {"step": item.step.label, "why": item.why}, Change(old=before, new=running))
        return running

    def _finish(self, running: Step, result: StageResult) -> Step:
        done = msgspec.structs.replace(running, state="done", outputs=result.outputs, ended_at_ns=self._clock.now_ns())
        body = {"step": running.id, "stage": running.stage, "outputs": result.outputs, **result.body}
        self._act(result.kind, running, body, Change(old=running, new=done), *result.changes)
        return done

    def _fail(self, running: Step, state: str, reason: str) -> None:
        kind = "step.failed" if state == "failed" else "step.interrupted"
        ended = msgspec.structs.replace(running, state=state, reason=reason, ended_at_ns=self._clock.now_ns())
        self._act(kind, running, {"step": running.id, "reason": reason}, Change(old=running, new=ended))

    def _act(self, kind: Any, step: Step, body: dict[str, Any], *changes: Change) -> None:
        self._catalogue.act(Act(kind=kind, actor="lifecycle", app=step.app, body=body, changes=changes))

    def _tell_verdicts(self, verdicts: dict[str, str], intent: Intent, notify: Notify) -> None:
        claims = {claim.name: claim for claim in policy_of(intent.loaded.spec).claims}
        for name, verdict_id in sorted(verdicts.items()):
            verdict = self._catalogue.get(Verdict, verdict_id)
            findings = tuple(
                {**msgspec.to_builtins(finding), "why": claims[finding.claim].reason} for finding in verdict.findings
            )
            notify(
                Judged(
                    candidate=verdict.candidate,
                    name=name,
                    outcome=verdict.outcome,
                    reason=verdict.reason,
                    findings=findings,
                )
            )

    def _end(self, intent: Intent, outputs: dict[str, dict[str, str]], refused: str, *, ran: bool) -> Ended:
        live = live_version(self._catalogue, intent.loaded.spec.name)
        deployment = outputs.get("deploy", {}).get("deployment")
        if refused:
            return Ended(
                app=intent.loaded.spec.name,
                outcome="refused",
                version=None,
                champion=live.id if live else None,
                deployment=None,
                reason=refused,
            )
        version = outputs["register"]["version"]
        before = intent.live.id if intent.live else None
        kept = ran and version == before
        return Ended(
            app=intent.loaded.spec.name,
            outcome="released" if ran and not kept else "unchanged",
            version=version,
            champion=live.id if live else None,
            deployment=deployment,
            reason=f"{version} stays" if kept else "" if ran else f"{version} was released from exactly this",
        )
