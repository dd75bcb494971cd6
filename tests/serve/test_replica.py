"""A replica runs the bundle that was ordered, answers pings while it computes, and finishes what was asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.canonical import digest_of
from datahall.core.errors import DatahallError, IntegrityError, UnavailableError, UserError
from datahall.serve.frames import Frame, FrameReader, Header, encode
from datahall.serve.replica import (
    NO_MEMORY_STATUS,
    ReplicaRequest,
    ReplicaServer,
    answer_frame,
    answering,
    sample_columns,
)
from datahall.serve.rows import TABLE

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
    columns = sample_columns(kit.manifest(features=kit.MIXED), 3)
    assert columns["town"].tolist() == ["Bern", "Ulm", "Bern"]
    assert set(columns["member"].tolist()) <= {0.0, 1.0}
    assert len(set(columns["age"].tolist())) == 3
    assert {len(column) for column in columns.values()} == {3}


class TablePredictor:
    """Says which way it was asked."""

    def __init__(self, manifest):
        self.manifest = manifest
        self.asked = []

    def predict(self, columns):
        self.asked.append("columns")
        if set(columns) != {feature.name for feature in self.manifest.features}:
            raise UserError("the columns are not the model's")
        return {"label": columns["petal length"]}

    def predict_table(self, table):
        self.asked.append("table")
        return {"label": table[:, 0]}


def test_a_table_goes_straight_to_an_engine_that_takes_one(kit):
    predictor = TablePredictor(kit.manifest())
    table = np.column_stack(list(COLUMNS.values()))
    np.testing.assert_array_equal(answering(predictor)({TABLE: table})["label"], COLUMNS["petal length"])
    np.testing.assert_array_equal(answering(predictor)(COLUMNS)["label"], COLUMNS["petal length"])
    assert predictor.asked == ["table", "columns"]


def test_a_table_beside_other_columns_is_refused(kit):
    frame = Frame(Header("infer", id=3, num_rows=3), {TABLE: np.zeros((3, 2)), "more": np.zeros(3)})
    reply = answer_frame(answering(TablePredictor(kit.manifest())), frame)
    header = FrameReader().feed(reply)[0].header
    assert (header.id, header.kind) == (3, "error")


@pytest.mark.parametrize(("inline_us", "same_thread"), [(1e9, True), (0, False)])
def test_short_batches_run_on_the_loop_and_long_ones_beside_it(kit, short, inline_us, same_thread):
    predictor = kit.TinyPredictor(kit.manifest())
    threads = []
    predict = predictor.predict
    predictor.predict = lambda columns: threads.append(threading.get_ident()) or predict(columns)
    replica = kit.RunningReplica(short, "r1", predictor, inline_us=inline_us)
    answerer = UnixAnswerer(replica.address, timeout_s=10)
    threads.clear()
    answerer.answer(COLUMNS)
    assert threads == [replica.thread.thread.ident] if same_thread else threads != [replica.thread.thread.ident]
    answerer.close()
    replica.close()


def test_a_quick_batch_waits_its_turn_behind_a_slow_one(kit, short):
    # The model is not safe to be called twice at once: what is asked while it computes queues, however short.
    predictor = kit.TinyPredictor(kit.manifest())
    replica = kit.RunningReplica(short, "r1", predictor, inline_us=1e9)
    answerer, other = (UnixAnswerer(replica.address, timeout_s=10) for _ in range(2))
    replica.server.request = msgspec.structs.replace(replica.server.request, inline_us=0)
    predictor.hold.clear()
    other._socket.sendall(encode(Header("infer", id=9, num_rows=3), COLUMNS))
    assert predictor.entered.wait(10)
    replica.server.request = msgspec.structs.replace(replica.server.request, inline_us=1e9)
    answerer._socket.sendall(encode(Header("infer", id=10, num_rows=3), COLUMNS))
    answerer._socket.sendall(encode(Header("ping")))
    assert answerer._reader.feed(answerer._socket.recv(1 << 16))[0].header.kind == "ready"
    assert predictor.batches == [3]
    predictor.hold.set()
    assert answerer._reader.feed(answerer._socket.recv(1 << 16))[0].header.id == 10
    for each in (answerer, other):
        each.close()
    replica.close()


def test_who_asks_hears_which_batches_are_best(replica, answerer):
    assert answerer._ask(Header("ping")).header.max_rows == replica.server.max_rows > 0


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


def run_process(short, kit, listening):
    program = textwrap.dedent(PROCESS).replace('lambda: print("listening", flush=True)', listening)
    arguments = [sys.executable, "-c", program, str(short / "p.sock"), msgspec.json.encode(kit.manifest())]
    return subprocess.run(arguments, capture_output=True, timeout=60, check=False)


RAISE = "lambda: __import__('asyncio').get_running_loop().call_soon(lambda: {})"
STOP = "__import__('os').kill(__import__('os').getpid(), 15)"


def test_a_loop_without_memory_ends_the_process_and_says_so(short, kit):
    ended = run_process(short, kit, RAISE.format("(_ for _ in ()).throw(MemoryError())"))
    assert ended.returncode == NO_MEMORY_STATUS
    assert ended.stderr.endswith(b"MemoryError: the replica needs more memory than it may use\n")


def test_control_another_error_in_the_loop_does_not_end_it(short, kit):
    ended = run_process(short, kit, RAISE.format(f"({STOP}, 1 / 0)"))
    assert ended.returncode == 0
    assert b"ZeroDivisionError" in ended.stderr


def test_a_batch_too_large_for_the_memory_is_refused_and_the_next_is_answered(kit, short):
    replica = kit.RunningReplica(short, "r1", kit.TinyPredictor(kit.manifest(), fail=MemoryError()))
    answerer = UnixAnswerer(replica.address, timeout_s=10)
    with pytest.raises(UserError, match="1 rows at once need more memory"):
        answerer.answer({"petal length": np.array([-666.0]), "petal width": np.zeros(1)})
    assert len(answerer.answer(COLUMNS)["label"]) == 3
    answerer.close()
    replica.close()
