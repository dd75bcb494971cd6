"""A whole lifecycle by the command line: what runs, what is reused, and what the plan says about it."""

from __future__ import annotations

from datahall.core.records import Deployment, Holdout, Verdict, Version

STEPS = ["data", "train/plain", "export/plain", "evaluate", "gate", "register", "deploy"]
PROVEN = ["data", "train/plain", "export/plain"]


def why(place):
    return {line["name"]: (line["action"], line["why"]) for line in place.ask("plan", "app/app.yaml")["lines"]}


def test_a_first_run_does_every_step_and_releases(released):
    assert released.first.ran == STEPS
    assert released.first.ended["outcome"] == "released"
    assert released.first.ended["version"] == released.first.ended["champion"] == "flowers@1.0.0"
    assert released.first.url is None, "nothing serves where nothing was to serve"
    assert released.kinds().count("step.started") == len(STEPS)


def test_a_second_run_reuses_everything_and_starts_no_step(rested):
    before = rested.kinds()
    again = rested.events("app/app.yaml", "--no-serve")
    assert (again.ran, again.reused) == ([], STEPS)
    assert (again.ended["outcome"], again.ended["version"]) == ("unchanged", "flowers@1.0.0")
    assert rested.kinds() == before, "nothing happened, so the ledger has nothing to say"
    assert rested.ask("verify")["ok"] is True


def test_layout_and_comments_of_the_file_change_nothing(rested):
    rested.app.write_text("# a remark\n" + rested.app.read_text().replace("seeds: 2", "seeds:   2  # two"))
    assert rested.events("app/app.yaml", "--no-serve").ran == []


def test_a_changed_bound_is_measured_anew_without_training(rested):
    rested.write(bound=0.81)
    told = why(rested)
    assert [told[name][0] for name in STEPS] == ["reused"] * 3 + ["runs"] * 4
    assert "claim accuracy changed" in told["evaluate"][1]
    num_started = rested.kinds().count("step.started")
    again = rested.events("app/app.yaml", "--no-serve")
    assert again.reused == PROVEN
    assert not any("train" in name for name in again.ran)
    assert rested.kinds().count("step.started") == num_started + len(again.ran)
    assert again.ended["champion"] == "flowers@1.0.0"


def test_the_version_that_answers_is_held_to_new_claims_too(rested):
    rested.write(bound=0.999)
    sharper = rested.events("app/app.yaml", "--no-serve", expect=3)
    assert (sharper.ended["outcome"], sharper.ended["champion"]) == ("refused", "flowers@1.0.0")
    assert sharper.reused == PROVEN
    with rested.catalogue() as catalogue:
        assert [d.version for d in catalogue.find(Deployment, state="live")] == ["flowers@1.0.0"]
        before, after = catalogue.find(Verdict)
        assert (before.outcome, after.outcome == "pass") == ("pass", False)
    rested.write(bound=0.81)
    milder = rested.events("app/app.yaml", "--no-serve")
    assert (milder.ended["outcome"], milder.ended["version"]) == ("unchanged", "flowers@1.0.0")
    with rested.catalogue() as catalogue:
        assert len(catalogue.find(Version)) == 1, "proven anew, it stays what it is"
        assert [holdout.num_looks for holdout in catalogue.find(Holdout)] == [3], "each look was counted"


def test_another_number_of_replicas_only_deploys(rested):
    rested.write(replicas=2)
    again = rested.events("app/app.yaml", "--no-serve")
    assert again.ran == ["deploy"]
    with rested.catalogue() as catalogue:
        live = catalogue.find(Deployment, app="flowers", state="live")
        assert [(d.version, d.num_replicas) for d in live] == [("flowers@1.0.0", 2)]
        assert len(catalogue.find(Version)) == 1


def test_another_seed_trains_anew_on_the_same_rows(rested):
    rested.write(seed=1)
    told = why(rested)
    assert told["data"][0] == "reused"
    assert told["train/plain"] == ("runs", told["train/plain"][1])
    assert "seed" in told["train/plain"][1]
    again = rested.events("app/app.yaml", "--no-serve")
    assert again.reused == ["data"]
    assert "train/plain" in again.ran


def test_changed_rows_begin_at_the_data(rested):
    rows = rested.app.with_name("flowers.csv")
    rows.write_text(rows.read_text().replace("red", "green"))
    told = why(rested)
    assert {action for action, _ in told.values()} == {"runs"}
    assert "flowers.csv" in told["data"][1] or "source" in told["data"][1]


def test_a_plan_does_nothing(rested):
    rested.write(seed=5)
    before = rested.kinds()
    rested.do("plan", "app/app.yaml")
    assert rested.kinds() == before


def test_every_candidate_refused_ends_with_3_and_deploys_nothing(place):
    place.write(candidates={"coarse": "{model: logistic, columns: [colour]}"})
    refused = place.events("app/app.yaml", expect=3)
    assert (refused.ended["outcome"], refused.ended["champion"], refused.url) == ("refused", None, None)
    judged = [event for event in refused.said if event["event"] == "judged"]
    assert [(said["name"], said["outcome"]) for said in judged] == [("coarse", "fail")]
    assert judged[0]["reason"].startswith("accuracy: ")
    assert refused.skipped == ["register", "deploy"]
    with place.catalogue() as catalogue:
        assert (catalogue.find(Version), catalogue.find(Deployment)) == ([], [])
        assert [holdout.num_looks for holdout in catalogue.find(Holdout)] == [1]
    assert place.processes() == [], "nothing was released, so nothing serves"
    again = place.events("app/app.yaml", expect=3)
    assert "evaluate" in again.reused, "a second run of the same looks at the holdout no second time"
