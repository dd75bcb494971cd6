"""Decides which steps an application needs, and names each by the digest of all that determines its outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import msgspec

from datahall.core.canonical import digest_of
from datahall.spec.code_versions import CODE_VERSIONS, Stage
from datahall.spec.kinds import Section
from datahall.spec.policy import policy_of
from datahall.spec.schema import AppSpec

CHAMPION_CLAIM = "improvement"
"""The kind of claim that compares with the live version."""


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step: `key` is the digest of `stage`, `name` and `parts`.

    `parts` maps the name of everything that the step reads to its digest: parts of the file, sources, the keys of the
    steps that it needs, the environment, the version of its code. The lifecycle stores it with the step.
    """

    key: str
    stage: Stage
    name: str
    """The candidate for `train` and `export`; else the stage itself."""
    needs: tuple[str, ...]
    """Keys of the steps whose outputs it reads, in the order of the plan."""
    parts: dict[str, str]

    @property
    def label(self) -> str:
        """How people call it: `data`, `train/forest`."""
        return label(self.stage, self.name)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of one application in an order in which they can run."""

    app: str
    policy: str
    champion: str | None
    steps: tuple[PlannedStep, ...]

    def find(self, stage: Stage, name: str | None = None) -> PlannedStep:
        """Return the step of `stage` (and, for train and export, of the candidate `name`)."""
        return next(step for step in self.steps if step.stage == stage and step.name == (name or stage))


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What will happen to one step, and why."""

    step: PlannedStep
    what: Literal["reused", "runs"]
    why: str


def label(stage: str, name: str) -> str:
    """Return how people call a step."""
    return stage if stage == name else f"{stage}/{name}"


