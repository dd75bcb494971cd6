"""An answer is followed back to its origins, link by proven link, and a report shows what its version rests on."""

import re

import pytest

from datahall.app.environment import current_environment
from datahall.core.records import Answer, AnswerSegment, Bundle, Candidate, Replica, Run, Snapshot, Verdict, Version
from datahall.registry.page import render_page
from datahall.registry.provenance import trace
from datahall.registry.report import make_report
from tests.deploy.conftest import APP, TEAM, accuracy, replace

ROOT = "ab" * 32
NOUNS = [
    "answer",
    "replica",
    "deployment",
    "version",
    "verdict",
    "evidence",
    "candidate",
    "bundle",
    "run",
    "environment",
    "snapshot",
]


def run_of(house):
    """Write the run and the environment of the candidate: the house fakes its jobs."""
    environment = current_environment()
    run = Run(
        id="run_1",
        app=APP,
        candidate="forest",
        step="s",
        snapshot=house.catalogue.find(Snapshot)[0].id,
        environment=environment.id,
        code_digest=environment.datahall_digest,
        seeds=(1, 2),
        parameters={"num_trees": 3},
        metrics={"accuracy": 0.9},
        models=(),
        fits="0" * 64,
        trials="0" * 64,
        started_at_ns=1,
        ended_at_ns=2,
    )
    house.write(run)
    house.sequencer.flush()


@pytest.fixture
def answered(house):
    """A released version, one of its replicas, and an answer that it gave."""
    deployment = house.released()
    run_of(house)
    replica = Replica(
        id="rep_1",
        deployment=deployment.id,
        bundle=deployment.bundle,
        address="/run/rep_1/s",
        pid=1,
        pid_started_at=1.0,
        state="ready",
        node_class="n",
        isolation="landlock",
        started_at_ns=1,
    )
    house.write(replica, kind="replica.started")
    house.sequencer.flush()
    answer = Answer(
        id="ans_1",
        gateway="g1",
        sequence=7,
        at_ns=house.clock.now_ns(),
        principal="owner",
        team=TEAM,
        app=APP,
        version=deployment.version,
        deployment=deployment.id,
        bundle=deployment.bundle,
        replica=replica.id,
        route_revision=1,
        salt=b"s",
        input_digest=b"0" * 32,
        output_digest=b"1" * 32,
        num_rows=1,
        latency_us=900,
    )
    return house, answer


def follow(house, answer, root=None):
    return trace(house.catalogue, house.hall.anchored, answer, root)


def seal(house, root=ROOT, first=0, num=10):
    segment = AnswerSegment(
        id="g1-0",
        gateway="g1",
        first_sequence=first,
        num_answers=num,
        root=root,
        digest="0" * 64,
        hour=0,
        first_at_ns=1,
        last_at_ns=2,
        sealed_at_ns=house.clock.now_ns(),
    )
    house.write(segment, kind="answers.sealed")
    house.sequencer.flush()


def test_every_link_is_there_and_proven(answered):
    found = follow(*answered)
    assert [link.noun for link in found.links] == NOUNS
    assert (found.verified, found.sealed, found.problems) == (True, False, ())


def test_the_links_name_code_seeds_data_and_the_environment(answered):
    facts = {link.noun: link.facts for link in follow(*answered).links}
    assert {"code", "seeds", "parameters"} <= facts["run"].keys()
    assert {"sources", "recipe"} <= facts["snapshot"].keys()
    assert {"python", "datahall"} <= facts["environment"].keys()


def test_a_sealed_answer_lies_under_the_ledger(answered):
    house, answer = answered
    seal(house)
    assert follow(house, answer, ROOT).sealed


def test_a_segment_that_was_altered_after_sealing_is_named(answered):
    house, answer = answered
    seal(house)
    found = follow(house, answer, "cd" * 32)
    assert not found.verified
    assert "altered after it was sealed" in found.problems[0]


@pytest.mark.parametrize(("first", "num"), [(0, 7), (8, 5)])
def test_another_stretch_of_the_log_proves_nothing_about_this_answer(answered, first, num):
    house, answer = answered
    seal(house, first=first, num=num)
    assert not follow(house, answer, ROOT).sealed


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bundle": "f" * 64}, "about another bundle"),
        ({"deployment": "dep_0"}, "a link is missing"),
        ({"version": f"{APP}@9.9.9"}, "a link is missing"),
        ({"replica": "rep_9"}, "a link is missing"),
    ],
)
def test_an_answer_that_does_not_fit_its_chain_is_not_verified(answered, change, problem):
    house, answer = answered
    found = follow(house, replace(answer, **change))
    assert not found.verified
    assert any(problem in said for said in found.problems), found.problems


@pytest.mark.parametrize("kind", [Version, Verdict, Candidate, Bundle, Run, Snapshot])
def test_a_link_that_was_changed_behind_the_ledger_is_not_proven(answered, kind):
    house, answer = answered
    record = house.catalogue.find(kind)[0]
    field = {Version: "registered_at_ns", Verdict: "decided_at_ns", Candidate: "name", Run: "candidate"}.get(kind)
    changes = {Bundle: {"equivalence": {"equal": True, "by": "nobody"}}, Snapshot: {"num_rows": 1}}.get(kind)
    value = "other" if field in {"name", "candidate"} else 1
    house.rewrite(replace(record, **(changes or {field: value})))
    found = follow(house, answer)
    assert not found.verified
    assert found.problems


def test_the_report_shows_what_was_demanded_found_and_released(answered):
    house, _ = answered
    report = make_report(house.catalogue, APP)
    (item,) = report.candidates
    assert (report.live, item.version, item.verdict.outcome) == (item.version, f"{APP}@1.0.0", "pass")
    assert [claim.finding.outcome for claim in item.claims] == ["pass"]
    assert item.claims[0].figure is not None


def test_the_page_asks_nobody_for_anything_and_runs_nothing(answered):
    house, _ = answered
    page = render_page(make_report(house.catalogue, APP))
    assert "<svg" in page
    assert "<script" not in page
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_counts_and_lists_in_plain_words(answered):
    house, _ = answered
    report = make_report(house.catalogue, APP)
    (item,) = report.candidates
    (claim,) = item.claims
    page = render_page(report)
    assert f"{claim.figure.num} rows, look 1" in page
    assert "looked at 1 time;" in page
    assert re.search(r"<td>(onnx|sklearn)</td>", page), "an engine without a remark ends without a semicolon"
    latency = replace(claim.claim, kind="latency", metric="latency_ms_p95")
    busy = replace(
        item,
        claims=(replace(claim, claim=latency, figure=replace(claim.figure, num=2000)),),
        run=replace(item.run, parameters={"layers": [64, 32], "rate": 0.1, "balanced": True}),
        bundle=replace(item.bundle, equivalence={"reason": "as asked"}),
    )
    page = render_page(replace(report, num_looks=2, candidates=(busy,)))
    assert "2,000 requests, look 1" in page
    assert "looked at 2 times;" in page
    assert "layers 64, 32; rate 0.1; balanced yes</td>" in page
    assert re.search(r"<td>(onnx|sklearn); as asked</td>", page)


def test_what_people_wrote_is_text_on_the_page(house):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    house.declare(replace(accuracy(), reason=hostile, name=f"accuracy/{hostile}"))
    house.take_data()
    house.train()
    house.evaluate()
    house.gate()
    run_of(house)
    page = render_page(make_report(house.catalogue, APP))
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
