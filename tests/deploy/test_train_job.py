"""What a train job is given, and what it can take: never the holdout, never a key that signs."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from datahall.app.jobs import Jobs, grants_in
from datahall.backends.launch import landlock
from datahall.backends.launch.local import LocalLauncher
from datahall.core.canonical import canonical_json
from datahall.core.errors import RefusedError
from datahall.core.records import Snapshot
from datahall.spec.schema import AppSpec
from datahall.train.contract import TrainRequest

THIEF = (str(Path(__file__).parent / "thief_main.py"),)
needs_landlock = pytest.mark.skipif(landlock.abi() < 1, reason="this kernel has no Landlock")


class Caught:
    """Stands where jobs are run: keeps the request and, if told to, runs the thief over it."""

    def __init__(self, jobs=None):
        self.jobs, self.request, self.found = jobs, None, None

    def run(self, stage, request, result_type, **options):
        del result_type
        self.request = request
        if self.jobs is not None:
            self.found = self.jobs.run(stage, request, dict, **options)
        raise RefusedError("that was all")


def train(house, caught, settings=None):
    """Ask the real train stage for a candidate whose job is caught."""
    spec = AppSpec(
        datahall=1,
        name="tumours",
        task="classification",
        data={"sources": ["tumours.csv"], "target": "kind"},
        train={"candidates": {"forest": {"model": "forest", "settings": settings or {}}}},
    )
    stage = house.stages["train"]
    stage._jobs = caught
    with pytest.raises(RefusedError, match="that was all"):
        stage.run(house.call("train/forest", spec=spec))


def snapshot_of(house):
    return house.catalogue.get(Snapshot, house.outputs["data"]["snapshot"])


def test_a_train_request_grants_the_training_and_validation_rows_alone(house):
    caught = Caught()
    train(house, caught)
    assert isinstance(caught.request, TrainRequest)
    granted = {grant.digest for grant in grants_in(caught.request)}
    assert granted == {snapshot_of(house).split(name).artifact for name in ("train", "validation")}


def test_a_train_request_holds_no_key_but_those_of_its_rows(house):
    house.measured()  # an evaluate job was given a key, and holdout grants, before
    caught = Caught()
    train(house, caught)
    text = canonical_json(caught.request)
    snapshot = snapshot_of(house)
    secrets = [house.job.requests[-1].signing_key, house.keys.signer.private_raw(), house.keys.answer_key]
    for name in ("holdout_inputs", "holdout_outcomes"):
        grant = house.hall.vault.grant("main", snapshot.split(name).artifact)
        secrets.append(grant.key)
        assert grant.object.encode() not in text
        assert grant.digest.encode() not in text
    for secret in secrets:
        assert base64.b64encode(secret) not in text
    mine = house.hall.vault.grant("main", snapshot.split("train").artifact)
    assert base64.b64encode(mine.key) in text  # control: this is how a key would look
    assert not [name for name in TrainRequest.__struct_fields__ if "sign" in name or "holdout" in name]


def rob(house, *, confine):
    """Run the thief as the train job; return what it found and what it should not have."""
    blobs = house.hall.vault._blobs
    snapshot = snapshot_of(house)
    paths = {
        name: str(blobs.path(house.hall.vault.grant("main", snapshot.split(name).artifact).object, team="main"))
        for name in ("train", "validation", "holdout_inputs", "holdout_outcomes")
    }
    house.paths.routes.write_text("{}")
    forbidden = [paths["holdout_inputs"], paths["holdout_outcomes"], str(house.paths.db), str(house.paths.routes)]
    forbidden += [str(path) for path in house.paths.keys.iterdir()]
    forbidden += [f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem"]
    folders = [
        str(folder) for folder in (house.paths.root, house.paths.keys, house.paths.blobs, house.paths.blobs / "main")
    ]
    wanted = {"files": [*forbidden, paths["train"], paths["validation"]], "folders": folders}
    launcher = LocalLauncher(house.paths.logs, house.paths.work, entry=THIEF, confine=confine)
    caught = Caught(Jobs(launcher, blobs, house.paths.work, house.clock))
    try:
        train(house, caught, {"wanted": wanted})
    finally:
        launcher.stop_all(grace_seconds=0)
    return caught.found, forbidden, [paths["train"], paths["validation"]]


@needs_landlock
def test_a_train_job_can_open_its_rows_and_nothing_else_of_the_hall(house):
    found, forbidden, own = rob(house, confine=True)
    assert found["opened"] == own
    assert found["listed"] == []
    assert len(forbidden) >= 9
    assert not [name for name in found["environment"] if "KEY" in name or "DATAHALL" in name or "SECRET" in name]


def test_control_without_the_sandbox_the_thief_would_have_them(house):
    found, forbidden, own = rob(house, confine=False)
    mine = [path for path in forbidden if not path.startswith("/proc/")]
    assert set(found["opened"]) >= {*mine, *own}
    assert str(house.paths.db) in found["listed"]
