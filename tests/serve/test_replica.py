"""A replica runs the bundle that was ordered, answers pings while it computes, and finishes what was asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import pytest

from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.canonical import digest_of
from datahall.core.errors import DatahallError, IntegrityError, UnavailableError, UserError
from datahall.serve.frames import Header, encode
from datahall.serve.replica import ReplicaRequest, ReplicaServer, sample_columns

COLUMNS = {"petal length": np.array([1.0, -1.0, np.nan]), "petal width": np.array([0.0, np.nan, 1.0])}


@pytest.fixture
def replica(short, kit):
    made = kit.RunningReplica(short, "r1", kit.TinyPredictor(kit.manifest(), fail=ValueError("inner")))
    yield made
    made.close()


@pytest.fixture
def answerer(replica):
    made = UnixAnswerer(replica.address, timeout_s=10)
    yield made
    made.close()


def test_answers_are_the_models_own(replica, answerer):
    expected = replica.predictor.predict(COLUMNS)
    for _ in range(3):
        got = answerer.answer(COLUMNS)
        assert got["label"].tolist() == expected["label"].tolist()
        np.testing.assert_array_equal(got["probability"], expected["probability"])
    assert answerer.bundle == digest_of(replica.predictor.manifest)


def test_no_rows_are_no_error(answerer):
    assert len(answerer.answer({"petal length": np.zeros(0), "petal width": np.zeros(0)})["label"]) == 0


def test_wrong_columns_and_a_failing_model_are_told_apart(answerer):
    with pytest.raises(UserError, match="columns"):
        answerer.answer({"petal length": np.zeros(1)})
    with pytest.raises(DatahallError, match="the model failed: ValueError") as caught:
        answerer.answer({"petal length": np.array([-666.0]), "petal width": np.zeros(1)})
    assert "inner" not in str(caught.value)
    assert len(answerer.answer(COLUMNS)["label"]) == 3


def test_the_socket_is_its_owners_alone(replica):
    assert Path(replica.address).stat().st_mode & 0o777 == 0o600


def test_another_bundle_is_refused(kit, short):
    request = ReplicaRequest(bundle="0" * 64, address=str(short / "x.sock"), replica="r1")
    with pytest.raises(IntegrityError, match="ordered"):
        ReplicaServer(request, kit.TinyPredictor(kit.manifest()))
    assert not (short / "x.sock").exists()


def test_pings_are_answered_while_the_model_computes(replica, answerer, kit):
    replica.predictor.hold.clear()
    other = UnixAnswerer(replica.address, timeout_s=10)
    other._socket.sendall(encode(Header("infer", id=9, num_rows=3), COLUMNS))
    assert replica.predictor.entered.wait(10)
    assert answerer._ask(Header("ping")).header.kind == "ready"
    replica.predictor.hold.set()
    other.close()


def test_draining_finishes_what_was_asked_and_leaves_no_socket(replica, answerer):
    replica.predictor.hold.clear()
    answerer._socket.sendall(encode(Header("infer", id=7, num_rows=3), COLUMNS))
    assert replica.predictor.entered.wait(10)
    drained = replica.drain()
    kinds = [answerer._reader.feed(answerer._socket.recv(1 << 16))[0].header.kind]
    assert not Path(replica.address).exists()
    assert not drained.done()
    replica.predictor.hold.set()
    kinds.append(answerer._reader.feed(answerer._socket.recv(1 << 16))[0].header.kind)
    assert kinds == ["drain", "result"]
    drained.result(10)
    with pytest.raises(UnavailableError):
        answerer.answer(COLUMNS)


def test_garbage_ends_only_its_own_connection(replica, answerer):
    other = UnixAnswerer(replica.address, timeout_s=10)
    other._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert other._socket.recv(1) == b""
    other.close()
    assert len(answerer.answer(COLUMNS)["label"]) == 3


def test_nobody_there_is_unavailable(short):
    with pytest.raises(UnavailableError):
        UnixAnswerer(str(short / "none.sock"))


def test_sample_rows_fit_every_kind_of_column(kit):
    columns = sample_columns(kit.manifest(features=kit.MIXED))
    assert columns["town"].tolist() == ["Bern"]
    assert {len(column) for column in columns.values()} == {1}


PROCESS = """
    import sys, msgspec, numpy as np
    from datahall.core.canonical import digest_of
    from datahall.core.records import BundleManifest
    from datahall.serve.replica import ReplicaRequest, run
    manifest = msgspec.json.decode(sys.argv[2], type=BundleManifest)
    class Predictor:
        def __init__(self): self.manifest = manifest
        def predict(self, columns):
            return {"label": np.array(["large"] * len(columns["petal length"]), dtype=object)}
    request = ReplicaRequest(bundle=digest_of(manifest), address=sys.argv[1], replica="r1")
    sys.exit(run(request, b"", open_predictor=lambda packed, num_threads: Predictor(),
                 listening=lambda: print("listening", flush=True)))
"""


def test_sigterm_ends_the_process_with_status_0(short, kit):
    address = str(short / "p.sock")
    arguments = [sys.executable, "-c", textwrap.dedent(PROCESS), address, msgspec.json.encode(kit.manifest())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"listening\n"
        answerer = UnixAnswerer(address, timeout_s=10)
        assert answerer.answer(COLUMNS)["label"].tolist() == ["large"] * 3
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
        answerer.close()
    assert not Path(address).exists()
