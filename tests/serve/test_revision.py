"""An answer's id names a revision of the routes in which the deployment that gave it is: that is what it proves."""

from __future__ import annotations

from datahall.serve.answers import open_answer_id

ROW = {"petal length": 1, "petal width": 1}


def test_an_answer_of_a_version_that_drains_names_the_revision_that_had_it(world, kit):
    old = kit.TinyPredictor(kit.manifest())
    world.deploy(old)
    world.publish()
    world.start()
    old.hold.clear()
    with world.client() as client:
        client.send(kit.request("POST", "/predict/flowers", ROW))
        assert old.entered.wait(10)
        world.deploy(kit.TinyPredictor(kit.manifest()), version="2.0.0")
        world.publish()
        world.until(lambda: world.gateway._follower.revision == 2)
        old.hold.set()
        late = client.reply().json()["id"]
    new = world.ask("POST", "/predict/flowers", ROW).json()["id"]
    found = [
        (open_answer_id(text, kit.ANSWER_KEY), kit.record_of(world.folder / "answers", text)) for text in (late, new)
    ]
    assert [(parts.route_revision, record.version) for parts, record in found] == [(1, "1.0.0"), (2, "2.0.0")]
