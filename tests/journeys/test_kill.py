"""kill -9 at every step: nothing lives on, nothing is half registered, and the next run goes on at that step."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest

from datahall.core.records import (
    Artifact,
    Bundle,
    Candidate,
    Change,
    Deployment,
    Evidence,
    Holdout,
    Run,
    Snapshot,
    Step,
    Verdict,
    Version,
)
from datahall.core.records.entry import Act

STEPS = ["data", "train/plain", "export/plain", "evaluate", "gate", "register", "deploy"]
SHORT = ("gate", "register", "deploy")
MADE_BY = {
    "data": (Snapshot, Holdout),
    "train": (Run,),
    "export": (Bundle, Candidate),
    "evaluate": (Evidence,),
    "gate": (Verdict,),
    "register": (Version,),
    "deploy": (Deployment,),
}
"""What each stage leaves in the catalogue once it is done, and must not leave before."""

KILLED_INSIDE = """
import os, signal, sys
from datahall.app.lifecycle.walk import Walk
moment, stage = sys.argv[1:3]
method, whole = {"after": ("_finish", True), "before": ("_finish", False)}[moment], Walk._finish
def finish(self, running, result):
    if running.stage == stage and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = whole(self, running, result)
    if running.stage == stage:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Walk._finish = finish
sys.argv = ["datahall", *sys.argv[3:]]
from datahall.app.cli.main import main
main()
"""
"""The command line, killed by the kernel just before or just after the act that ends one stage."""


def problems(place):
    """Return everything in a hall that a cut-off lifecycle may not leave behind; the next holder has begun to mend."""
    found = []
    with place.catalogue() as catalogue:
        steps = catalogue.find(Step, app="flowers")
        found += [f"{step.stage} is still running" for step in steps if step.state == "running"]
        done = {step.stage for step in steps if step.state == "done"}
        found += [
            f"a {kind.KIND} is there without its step"
            for stage, kinds in MADE_BY.items()
            for kind in kinds
            if stage not in done and catalogue.find(kind)
        ]
        found += [
            f"{step.stage} is done without what it made"
            for step in steps
            if step.state == "done" and not all(catalogue.find(kind) for kind in MADE_BY[step.stage])
        ]
        versions = catalogue.find(Version)
        found += [f"{v.id} has no verdict that passed" for v in versions if not _passed(catalogue, v)]
        live = catalogue.find(Deployment, state="live")
        if len(live) > 1 or {d.version for d in live} - {v.id for v in versions}:
            found.append("what is live is not one registered version")
        objects = {artifact.object for artifact in catalogue.find(Artifact)}
    stored = {path.name for path in (place.hall / "blobs").rglob("*") if path.is_file()}
    return found + [f"the object {name} is gone" for name in objects if not any(name in file for file in stored)]


def _passed(catalogue, version):
    return catalogue.get(Verdict, version.verdict).outcome == "pass"


def to_run(planned):
    """Return the steps that a plan would run, but for serving."""
    return [line["name"] for line in planned["lines"] if line["action"] == "runs" and line["stage"] != "serve"]


@pytest.fixture(scope="module")
def killed(kit, tmp_path_factory):
    """One hall whose lifecycle is killed at every step in turn; what was seen after each kill, and the way to the end."""
    place = kit.Place(tmp_path_factory.mktemp("k")).write()
    seen, before = {}, None
    try:
        for name in STEPS:
            talk = place.start("run", "-y", "--no-serve", "--json", "app/app.yaml")
            if before is not None:
                before.to_run = to_run(talk.event("planned"))
            talk.event("step_began", name)
            talk.signal(signal.SIGKILL)
            status = talk.end()
            kit.eventually(lambda: not place.processes(), what=f"processes live on after {name}: {place.processes()}")
            verified = place.ask("verify")["ok"]
            place.do("ps")  # whoever opens the hall next mends it
            before = seen[name] = SimpleNamespace(status=status, verified=verified, problems=problems(place))
        seen["end"] = place.events("app/app.yaml", "--no-serve")
        before.to_run = to_run(seen["end"].said[0])
        with place.catalogue() as catalogue:
            seen["looks"] = [holdout.num_looks for holdout in catalogue.find(Holdout)]
            seen["versions"] = [version.id for version in catalogue.find(Version)]
            seen["live"] = [deployment.version for deployment in catalogue.find(Deployment, state="live")]
            seen["steps"] = {step.stage: step.state for step in catalogue.find(Step)}
    finally:
        place.close()
    return seen


@pytest.mark.parametrize("name", STEPS)
def test_a_killed_lifecycle_leaves_nothing_half_done(killed, name):
    assert killed[name].status == -signal.SIGKILL
    assert killed[name].problems == []
    assert killed[name].verified is True


@pytest.mark.parametrize("name", STEPS)
def test_the_next_run_goes_on_at_the_step_that_was_killed(killed, name):
    rest = STEPS[STEPS.index(name) :]
    # The kernel may have been faster than we were: a step that takes milliseconds can be over.
    done_just_in_time = rest[1:] if name in SHORT else rest
    assert killed[name].to_run in (rest, done_just_in_time)


def test_a_lifecycle_killed_at_every_step_ends_as_if_nothing_had_been(killed):
    assert killed["end"].ended["outcome"] in {"released", "unchanged"}
    assert killed["versions"] == killed["live"] == ["flowers@1.0.0"]
    assert set(killed["steps"].values()) == {"done"}
    assert killed["looks"] in ([1], [2]), "a look that was cut off counts, and only that one"


@pytest.fixture(scope="module")
def cut(released, kit, tmp_path_factory):
    """A hall with a changed claim, killed just before and just after the act of each step that takes milliseconds."""
    place = released.copy(tmp_path_factory.mktemp("i")).write(bound=0.81, replicas=2)
    seen = {}
    try:
        for stage in SHORT:
            for moment in ("before", "after"):
                done = subprocess.run(
                    [sys.executable, "-c", KILLED_INSIDE, moment, stage, "run", "-y", "--no-serve", "app/app.yaml"],
                    cwd=place.root,
                    env=place.environment,
                    capture_output=True,
                    timeout=kit.BOUND,
                    check=False,
                )
                lines = place.ask("plan", "app/app.yaml")["lines"]
                seen[moment, stage] = SimpleNamespace(
                    status=done.returncode,
                    next=next(line["stage"] for line in lines if line["action"] == "runs"),
                    problems=problems(place),
                )
        seen["verified"] = place.ask("verify")["ok"]
    finally:
        place.close()
    return seen


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stage", SHORT)
def test_the_instants_around_a_short_step_are_safe_too(cut, moment, stage):
    found = cut[moment, stage]
    assert (found.status, found.problems) == (-signal.SIGKILL, [])
    assert found.next == (
        stage if moment == "before" else {"gate": "register", "register": "deploy"}.get(stage, "serve")
    )
    assert cut["verified"] is True


def test_the_checks_would_see_a_step_left_running(rested):
    assert problems(rested) == []
    with rested.catalogue() as catalogue:
        done = catalogue.find(Step, state="done")[0]
        left = msgspec.structs.replace(done, state="running", outputs={})
        change = Change(old=done, new=left)
        catalogue.act(Act(kind="step.started", actor="test", app="flowers", body={}, changes=(change,)))
    assert f"{left.stage} is still running" in problems(rested)
    rested.do("plan", "app/app.yaml")
    assert f"{left.stage} is still running" not in problems(rested), "whoever opens the hall mends it"


def test_the_checks_would_see_a_version_that_nobody_registered(rested):
    with sqlite3.connect(rested.hall / "hall.db") as database:
        assert database.execute("delete from record_version").rowcount == 1
    database.close()
    assert "register is done without what it made" in problems(rested)
    assert rested.tell("verify").returncode == 1
