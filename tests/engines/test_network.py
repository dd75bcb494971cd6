"""A network's file holds what it says and nothing else; the engine answers bit for bit as training measured."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, UserError
from datahall.core.records import Column
from datahall.data.frames import load_columns
from datahall.engines.bundle import pack, unpack
from datahall.engines.network import (
    MODEL_FILE,
    Category,
    Layer,
    Network,
    check_network,
    read_network,
    shapes,
    write_network,
)
from datahall.engines.open import open_predictor
from datahall.testing.models import export_request, no_report, small_bundle, train_request
from datahall.testing.tables import TEAM, small_table

FEATURES = (
    Column(name="age", kind="number"),
    Column(name="town", kind="category", categories=("Bern", "Ulm")),
    Column(name="member", kind="boolean"),
)
NETWORK = Network(
    task="classification",
    num_features=3,
    numbers=(0, 2),
    categories=(Category(place=1, num_codes=4, width=2),),
    layers=(
        Layer(kind="linear", num_in=4, num_out=3),
        Layer(kind="batch_norm", num_in=3, num_out=3),
        Layer(kind="relu", num_in=3, num_out=3),
        Layer(kind="linear", num_in=3, num_out=2),
    ),
)


def tensors_of(network, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes(network).items()}


def changed(**changes):
    return msgspec.structs.replace(NETWORK, **changes)


def header_changed(old, new):
    data = write_network(NETWORK, tensors_of(NETWORK))
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    assert old in header
    other = header.replace(old, new)
    return len(other).to_bytes(8, "little") + other + data[8 + length :]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["relu", "gelu", "tanh", "layer_norm", "batch_norm", "dropout"]),
    st.integers(0, 9),
)
def test_law_what_is_written_is_read_and_has_one_form(units, between, seed):
    layers, width = [], 2
    for unit in units:
        layers += [Layer(kind="linear", num_in=width, num_out=unit), Layer(kind=between, num_in=unit, num_out=unit)]
        width = unit
    network = changed(numbers=(0, 2), categories=(), layers=tuple(layers))
    tensors = tensors_of(network, seed)
    data = write_network(network, tensors)
    again, read = read_network(memoryview(data))
    assert again == network
    assert {name: array.tobytes() for name, array in read.items()} == {n: a.tobytes() for n, a in tensors.items()}
    assert write_network(again, read) == data


def test_the_file_is_one_that_other_programs_read():
    safetensors = pytest.importorskip("safetensors.numpy", reason="pip install safetensors to compare with its reader")
    tensors = tensors_of(NETWORK)
    read = safetensors.load(write_network(NETWORK, tensors))
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(100),
        write_network(NETWORK, tensors_of(NETWORK)) + b"\0",
        write_network(NETWORK, tensors_of(NETWORK))[:-1],
        header_changed(b'"F32"', b'"F16"'),
        header_changed(b'\\"relu\\"', b'\\"eval\\"'),
        header_changed(b'\\"layers\\":', b'\\"code\\":1,\\"layers\\":'),
        header_changed(b'"numbers.fill"', b'"numbers.full"'),
        header_changed(b'{"__metadata__"', b'{"more":1,"__metadata__"'),
        header_changed(b"[0,8]", b"[8,8]"),
        header_changed(b'\\"num_codes\\":4', b'\\"num_codes\\":99999999'),
        header_changed(b'\\"num_codes\\":4', b'\\"num_codes\\":-4'),
        (1 << 63).to_bytes(8, "little") + bytes(8),
    ],
)
def test_any_other_bytes_are_refused(data):
    with pytest.raises(IntegrityError):
        read_network(data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    tensors = tensors_of(NETWORK)
    data = write_network(NETWORK, tensors)
    at = data.index(tensors["layers.0.weight"].tobytes())
    with pytest.raises(IntegrityError, match=r"layers\.0\.weight"):
        read_network(data[:at] + np.float32(value).tobytes() + data[at + 4 :])


def test_control_the_network_itself_is_whole():
    check_network(NETWORK, FEATURES, 2)
    assert read_network(write_network(NETWORK, tensors_of(NETWORK)))[0] == NETWORK


@pytest.mark.parametrize(
    ("network", "num_outputs"),
    [
        (NETWORK, 3),
        (changed(num_features=2), 2),
        (changed(numbers=(0, 3)), 2),
        (changed(numbers=(0, 0)), 2),
        (changed(numbers=(0, 1), categories=()), 2),
        (changed(categories=(Category(place=1, num_codes=5, width=2),)), 2),
        (changed(categories=(Category(place=1, num_codes=4, width=3),)), 2),
        (changed(layers=()), 2),
        (changed(layers=NETWORK.layers[:-1]), 3),
        (changed(layers=NETWORK.layers[1:]), 2),
        (changed(layers=(*NETWORK.layers, Layer(kind="relu", num_in=2, num_out=2))), 2),
        (changed(layers=(Layer(kind="relu", num_in=4, num_out=3), *NETWORK.layers[1:])), 2),
        (changed(layers=(*NETWORK.layers[:-1], Layer(kind="linear", num_in=3, num_out=1 << 20))), 1 << 20),
    ],
)
def test_a_network_that_is_not_the_manifests_is_refused(network, num_outputs):
    with pytest.raises(IntegrityError):
        check_network(network, FEATURES, num_outputs)


@pytest.fixture(scope="module")
def _torch():
    pytest.importorskip("torch", reason="pip install 'datahall[torch]' for the tests of nets")


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_it_serves_bit_for_bit_what_training_measured(blobs, task):
    from datahall.optimize.job import run as export  # noqa: PLC0415  (imports numeric libraries)
    from datahall.train.job import run as train  # noqa: PLC0415  (as above)
    from datahall.train.scores import measure  # noqa: PLC0415  (as above)
    from datahall.train.table import load_rows  # noqa: PLC0415  (as above)

    table = small_table(blobs, task=task, mixed=True)
    fits = train(train_request(table, "net"), blobs, no_report)
    told = export(export_request(table, fits), blobs, no_report)
    assert (told.equivalence["engine"], told.manifests[0].files.keys()) == ("torch", {MODEL_FILE})
    predictor = open_predictor(blobs.get(told.bundles[0], team=TEAM))
    rows = load_rows(blobs, table.validation, team=TEAM, features=table.features, target=table.target)
    columns = load_columns(blobs.get(table.validation, team=TEAM), table.features)
    answer = predictor.predict(columns)
    scores = answer["probability" if task == "classification" else "label"]
    figures = measure(task, rows.target, scores)
    assert {name: value for name, value in fits.models[0].metrics.items() if name in figures} == figures
    alone = [predictor.predict({n: a[i : i + 1] for n, a in columns.items()}) for i in range(8)]
    single = np.concatenate([one["probability" if task == "classification" else "label"] for one in alone])
    np.testing.assert_allclose(single, scores[:8], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_torch")
def test_an_unseen_and_a_missing_value_are_answered(blobs):
    table = small_table(blobs, task="classification", mixed=True)
    predictor = open_predictor(small_bundle(blobs, table, "net"))
    columns = load_columns(blobs.get(table.holdout, team=TEAM), table.features)
    for feature in table.features:
        missing = [None] if feature.kind == "category" else [np.nan]
        odd = {
            **columns,
            feature.name: np.array(missing * len(columns[feature.name]), dtype=columns[feature.name].dtype),
        }
        assert np.isfinite(predictor.predict(odd)["probability"]).all()


@pytest.mark.usefixtures("_torch")
def test_a_bundle_with_another_file_or_network_is_refused(blobs):
    table = small_table(blobs, task="classification", mixed=True)
    packed = small_bundle(blobs, table, "net")
    manifest, files = unpack(packed)
    fewer = msgspec.structs.replace(manifest, features=manifest.features[:-1])
    with pytest.raises(IntegrityError, match="does not take the manifest's"):
        open_predictor(pack(fewer, {name: bytes(view) for name, view in files.items()}))
    pickled = {"model.pt": b"anything"}
    with pytest.raises(IntegrityError, match="and nothing else"):
        open_predictor(pack(msgspec.structs.replace(manifest, files={"model.pt": digest_bytes(b"anything")}), pickled))


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("engine", ["onnx", "sklearn"])
def test_another_engine_is_refused_for_a_net(blobs, engine):
    table = small_table(blobs, task="classification")
    with pytest.raises(UserError, match="a model of torch is not run by"):
        small_bundle(blobs, table, "net", engine=engine)


SCRIPT = """
import numpy as np
from datahall.core.canonical import digest_bytes
from datahall.core.records import Column
from datahall.train import MODELS
from datahall.train.fit import dump_fit, fit_pipeline
from datahall.train.table import Rows
random = np.random.default_rng(3)
rows = Rows(random.normal(size=(80, 2)).astype(np.float32), (np.arange(80) % 3).astype(np.int64))
features = (Column(name="a", kind="number"), Column(name="b", kind="number"))
config = MODELS.load("net").model_validate({"num_epochs": 3, "dropout": 0.2, "norm": "batch"})
print(digest_bytes(dump_fit(fit_pipeline(config, rows, features, "classification", SEED))))
"""


@pytest.mark.usefixtures("_torch")
def test_equal_seeds_fit_the_same_bytes_in_another_process_and_other_seeds_do_not():
    def fitted(seed, threads):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.replace("SEED", str(seed))],
            env={"OMP_NUM_THREADS": threads},
            check=True,
            capture_output=True,
            timeout=100,
        ).stdout

    first, again, other = fitted(5, "1"), fitted(5, "2"), fitted(6, "1")
    assert first == again != other
