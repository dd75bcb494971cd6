"""The Open Inference Protocol, spoken by a client that we did not write."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.http as tritonclient
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


@pytest.fixture
def client(flowers, kit):
    made = tritonclient.InferenceServerClient(f"127.0.0.1:{flowers.gateway.port}")
    yield made
    made.close()


HEADERS = {"Authorization": "Bearer dh_owner"}
"""Copied for each call: the client writes the length of its JSON into what it is given."""


def tensor(name, array, datatype):
    made = tritonclient.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=False)
    return made


OUTPUTS = [tritonclient.InferRequestedOutput(name, binary_data=False) for name in ("label", "probability")]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flowers", headers=dict(HEADERS))
    assert client.is_model_ready("flowers", "1.0.0", headers=dict(HEADERS))
    assert not client.is_model_ready("nobody", headers=dict(HEADERS))
    assert client.get_server_metadata()["name"] == "datahall"
    model = client.get_model_metadata("flowers", headers=dict(HEADERS))
    assert [one["name"] for one in model["inputs"]] == ["petal length", "petal width"]


def test_one_table(client, flowers):
    rows = np.array([[1.5, 0.0], [-2.0, 1.0]])
    result = client.infer(
        "flowers", [tensor("input", rows, "FP64")], request_id="abc", outputs=OUTPUTS, headers=dict(HEADERS)
    )
    assert result.get_response()["id"] == "abc"
    assert result.get_response()["model_version"] == "1.0.0"
    assert result.as_numpy("label").tolist() == ["large", "small"]
    expected = next(iter(flowers.replicas.values())).predictor.predict(
        {"petal length": rows[:, 0], "petal width": rows[:, 1]}
    )
    np.testing.assert_allclose(result.as_numpy("probability"), expected["probability"])


def test_a_tensor_for_each_column(client):
    inputs = [
        tensor("petal length", np.array([[3.0]], dtype=np.float32), "FP32"),
        tensor("petal width", np.array([[1]], dtype=np.int64), "INT64"),
    ]
    result = client.infer("flowers", inputs, model_version="1.0.0", outputs=OUTPUTS[:1], headers=dict(HEADERS))
    assert result.as_numpy("label").tolist() == ["large"]
    assert result.as_numpy("probability") is None


def test_the_client_as_it_comes_sends_and_asks_for_binary_tensors(client):
    """The very answer that JSON gives, from a client of which nothing was configured."""
    rows = np.array([[1.5, 0.0], [-2.0, np.nan]])
    given = tritonclient.InferInput("input", [2, 2], "FP64").set_data_from_numpy(rows)
    result = client.infer("flowers", [given], request_id="abc", headers=dict(HEADERS))
    assert result.get_response()["id"] == "abc"
    assert result.as_numpy("label").tolist() == [b"large", b"small"]  # so this client reads BYTES that are binary
    first = [tensor("input", rows[:1], "FP64")]
    expected = client.infer("flowers", first, outputs=OUTPUTS, headers=dict(HEADERS)).as_numpy("probability")
    np.testing.assert_array_equal(result.as_numpy("probability")[:1], expected)
    assert result.get_output("probability")["parameters"]["labels"] == ["large", "small"]


NUMBERS = ("FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64")


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [("FP16", True), *((one, way) for one in NUMBERS for way in (True, False))],  # FP16 is sent as binary only
)
def test_every_datatype_of_numbers(client, datatype, binary):
    array = np.array([[3], [1]], dtype=triton_to_np_dtype(datatype))
    inputs = []
    for name in ("petal width", "petal length"):  # the order of columns is free
        one = tritonclient.InferInput(name, [2, 1], datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    result = client.infer("flowers", inputs, outputs=OUTPUTS, headers=dict(HEADERS))
    np.testing.assert_allclose(result.as_numpy("probability")[:, 0], 1 / (1 + np.exp([-3, -1])))


@pytest.mark.parametrize("binary", [False, True])
def test_texts_and_booleans(world, kit, binary):
    world.deploy(kit.TinyPredictor(kit.manifest(features=kit.MIXED)))
    world.publish()
    world.start()
    arrays = {
        "age": (np.array([1.0, -1.0]), "FP64"),
        "town": (np.array(["Köln", "Bern"], dtype=object), "BYTES"),
        "member": (np.array([True, False]), "BOOL"),
    }
    inputs = []
    for name, (array, datatype) in arrays.items():
        one = tritonclient.InferInput(name, [2], datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    made = tritonclient.InferenceServerClient(f"127.0.0.1:{world.gateway.port}")
    assert made.infer("flowers", inputs, outputs=OUTPUTS, headers=dict(HEADERS)).as_numpy("label").tolist() == [
        "large",
        "small",
    ]
    made.close()


def test_outputs_come_as_they_are_asked_for(client):
    asked = [
        tritonclient.InferRequestedOutput("probability", binary_data=True),
        tritonclient.InferRequestedOutput("label", binary_data=False),
    ]
    result = client.infer("flowers", [tensor("input", np.ones((3, 2)), "FP64")], outputs=asked, headers=dict(HEADERS))
    assert [one["name"] for one in result.get_response()["outputs"]] == ["probability", "label"]
    assert result.as_numpy("probability").shape == (3, 2)
    assert result.as_numpy("label").tolist() == ["large"] * 3


def test_errors_are_told(client):
    def refused(words, *inputs, model="flowers", status="400", **more):
        with pytest.raises(InferenceServerException, match=words) as caught:
            client.infer(model, list(inputs), headers=dict(HEADERS), **more)
        assert caught.value.status() == status

    good = tensor("input", np.zeros((1, 2)), "FP64")
    refused("shape", tensor("input", np.zeros((1, 3)), "FP64"))
    refused("missing are 'petal length'", tensor("inpt", np.zeros((1, 2)), "FP64"))
    refused("datatype 'BOOL'", tensor("input", np.zeros((1, 2), dtype=bool), "BOOL"))
    refused("no output 'nothing'", good, outputs=[tritonclient.InferRequestedOutput("nothing")])
    refused("classification", good, outputs=[tritonclient.InferRequestedOutput("label", class_count=2)])
    refused("sequence_id", good, sequence_id=7)
    refused("no application 'nobody'", good, model="nobody", status="404")
    refused("version '9.9.9'", good, model_version="9.9.9", status="404")
    infinite = tritonclient.InferInput("input", [1, 2], "FP64").set_data_from_numpy(np.array([[np.inf, 1]]))
    refused("infinity", infinite)
    with pytest.raises(InferenceServerException, match="API key"):
        client.infer("flowers", [good])


def test_the_extension_is_announced(client):
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