def plan(
    spec: AppSpec,
    sources: tuple[tuple[str, str], ...],
    environment: str,
    *,
    champion: str | None = None,
    code_versions: Mapping[Stage, int] = CODE_VERSIONS,
) -> Plan:
    """Return the plan of a loaded application.

    `sources` are the paths as in the file, in its order, each with the SHA-256 of its bytes; `environment` is the
    digest of the locked environment; `champion` the bundle digest of the live version that candidates are to beat,
    which matters only to an `improvement` claim (see `settle` for which one to hand in).
    """
    assert len(sources) == len(spec.data.sources), "one digest for each source"
    draft = _Draft(spec, environment, code_versions)
    data = draft.add("data", _data_parts(spec, sources))
    exports = []
    for name in sorted(spec.train.candidates):
        train = draft.add("train", _train_parts(spec, name), name=name, needs=(data,))
        parts = {"train.engine": spec.train.engine, "train.threshold": spec.train.threshold}
        exports.append(draft.add("export", parts, name=name, needs=(data, train)))
    claims = {f"claim {claim.name}": claim for claim in policy_of(spec).claims}
    judged: dict[str, Any] = claims | _fields("evaluate", spec.evaluate, without={"claims"})
    measured = judged | {"train.seed": spec.train.seed}
    if any(claim.kind == CHAMPION_CLAIM for claim in spec.evaluate.claims):
        measured["champion"] = champion
    evaluate = draft.add("evaluate", measured, needs=(data, *exports))
    gate = draft.add("gate", judged, needs=(evaluate,))
    register = draft.add("register", {}, needs=(gate,))
    serving = _fields("serve", spec.serve)
    deploy = draft.add("deploy", serving, needs=(register,))
    draft.add("serve", serving, needs=(deploy,))
    return Plan(app=spec.name, policy=policy_of(spec).id, champion=champion, steps=tuple(draft.steps))


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The live version, as far as a plan must know it."""

    bundle: str
    parent_bundle: str | None
    """The bundle that was live when this one was registered."""
    register_key: str
    """Key of the step that registered it."""


def settle(draw: Callable[[str | None], Plan], live: Live | None) -> Plan:
    """Return the plan that stands, where `draw` makes the plan that challenges a given champion.

    The version that a plan has brought to life must not become its own challenger: then no second run would find its
    steps done. So the plan against the live version's predecessor stands as long as it is the one that registered it.
    """
    if live is None:
        return draw(None)
    before = draw(live.parent_bundle)
    if before.find("register").key == live.register_key:
        return before
    return draw(live.bundle)


def forecast(
    plan: Plan, done: Collection[str], previous: Mapping[tuple[str, str], Mapping[str, str]]
) -> tuple[Forecast, ...]:
    """Return for each step whether it runs, and why.

    `done` are the keys whose outputs exist; `previous` maps stage and name to the `parts` of the last such step that
    was done, under whatever key.
    """
    labels = {step.key: step.label for step in plan.steps}
    running: set[str] = set()
    found = []
    for step in plan.steps:
        if step.key in done:
            found.append(Forecast(step=step, what="reused", why="nothing that it reads has changed"))
            continue
        running.add(step.label)
        waits = [labels[key] for key in step.needs if labels[key] in running]
        found.append(Forecast(step=step, what="runs", why=_why(step, previous.get((step.stage, step.name)), waits)))
    return tuple(found)


def _why(step: PlannedStep, before: Mapping[str, str] | None, waits: list[str]) -> str:
    if before is None:
        return "never done before"
    own = _differences({k: v for k, v in step.parts.items() if not _is_input(k)}, before)
    if own:
        return ", ".join(own)
    if waits:
        return f"follows {', '.join(waits)}"
    return ", ".join(_differences(step.parts, before)) or "its outputs are gone"


def _differences(parts: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    changed = [f"{name} changed" for name in parts if name in before and parts[name] != before[name]]
    added = [f"{name} is new" for name in parts if name not in before]
    gone = [f"{name} is gone" for name in before if name not in parts and not _is_input(name)]
    return sorted(changed + added + gone)


def _is_input(name: str) -> bool:
    return name.startswith("input ")


class _Draft:
    """Steps as they are added, with the parts that all of them share."""

    def __init__(self, spec: AppSpec, environment: str, code_versions: Mapping[Stage, int]) -> None:
        # nothing is shared across teams or applications, however alike their files are
        self.shared = {"app": [spec.team, spec.name], "task": spec.task, "environment": environment}
        self.code_versions = code_versions
        self.steps: list[PlannedStep] = []

    def add(
        self, stage: Stage, reads: Mapping[str, Any], *, name: str | None = None, needs: tuple[PlannedStep, ...] = ()
    ) -> PlannedStep:
        values = {**self.shared, **reads, f"code of {stage}": self.code_versions[stage]}
        parts = {part: digest_of(value) for part, value in values.items()}
        parts |= {f"input {step.label}": step.key for step in needs}
        step = PlannedStep(
            key=digest_of({"stage": stage, "name": name or stage, "parts": parts}),
            stage=stage,
            name=name or stage,
            needs=tuple(step.key for step in needs),
            parts=parts,
        )
        self.steps.append(step)
        return step


def _data_parts(spec: AppSpec, sources: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    parts = _fields("data", spec.data, without={"sources"})
    # order and formats of the files count as one part, so that a changed file is named alone
    parts["data.sources"] = [[source.path, source.format] for source in spec.data.sources]
    return parts | {f"source {name}": digest for name, digest in sources}


def _train_parts(spec: AppSpec, name: str) -> dict[str, Any]:
    candidate = spec.train.candidates[name]
    parts = _fields(f"train.candidates.{name}", candidate)
    parts |= {"train.seeds": spec.train.seeds, "train.seed": spec.train.seed}
    # only a search compares on the metric; other candidates keep their fits when it changes
    return parts if candidate.search is None else parts | {"train.metric": spec.search_metric}


def _fields(at: str, section: Section, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return each key of a section as a part of its own, so that a change is named exactly."""
    return {f"{at}.{key}": value for key, value in section.model_dump(mode="json").items() if key not in without}
