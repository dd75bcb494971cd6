"""A step's key changes with what the step reads, and with nothing else."""

from __future__ import annotations

import json
import random
from functools import lru_cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datahall.spec.code_versions import CODE_VERSIONS, STAGES
from datahall.spec.load import parse
from datahall.spec.plan import Live, forecast, plan, settle

BASE = {
    "datahall": 1,
    "name": "loans",
    "task": "classification",
    "data": {
        "sources": ["a.csv", "b.csv"],
        "target": "y",
        "sensitive": ["sex"],
        "columns": {"x": {"min": 0}, "z": {"max": 1}},
        "split": {"holdout": 0.3, "seed": 1},
    },
    "train": {
        "candidates": {
            "small": {"model": "logistic", "c": 1, "search": {"trials": 2}},
            "big": {"model": "forest", "depth": 3},
        },
        "seeds": 2,
        "seed": 4,
    },
    "evaluate": {
        "claims": [
            {"kind": "accuracy", "at_least": 0.8, "reason": "r"},
            {"kind": "improvement", "at_least": 0, "reason": "r"},
        ]
    },
    "serve": {"replicas": 1},
}
CANDIDATES = ["train/big", "export/big", "train/small", "export/small"]
ALL = ["data", *CANDIDATES, "evaluate", "gate", "register", "deploy", "serve"]
AFTER_DATA = ALL[1:]
AFTER_EXPORT = ALL[5:]
SOURCES = (("a.csv", "1" * 64), ("b.csv", "2" * 64))


def changed(value, path, new):
    """Return a copy of nested `value` in which `path` holds `new` (None leaves it out)."""
    if not path:
        return new
    key, *rest = path
    copy = list(value) if isinstance(value, list) else dict(value)
    if new is None and not rest:
        copy.pop(key)
    else:
        inner = copy[key] if isinstance(copy, list) or key in copy else {}
        copy[key] = changed(inner, rest, new)
    return copy


@lru_cache(maxsize=256)
def _spec(text, kinds):
    return parse(text, kinds).spec


def planned(kinds, value=BASE, *, sources=SOURCES, environment="env", **more):
    return plan(_spec(json.dumps(value), kinds), sources, environment, **more)  # JSON is YAML


def differing(one, other):
    keys = {step.label: step.key for step in one.steps}
    return [step.label for step in other.steps if keys.get(step.label) != step.key]


# each change of the file, and the steps that must run again because of it
CHANGES = {
    "name": (("name",), "other", ALL),
    "team": (("team",), "other", ALL),
    "target": (("data", "target"), "t", ALL),
    "contract": (("data", "columns", "x", "min"), 1, ALL),
    "holdout": (("data", "split", "holdout"), 0.4, ALL),
    "split seed": (("data", "split", "seed"), 2, ALL),
    "sensitive": (("data", "sensitive"), ["sex", "age"], ALL),
    "seed": (("train", "seed"), 5, AFTER_DATA),
    "seeds": (("train", "seeds"), 3, AFTER_DATA),
    "search metric": (("train", "metric"), "accuracy", ["train/small", "export/small", *AFTER_EXPORT]),
    "one candidate's setting": (
        ("train", "candidates", "big", "depth"),
        4,
        ["train/big", "export/big", *AFTER_EXPORT],
    ),
    "one candidate's search": (
        ("train", "candidates", "small", "search"),
        {"trials": 3},
        ["train/small", "export/small", *AFTER_EXPORT],
    ),
    "a new candidate": (
        ("train", "candidates", "third"),
        {"model": "forest"},
        ["train/third", "export/third", *AFTER_EXPORT],
    ),
    "a candidate less": (("train", "candidates", "big"), None, AFTER_EXPORT),
    "engine": (("train", "engine"), "sklearn", ["export/big", "export/small", *AFTER_EXPORT]),
    "threshold": (("train", "threshold"), 0.4, ["export/big", "export/small", *AFTER_EXPORT]),
    "bound": (("evaluate", "claims", 0, "at_least"), 0.81, AFTER_EXPORT),
    "reason": (("evaluate", "claims", 0, "reason"), "s", AFTER_EXPORT),
    "confidence": (("evaluate", "claims", 0, "confidence"), 0.9, AFTER_EXPORT),
    "evidence days": (("evaluate", "evidence_days"), 3, AFTER_EXPORT),
    "replicas": (("serve", "replicas"), 2, ["deploy", "serve"]),
    "protocols": (("serve", "protocols"), ["v2"], ["deploy", "serve"]),
    "limits": (("serve", "limits"), {"rate_per_s": 3}, ["deploy", "serve"]),
    "cache": (("serve", "cache"), {"seconds": 3}, ["deploy", "serve"]),
    "drain": (("serve", "rollout"), {"drain_seconds": 1}, ["deploy", "serve"]),
    "a default written out": (("train", "engine"), "auto", []),
    "another default written out": (("serve",), {"protocols": ["v2", "predict"]}, []),
}


