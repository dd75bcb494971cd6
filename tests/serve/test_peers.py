"""Clients and a server that we did not write, which `make conformance` installs: the same questions, the same answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import conformance
import numpy as np
import pytest

SCRIPTS = conformance.ROOT / "tests" / "conformance"
SECONDS = 120
ROWS = [[1.5, 0.0], [-2.0, 1.0], [0.3, 0.5]]


def python(name):
    found = conformance.FOLDER / name / "bin" / "python"
    if not found.exists():
        pytest.skip(f"{name} is not installed: run `make conformance`")
    return str(found)


def run(name, script, *words):
    """Return what a script of another environment prints."""
    command = [python(name), str(SCRIPTS / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "MLSERVER"))}


def test_the_client_of_kserve(flowers):
    shown = run("kserve", "kserve_client.py", f"http://127.0.0.1:{flowers.gateway.port}", "dh_owner")
    assert shown["live"] is shown["ready"] is shown["model"] is True
    labels = ["BYTES", [2], ["large", "small"]]
    for way in ("json", "binary"):
        assert shown[way]["id"] == "abc"
        assert shown[way]["model"][0] == "flowers"  # this client leaves the version of an answer out
        assert shown[way]["outputs"]["label"] == labels
        assert shown[way]["outputs"]["probability"][:2] == ["FP64", [2, 2]]
    assert shown["json"] == shown["binary"]
    assert list(shown["one output"]["outputs"]) == ["probability"]
    assert "'input' has the shape [1, 3], '400 Bad Request'" in shown["shape"]
    assert "the body names the model 'other'" in shown["another model in the body"]
    assert "no application 'nobody', '404 Not Found'" in shown["no such model"]


def test_the_clients_of_mlflow(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()), protocols=("mlflow",))
    world.publish()
    world.start()
    shown = run("mlflow", "mlflow_client.py", "127.0.0.1", world.gateway.port, "dh_owner")
    labels = ["large", "small"]
    assert shown["frame"] == {"0": labels} or list(shown["frame"].values()) == [labels]
    assert shown["array"] == labels
    assert shown["records"] == {"predictions": ["large"]}
    assert shown["deployments"] == {"predictions": labels}
    assert "the columns are not the model's: missing is `petal width`" in shown["bad frame"]
    assert '"error_code":"BAD_REQUEST"' in shown["bad frame"]
    assert "takes no `params`" in shown["params"]
    assert "401" in shown["no key"]
    assert "404" in shown["nobody"]


class Logistic:
    """The very model that MLServer serves, behind our own gateway."""

    def __init__(self, manifest, model):
        self.manifest, self._model = manifest, model

    def predict(self, columns):
        rows = np.column_stack([columns[feature.name] for feature in self.manifest.features])
        return {"label": self._model.predict(rows).astype(object), "probability": self._model.predict_proba(rows)}


@contextmanager
def mlserver(folder, table):
    """A running MLServer; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "rows.json").write_text(json.dumps(table), encoding="utf-8")
    command = [python("mlserver"), str(SCRIPTS / "mlserver_server.py"), str(folder / "rows.json"), str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    ) as process:
        try:
            said, awaited = "", (f"Uvicorn running on http://127.0.0.1:{port}", "Loaded model 'flowers'")
            for line in process.stdout:
                said += line
                if all(one in said for one in awaited):
                    break
            assert process.poll() is None, said
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)


