"""Jobs whose objects lie in a bucket read plain sealed files, and what they make ends up in the bucket."""

from __future__ import annotations

import pytest

from datahall.app.jobs import Cancel, Jobs
from datahall.backends.blobs.cached import CachedBlobStore
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore
from datahall.backends.launch.local import LocalLauncher
from datahall.core.clock import SystemClock
from datahall.core.errors import StorageFullError
from datahall.optimize.contract import ExportResult
from datahall.testing.models import export_request, no_report, train_request
from datahall.testing.tables import TEAM, small_table
from datahall.train.contract import TrainResult
from tests.backends.object_server import OPTIONS, Server


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def remote(server):
    options = {**OPTIONS, "endpoint": f"http://{server.host}:{server.port}"}
    return ObjectBlobStore(f"s3://{server.bucket()}/hall", options=options, allow_http=True)


@pytest.fixture
def launcher(tmp_path):
    launcher = LocalLauncher(tmp_path / "logs", tmp_path / "work")
    yield launcher
    launcher.stop_all(grace_seconds=0)


def run(jobs, stage, request, result):
    return jobs.run(stage, request, result, team=TEAM, report=no_report, cancel=Cancel())


def test_a_model_is_trained_and_exported_over_a_bucket(remote, launcher, tmp_path):
    store = CachedBlobStore(remote, tmp_path / "cache", limit_bytes=50_000_000)
    table = small_table(store, task="classification", mixed=True)
    jobs = Jobs(launcher, store, tmp_path / "work", SystemClock())
    fits = run(jobs, "train", train_request(table, "logistic"), TrainResult)
    before = store.stats()
    exported = run(jobs, "export", export_request(table, fits), ExportResult)
    assert store.stats().hits > before.hits, "what the first job made or read is here already"
    for grant in (fits.models[0].model, *exported.bundles):
        assert remote.get(grant, team=TEAM) == store.get(grant, team=TEAM)
    assert LocalBlobStore(store.folder).list(team="nobody") == []


def test_a_job_that_needs_more_than_the_cache_holds_is_refused_with_what_to_do(remote, launcher, tmp_path):
    store = CachedBlobStore(remote, tmp_path / "cache", limit_bytes=1_000)
    table = small_table(store, task="classification")
    jobs = Jobs(launcher, store, tmp_path / "work", SystemClock())
    with pytest.raises(StorageFullError, match="no room"):
        run(jobs, "train", train_request(table, "logistic"), TrainResult)
    assert list((tmp_path / "work").iterdir()) == []
