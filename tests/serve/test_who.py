"""Who is answered: keys, scopes, teams, and the headers in which keys come."""

from __future__ import annotations

GOOD = {"rows": [{"petal length": 2.0, "petal width": 1.0}]}


def test_who_may_ask(flowers):
    flowers.grant("dh_old", scopes=("predict",), expires_at_ns=1)
    flowers.grant("dh_one", scopes=("predict:flowers",))
    flowers.grant("dh_wrong", scopes=("predict:other", "read"))
    flowers.grant("dh_foreign", scopes=("admin",), team="others")
    flowers.publish()
    flowers.until(lambda: flowers.gateway._follower.revision == 2)

    def ask(key, app="flowers"):
        return flowers.ask("POST", f"/predict/{app}", GOOD, key=key)

    assert ask("dh_one").status == 200
    for key in (None, "", "dh_never", "dh_old", "dh_öwner"):
        reply = ask(key)
        assert reply.status == 401, key
        assert reply.headers["www-authenticate"] == "Bearer"
    assert ask("dh_wrong").status == 403
    foreign, missing = ask("dh_foreign"), ask("dh_foreign", "flowerz")
    assert (foreign.status, missing.status) == (404, 404)
    assert foreign.json()["error"].replace("flowers", "") == missing.json()["error"].replace("flowerz", "")
    with flowers.client() as client:
        assert client.ask("POST", "/predict/flowers", GOOD, key=None, headers=("X-API-Key: dh_one",)).status == 200
        # Where both are given, Authorization is what counts, as it is for control.
        assert client.ask("POST", "/predict/flowers", GOOD, key="dh_one", headers=("X-API-Key: dh_x",)).status == 200
        assert client.ask("POST", "/predict/flowers", GOOD, key="dh_x", headers=("X-API-Key: dh_one",)).status == 401


def test_the_key_of_every_team_reaches_what_other_keys_do_not(flowers):
    flowers.grant("dh_all", scopes=("admin",), team="*")
    flowers.grant("dh_admin", scopes=("admin",), team="others")
    flowers.publish()
    flowers.until(lambda: flowers.gateway._follower.revision == 2)
    for key, status in (("dh_all", 200), ("dh_admin", 404)):
        assert flowers.ask("POST", "/predict/flowers", GOOD, key=key).status == status
        assert flowers.ask("GET", "/v2/models/flowers", key=key).status == status
    assert flowers.ask("POST", "/predict/flowerz", GOOD, key="dh_all").status == 404


def test_two_teams_have_an_app_of_one_name(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.deploy(kit.TinyPredictor(kit.manifest()), version="7.0.0", team="others")
    world.grant("dh_others", scopes=("predict",), team="others")
    world.publish()
    world.start()
    assert world.ask("POST", "/predict/flowers", GOOD).json()["version"] == "1.0.0"
    assert world.ask("POST", "/predict/flowers", GOOD, key="dh_others").json()["version"] == "7.0.0"
