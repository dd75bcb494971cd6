"""An application of a team of its own: its team and the owner reach it, to everybody else it does not exist."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def blue(kit, tmp_path_factory):
    """A hall that answers, with one application: the team blue's."""
    place = kit.Place(tmp_path_factory.mktemp("b")).write(extra="team: blue\n")
    try:
        place.story = place.events("app/app.yaml")
        yield place
    finally:
        place.close()


def key(place, team, *scopes):
    asked = [option for scope in scopes for option in ("--scope", scope)]
    return place.ask("key", "issue", f"{team} reader", "--team", team, *asked)["key"]


@pytest.fixture(scope="module")
def readers(blue):
    """A key of the team blue, and keys of others, each of which may read."""
    scopes = {"blue": ("read", "predict"), "main": ("read", "predict"), "red": ("admin",)}
    return {team: key(blue, team, *carried) for team, carried in scopes.items()}


def test_a_run_of_another_team_s_application_returns_when_it_answers(blue):
    assert blue.story.ended["outcome"] == "released"
    assert blue.story.url


def test_the_owner_asks_and_sees_it_on_the_command_line(blue):
    said = blue.ask("predict", "flowers", "petal=3", "sepal=2", "colour=red")
    assert said["predictions"]
    assert [(app["app"], app["team"]) for app in blue.ask("ps")["status"]["apps"]] == [("flowers", "blue")]
    assert blue.ask("provenance", said["id"])
    assert blue.do("report", "flowers")


def test_only_keys_of_its_team_are_answered(blue, kit, readers):
    def status(team):
        with blue.client(readers[team]) as client:
            return client.post("/predict/flowers", json=kit.ROW).status_code

    kit.eventually(lambda: status("blue") == 200, what="the gateway knows the keys")
    for team in ("main", "red"):
        kit.eventually(lambda team=team: status(team) != 401, what="the gateway knows this key too")
        assert status(team) == 404


def test_a_key_sees_what_is_its_team_s_alone(blue, kit, readers):
    with blue.client() as client:
        answer = client.post("/predict/flowers", json=kit.ROW).json()["id"]
    paths = (f"/api/v1/answers/{answer}/provenance", "/api/v1/apps/flowers/report")
    for team, shown in readers.items():
        with blue.client(shown) as client:
            status = client.get("/api/v1/status").json()
            found = [client.get(path) for path in paths]
            missing = client.get("/api/v1/apps/trees/report")
        mine = team == "blue"
        assert [app["app"] for app in status["apps"]] == ["flowers"] * mine
        assert bool(status["replicas"]) == mine
        assert [said.status_code for said in found] == [200 if mine else 404] * 2
        if not mine:
            assert all("flowers@" not in said.text for said in found)
            assert found[1].json()["error"] == missing.json()["error"].replace("trees", "flowers")


def test_a_name_stays_with_the_team_that_declared_it_first(blue):
    before = blue.ask("ps")["status"]
    blue.app.with_name("mine.yaml").write_text(blue.app.read_text().replace("team: blue", "team: red"))
    refused = blue.tell("run", "-y", "app/mine.yaml")
    assert refused.returncode == 2
    assert "belongs to the team that declared it first" in refused.stderr
    assert "another name" in refused.stderr
    after = blue.ask("ps")["status"]
    assert (after["apps"], after["route_revision"]) == (before["apps"], before["route_revision"])
    assert blue.ask("predict", "flowers", "petal=3", "sepal=2", "colour=red")["predictions"]