def test_steps_in_order_with_their_needs(kinds):
    made = planned(kinds)
    assert [step.label for step in made.steps] == ALL
    label = {step.key: step.label for step in made.steps}
    needs = {step.label: [label[key] for key in step.needs] for step in made.steps}
    assert needs["train/big"] == ["data"]
    assert needs["export/big"] == ["data", "train/big"]
    assert needs["evaluate"] == ["data", "export/big", "export/small"]
    assert needs["gate"] == ["evaluate"]
    seen = set()
    for step in made.steps:
        assert seen.issuperset(step.needs)
        seen.add(step.key)
    assert len(seen) == len(made.steps)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reaches_what_reads_it_and_nothing_else(change, kinds):
    path, new, expected = CHANGES[change]
    assert differing(planned(kinds), planned(kinds, changed(BASE, path, new))) == expected


def test_a_changed_claim_runs_no_data_and_no_training(kinds):
    for change in ("bound", "reason", "confidence"):
        path, new, _ = CHANGES[change]
        stages = {label.split("/")[0] for label in differing(planned(kinds), planned(kinds, changed(BASE, path, new)))}
        assert not stages & {"data", "train", "export"}


def test_sources_environment_and_code(kinds):
    base = planned(kinds)
    assert differing(base, planned(kinds, sources=(SOURCES[0], ("b.csv", "3" * 64)))) == ALL
    assert differing(base, planned(kinds, environment="other")) == ALL
    swapped = changed(BASE, ("data", "sources"), ["b.csv", "a.csv"])
    assert differing(base, planned(kinds, swapped, sources=SOURCES[::-1])) == ALL
    other_format = changed(BASE, ("data", "sources", 1), {"path": "b.csv", "format": "json"})
    assert differing(base, planned(kinds, other_format)) == ALL
    for stage in STAGES:
        raised = planned(kinds, code_versions={**CODE_VERSIONS, stage: 99})
        first = next(number for number, label in enumerate(ALL) if label.split("/")[0] == stage)
        assert differing(base, raised)[0] == ALL[first]
        assert "data" not in differing(base, raised) or stage == "data"


def test_the_task(kinds):
    plain = {key: BASE[key] for key in ("datahall", "name", "task", "data")}
    plain["data"] = changed(plain["data"], ("sensitive",), None)
    regression = planned(kinds, changed(plain, ("task",), "regression"))
    assert differing(planned(kinds, plain), regression) == [step.label for step in regression.steps]


def test_the_champion_matters_only_to_improvement(kinds):
    assert differing(planned(kinds), planned(kinds, champion="b" * 64)) == AFTER_EXPORT
    without = changed(BASE, ("evaluate", "claims", 1), None)
    assert differing(planned(kinds, without), planned(kinds, without, champion="b" * 64)) == []


@st.composite
def shuffles(draw):
    seed = draw(st.integers(0, 2**32))

    def shuffle(value):
        if isinstance(value, dict):
            items = [(key, shuffle(item)) for key, item in value.items()]
            random.Random(seed).shuffle(items)  # noqa: S311  (a test's order is no secret)
            return dict(items)
        return [shuffle(item) for item in value] if isinstance(value, list) else value

    return shuffle


@given(shuffles())
@settings(max_examples=25, deadline=None)
def test_the_order_of_keys_changes_nothing(kinds, shuffle):
    assert planned(kinds, shuffle(BASE)) == planned(kinds)


