"""Holds an application file against what the hall has done already: what would run, what is reused, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datahall.app.environment import current_environment, lock_digest
from datahall.app.events import Planned, PlannedLine
from datahall.core.canonical import digest_bytes
from datahall.core.errors import NotFoundError
from datahall.core.ports import Catalogue, Clock
from datahall.core.records import Deployment, Policy, Step, Version
from datahall.spec.kinds import Kinds
from datahall.spec.load import Loaded, load
from datahall.spec.plan import Forecast, Live, Plan, PlannedStep, forecast, plan, settle


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A read and checked application file, its plan, and what each step would do."""

    loaded: Loaded
    plan: Plan
    forecasts: tuple[Forecast, ...]
    live: Version | None
    """The version that answers now."""
    champion: Version | None
    """The version that candidates are to beat: the live one, or the one before it where this plan made the live one."""
    event: Planned


def read_app(file: Path, kinds: Kinds) -> Loaded:
    """Return the application that a file describes, checked against the columns of its sources.

    Raises SpecError with every problem of the file, its sources and their columns, in the order of the file; DataError
    where nothing is wrong but one source that cannot be read.
    """
    from datahall.data.peek import column_names  # noqa: PLC0415  (polars: a hall that only serves never needs it)

    return load(file, kinds, columns_of=column_names)


def intend(loaded: Loaded, catalogue: Catalogue, clock: Clock, *, serving: Callable[[str], bool]) -> Intent:
    """Return what a run would do. `serving` says whether a deployment is answering now."""
    spec = loaded.spec
    sources = tuple(
        (source.path, digest_bytes(path.read_bytes()))
        for source, path in zip(spec.data.sources, loaded.source_paths, strict=True)
    )
    environment = lock_digest(current_environment())

    def draw(champion: str | None) -> Plan:
        return plan(spec, sources, environment, champion=champion)

    steps = [step for step in catalogue.find(Step, app=spec.name) if step.state == "done"]
    live = live_version(catalogue, spec.name)
    parent = _parent(catalogue, live)
    settled = settle(draw, _live(draw, live, parent, steps))
    champion = next((v for v in (live, parent) if v is not None and v.bundle == settled.champion), None)
    done = _done(settled, {step.id: step for step in steps}, catalogue, clock, serving)
    previous = {(step.stage, step.name): step for step in steps}
    forecasts = forecast(settled, done, {place: step.parts for place, step in previous.items()})
    lines = tuple(_line(item, previous) for item in forecasts)
    return Intent(
        loaded=loaded,
        plan=settled,
        forecasts=forecasts,
        live=live,
        champion=champion,
        event=Planned(app=spec.name, lines=lines),
    )


def live_version(catalogue: Catalogue, app: str) -> Version | None:
    """Return the version that has an application's traffic, None if none has."""
    deployments = catalogue.find(Deployment, app=app, state="live")
    return catalogue.get(Version, deployments[-1].version) if deployments else None


def _parent(catalogue: Catalogue, live: Version | None) -> Version | None:
    return catalogue.get(Version, live.parent) if live is not None and live.parent else None


def _live(
    draw: Callable[[str | None], Plan], live: Version | None, parent: Version | None, steps: list[Step]
) -> Live | None:
    if live is None:
        return None
    registered = [step.id for step in steps if step.stage == "register" and step.outputs.get("version") == live.id]
    parent_bundle = parent.bundle if parent else None
    # A version may have been registered by one plan and kept by others: the one that stands here is what counts.
    against_parent = draw(parent_bundle).find("register").key
    key = against_parent if against_parent in registered else ""
    return Live(bundle=live.bundle, parent_bundle=parent_bundle, register_key=key)


def _done(
    settled: Plan, steps: dict[str, Step], catalogue: Catalogue, clock: Clock, serving: Callable[[str], bool]
) -> set[str]:
    """Return the keys of the steps that need not run: what they made is there, and still means what it meant."""
    done: set[str] = set()
    stale = False
    for planned in settled.steps:
        if any(need not in done for need in planned.needs):
            continue
        step = steps.get(planned.key)
        if planned.stage == "serve":
            deploy = steps.get(settled.find("deploy").key)
            if deploy is not None and serving(deploy.outputs["deployment"]):
                done.add(planned.key)
            continue
        if step is None:
            continue
        if planned.stage == "evaluate" and not _is_live(settled, steps, catalogue):
            stale = _expired(step, settled, catalogue, clock)
        if stale or (planned.stage == "deploy" and not _deployed(step, catalogue)):
            continue
        done.add(planned.key)
    return done


def _deployed(step: Step, catalogue: Catalogue) -> bool:
    try:
        return catalogue.get(Deployment, step.outputs["deployment"]).state == "live"
    except NotFoundError:
        return False


def _is_live(settled: Plan, steps: dict[str, Step], catalogue: Catalogue) -> bool:
    deploy = steps.get(settled.find("deploy").key)
    return deploy is not None and _deployed(deploy, catalogue)


def _expired(step: Step, settled: Plan, catalogue: Catalogue, clock: Clock) -> bool:
    """Whether what was measured then proves nothing any more: a version without traffic must be measured anew."""
    policy = catalogue.get(Policy, settled.policy)
    return clock.now_ns() - step.started_at_ns > policy.evidence_days * 86_400e9


def _line(item: Forecast, previous: dict[tuple[str, str], Step]) -> PlannedLine:
    step: PlannedStep = item.step
    before = previous.get((step.stage, step.name))
    took_s = (before.ended_at_ns - before.started_at_ns) / 1e9 if before else None
    return PlannedLine(
        key=step.key,
        stage=step.stage,
        name=step.label,
        action=item.what,
        why="starts what was deployed" if step.stage == "serve" and item.what == "runs" else item.why,
        expected_s=took_s if item.what == "runs" else 0.0,
    )
