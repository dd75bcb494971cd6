"""A replica that was taken over can spoil its own application's answers, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

ROWS = {"rows": [{"petal length": 2.0, "petal width": 1.0}] * 2}
TENSORS = {"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP64", "data": [2, 1, 2, 1]}]}
LABELS = np.array(["large", "small"], dtype=object)
CHANCES = np.full((2, 2), 0.5)


def in_flight(world):
    admission = world.gateway._admission
    teams, apps = admission._teams.values(), admission._apps.values()
    return admission.num_in_flight, *[one.in_flight for one in (*teams, *apps)], *[sum(app.peers) for app in apps]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"label": LABELS},
        {"probability": CHANCES},
        {"label": LABELS, "probability": CHANCES, "other": LABELS},
        {"value": np.zeros(2)},
        {"label": np.zeros(2), "probability": CHANCES},
        {"label": np.array(["large", None], dtype=object), "probability": CHANCES},
        {"label": LABELS, "probability": LABELS},
        {"label": LABELS, "probability": np.full((2, 3), 0.5)},
        {"label": LABELS, "probability": np.full((2, 0), 0.5)},
        {"label": LABELS, "probability": np.full(2, 0.5)},
        {"label": LABELS[:1], "probability": CHANCES[:1]},
        {"label": np.zeros((2, 2)), "probability": CHANCES},
    ],
)
@pytest.mark.parametrize("protocol", ["plain", "v2", "mlflow"])
def test_outputs_that_are_not_the_tasks_are_a_500_and_nothing_stays(world, kit, outputs, protocol):
    predictor = kit.TinyPredictor(kit.manifest())
    world.deploy(predictor, protocols=("predict", "v2", "mlflow"))
    world.deploy(kit.TinyPredictor(kit.manifest()), app="others")
    world.publish()
    world.start()
    good, predictor.predict = predictor.predict, lambda _: outputs
    path = {"plain": "/predict/flowers", "v2": "/v2/models/flowers/infer", "mlflow": "/invocations/flowers"}[protocol]
    body = {"plain": ROWS, "v2": TENSORS, "mlflow": {"inputs": [[2.0, 1.0]] * 2}}[protocol]
    with world.client() as client:
        reply = client.ask("POST", path, body, headers=["Content-Type: application/json"])
        assert reply.status == 500, reply
        assert "Error:" not in reply.body.decode()
        assert set(in_flight(world)) == {0}
        assert client.ask("POST", "/predict/others", ROWS).status == 200
        predictor.predict = good
        assert client.ask("POST", path, body, headers=["Content-Type: application/json"]).status == 200, (
            "the same connection, and the same replica"
        )
