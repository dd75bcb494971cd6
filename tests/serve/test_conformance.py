"""The Open Inference Protocol, spoken by a client that we did not write."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.http as tritonclient
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(flowers, kit):
    made = tritonclient.InferenceServerClient(f"127.0.0.1:{flowers.gateway.port}")
    yield made
    made.close()


HEADERS = {"Authorization": "Bearer dh_owner"}


def tensor(name, array, datatype):
    made = tritonclient.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=False)
    return made


OUTPUTS = [tritonclient.InferRequestedOutput(name, binary_data=False) for name in ("label", "probability")]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flowers", headers=HEADERS)
    assert client.is_model_ready("flowers", "1.0.0", headers=HEADERS)
    assert not client.is_model_ready("nobody", headers=HEADERS)
    assert client.get_server_metadata()["name"] == "datahall"
    model = client.get_model_metadata("flowers", headers=HEADERS)
    assert [one["name"] for one in model["inputs"]] == ["petal length", "petal width"]


def test_one_table(client, flowers):
    rows = np.array([[1.5, 0.0], [-2.0, 1.0]])
    result = client.infer(
        "flowers", [tensor("input", rows, "FP64")], request_id="abc", outputs=OUTPUTS, headers=HEADERS
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
    result = client.infer("flowers", inputs, model_version="1.0.0", outputs=OUTPUTS[:1], headers=HEADERS)
    assert result.as_numpy("label").tolist() == ["large"]
    assert result.as_numpy("probability") is None


def test_errors_are_told(client):
    with pytest.raises(InferenceServerException, match="shape"):
        client.infer("flowers", [tensor("input", np.zeros((1, 3)), "FP64")], outputs=OUTPUTS, headers=HEADERS)
    with pytest.raises(InferenceServerException, match="binary"):
        client.infer("flowers", [tensor("input", np.zeros((1, 2)), "FP64")], headers=HEADERS)
