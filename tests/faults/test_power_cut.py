"""The power goes at any operation of the disk, and no acknowledged act is lost; with synchronous NORMAL, many are."""

from __future__ import annotations

import shutil

import pytest

from datahall.core.errors import DatahallError
from datahall.ledger.verify import VerifyError
from datahall.testing.powercut import images, lay_out
from tests.faults.workload import lost, record

NUM_CUTS, NUM_TORTURE = 50, 500  # for each number of writers


def is_wal_sync(operation):
    return operation.kind == "sync" and operation.path.endswith("-wal")


def cut_power(recording, tmp_path, seeds):
    """Return `seed, cut: what` for each seed after whose power cut something is wrong."""
    wrong = []
    for seed, cut, image in images(recording.log, recording.folder, seeds):
        folder = tmp_path / f"cut-{seed}"
        lay_out(image, folder)
        try:
            what = lost(recording, folder, cut)
        except (DatahallError, VerifyError) as error:
            what = f"the hall cannot be read: {error}"
        if what:
            wrong.append(f"--seed {seed} (power cut at operation {cut} of {len(recording.log)}): {what}")
        shutil.rmtree(folder)
    return wrong


@pytest.fixture(params=[1, 4], ids=["alone", "threads"])
def recording(request, tmp_path):
    """A single writer does the same operations each time, so a seed finds again what it found."""
    return record(tmp_path / "hall", seed=request.param, num_writers=request.param, num_acts=120)


def test_the_layer_sees_the_catalogue_s_own_syncs(recording):
    """First of all: an act that was acknowledged without a sync of its own would make every test below worthless."""
    for act in recording.acts:
        assert any(is_wal_sync(operation) for operation in recording.log[act.asked_at : act.told_at]), act
    kinds = {(operation.kind, operation.path.rpartition("-")[2]) for operation in recording.log}
    assert {("delete", "wal"), ("sync", "journal"), ("open", "wal")} <= kinds, "a WAL began and ended"
    assert sum(operation.kind == "sync" and operation.path.endswith(".db") for operation in recording.log) >= 5


def test_a_power_cut_loses_no_acknowledged_act(recording, tmp_path, seeds):
    assert cut_power(recording, tmp_path, seeds(NUM_CUTS)) == []


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_a_thousand_power_cuts_lose_no_acknowledged_act(recording, tmp_path, seeds):
    assert cut_power(recording, tmp_path, seeds(NUM_TORTURE)) == []


def test_without_a_sync_for_each_commit_acknowledged_acts_are_lost(tmp_path):
    """The control: the same test, with the catalogue told to sync less."""
    recording = record(tmp_path / "hall", seed=1, num_acts=120, synchronous="NORMAL")
    wrong = cut_power(recording, tmp_path, range(NUM_CUTS))
    assert sum("acknowledged acts are lost" in each for each in wrong) >= NUM_CUTS // 4