@given(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True))
@settings(max_examples=40, deadline=None)
def test_several_changes_reach_what_each_reaches(kinds, names):
    paths = [CHANGES[name][0] for name in names]
    assume(not any(one != other and one == other[: len(one)] for one in paths for other in paths))
    value, expected = BASE, set()
    for name in names:
        path, new, reached = CHANGES[name]
        value = changed(value, path, new)
        expected.update(reached)
    made = planned(kinds, value)
    found = differing(planned(kinds), made)
    there = {step.label for step in made.steps}
    assert set(found) >= expected & there
    assert set(found) <= expected | {label for label in found if "/third" in label}


@given(st.sampled_from(sorted(CHANGES)))
@settings(max_examples=25, deadline=None)
def test_a_step_keeps_its_key_exactly_while_it_keeps_its_parts(kinds, name):
    path, new, _ = CHANGES[name]
    before = {step.label: step for step in planned(kinds).steps}
    for step in planned(kinds, changed(BASE, path, new)).steps:
        if step.label in before:
            assert (before[step.label].key == step.key) == (before[step.label].parts == step.parts)


def previous_of(made):
    return {(step.stage, step.name): step.parts for step in made.steps}


def whys(forecasts):
    return {item.step.label: f"{item.what}: {item.why}" for item in forecasts}


def test_forecast_of_the_first_and_of_an_unchanged_run(kinds):
    made = planned(kinds)
    assert set(whys(forecast(made, set(), {})).values()) == {"runs: never done before"}
    done = {step.key for step in made.steps}
    again = whys(forecast(made, done, previous_of(made)))
    assert set(again.values()) == {"reused: nothing that it reads has changed"}
    erased = whys(forecast(made, done - {made.find("data").key}, previous_of(made)))
    assert erased["data"] == "runs: its outputs are gone"


@pytest.mark.parametrize(
    ("path", "new", "label", "why"),
    [
        (("evaluate", "claims", 0, "at_least"), 0.9, "evaluate", "claim accuracy changed"),
        (("evaluate", "claims", 1), None, "gate", "claim improvement is gone"),
        (("data", "split", "seed"), 9, "data", "data.split changed"),
        (("data", "split", "seed"), 9, "train/big", "follows data"),
        (("data", "split", "seed"), 9, "evaluate", "follows data, export/big, export/small"),
        (("train", "seed"), 9, "train/small", "train.seed changed"),
        (("train", "candidates", "big", "depth"), 9, "train/big", "train.candidates.big.settings changed"),
        (("train", "candidates", "big", "depth"), 9, "evaluate", "follows export/big"),
        (("train", "candidates", "big", "depth"), 9, "train/small", None),
        (("serve", "replicas"), 9, "deploy", "serve.replicas changed"),
    ],
)
def test_forecast_names_what_changed(kinds, path, new, label, why):
    before = planned(kinds)
    made = planned(kinds, changed(BASE, path, new))
    found = whys(forecast(made, {step.key for step in before.steps}, previous_of(before)))
    assert found[label] == (f"runs: {why}" if why else "reused: nothing that it reads has changed")


def test_forecast_names_sources_environment_and_code(kinds):
    before = planned(kinds)
    made = planned(
        kinds,
        sources=(SOURCES[0], ("b.csv", "3" * 64)),
        environment="other",
        code_versions={**CODE_VERSIONS, "data": 2},
    )
    found = whys(forecast(made, {step.key for step in before.steps}, previous_of(before)))
    assert found["data"] == "runs: code of data changed, environment changed, source b.csv changed"


def test_a_version_does_not_challenge_itself(kinds):
    def draw(champion, value=BASE):
        return planned(kinds, value, champion=champion)

    first = settle(draw, None)
    live = Live(bundle="b" * 64, parent_bundle=None, register_key=first.find("register").key)
    assert settle(draw, live) == first, "an unchanged second run finds every step done"
    replicas = changed(BASE, ("serve", "replicas"), 3)
    assert differing(first, settle(lambda c: draw(c, replicas), live)) == ["deploy", "serve"]
    deeper = changed(BASE, ("train", "candidates", "big", "depth"), 4)
    second = settle(lambda c: draw(c, deeper), live)
    assert second.champion == live.bundle
    newer = Live(bundle="c" * 64, parent_bundle=live.bundle, register_key=second.find("register").key)
    assert settle(lambda c: draw(c, deeper), newer) == second