def ask(url, path, document=None):
    """Return status and body; a body that is not JSON is None."""
    data = None if document is None else document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {"Authorization": "Bearer dh_owner", "Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(url + path, data=data, headers=headers)  # noqa: S310  both servers are ours
        with urllib.request.urlopen(asked, timeout=SECONDS) as reply:  # noqa: S310  both servers are ours
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text


def test_the_answers_of_mlserver(world, kit, tmp_path):
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (no other test here needs it)

    draw = np.random.default_rng(0).normal(size=(100, 2))
    labels = ["large" if one[0] + 0.3 * one[1] > 0 else "small" for one in draw]
    model = LogisticRegression().fit(draw, labels)
    world.deploy(kit.Watched(Logistic(kit.manifest(), model)))
    world.publish()
    world.start()
    ours = f"http://127.0.0.1:{world.gateway.port}"
    with mlserver(tmp_path, {"rows": draw.tolist(), "labels": labels}) as theirs:
        compare_answers(ours, theirs)
        compare_errors(ours, theirs)


NAMES = {"predict": "label", "predict_proba": "probability"}
"""MLServer's names of outputs, and ours: they say what is in them."""


def alike(answer):
    """Return MLServer's answer as ours would be; each line is a difference, with its reason."""
    assert answer.pop("parameters") == {}  # optional, and empty
    for output in answer["outputs"]:
        output["name"] = NAMES[output["name"]]
        assert output.pop("parameters") == {"content_type": "np"}  # a hint to its own codecs, not of the protocol
        if output["name"] == "label":
            assert output["shape"] == [len(ROWS), 1]  # its codec makes two dimensions of one; metadata says [-1]
            output["shape"] = [len(ROWS)]
    return answer


def compare_answers(ours, theirs):
    flat = {"name": "input", "shape": [3, 2], "datatype": "FP64", "data": [value for row in ROWS for value in row]}
    for change, names in (
        ({}, ("predict",)),
        ({"data": ROWS}, ("predict", "predict_proba")),
        ({"datatype": "FP32"}, ("predict_proba",)),
    ):
        document = {"id": "mine", "inputs": [flat | change]}
        outputs = [{"name": NAMES[one]} for one in names]
        status, got = ask(ours, "/v2/models/flowers/infer", document | {"outputs": outputs})
        outputs = [{"name": one} for one in names]
        their_status, peer = ask(theirs, "/v2/models/flowers/infer", document | {"outputs": outputs})
        assert status == their_status == 200
        peer = alike(peer)
        for output, other in zip(got["outputs"], peer["outputs"], strict=True):
            # Which class each column of probabilities is of, which MLServer does not say.
            assert output.pop("parameters", None) == (
                {"labels": ["large", "small"]} if "prob" in output["name"] else None
            )
            if output["datatype"] == "FP64":  # MLServer computes in the request's FP32, our models in FP64
                np.testing.assert_allclose(output["data"], other.pop("data"), atol=1e-7)
                del output["data"]
        assert got == peer
    status, answer = ask(theirs, "/v2/models/flowers/infer", {"inputs": [flat]})
    assert answer["id"]  # optional in the protocol; it invents one
    assert [output["name"] for output in answer["outputs"]] == ["predict"]  # and gives a part unless asked for all
    status, answer = ask(ours, "/v2/models/flowers/infer", {"inputs": [flat]})
    assert (status, [output["name"] for output in answer["outputs"]]) == (200, ["label", "probability"])
    assert "id" not in answer  # ours is in the header Datahall-Answer-Id


GOOD = {"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
INFER = "/v2/models/flowers/infer"


def compare_errors(ours, theirs):
    """Whatever one refuses the other does; ours is a 400 with `error` where theirs is a 422 or a 500."""
    for path, document, status, their_status in (
        ("/v2", None, 200, 200),
        ("/v2/health/live", None, 200, 200),
        ("/v2/health/ready", None, 200, 200),
        ("/v2/models/flowers", None, 200, 200),
        ("/v2/models/flowers/ready", None, 200, 200),
        ("/v2/models/flowers/versions/1.0.0/ready", None, 200, 200),
        ("/v2/models/nobody", None, 404, 404),
        ("/v2/models/nobody/infer", {"inputs": [GOOD]}, 404, 404),
        ("/v2/models/flowers/versions/9/infer", {"inputs": [GOOD]}, 404, 404),
        (INFER, b"{", 400, 422),
        (INFER, {}, 400, 422),
        (INFER, {"inputs": [GOOD | {"datatype": "X"}]}, 400, 422),
        (INFER, {"inputs": [GOOD], "outputs": [{"name": "nothing"}]}, 400, 400),
        (INFER, {"inputs": [GOOD | {"shape": [1, 3], "data": [1, 2, 3]}]}, 400, 500),
        (INFER, {"inputs": [GOOD | {"shape": [2, 2]}]}, 400, 500),
    ):
        got, body = ask(ours, path, document)
        assert (got, ask(theirs, path, document)[0]) == (status, their_status), (path, document)
        assert got == 200 or body["error"]
    _, server = ask(ours, "/v2")
    assert server.keys() == ask(theirs, "/v2")[1].keys() == {"name", "version", "extensions"}
    _, model = ask(ours, "/v2/models/flowers")
    # `parameters` is optional; ours has none.
    assert ask(theirs, "/v2/models/flowers")[1].keys() - model.keys() == {"parameters"}
