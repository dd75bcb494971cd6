"""What was proven is what is served: a fitted model answers through gateway and replica as it does in this process."""

from __future__ import annotations

import numpy as np
import pytest

from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.data.frames import load_columns
from datahall.engines.open import open_predictor
from datahall.testing.models import small_bundle
from datahall.testing.tables import TEAM, small_table


@pytest.mark.parametrize(
    ("task", "engine", "model"),
    [
        ("classification", "onnx", "logistic"),
        ("classification", "sklearn", "logistic"),
        ("regression", "onnx", "ridge"),
    ],
)
def test_answers_through_the_hall_are_the_models_own(world, kit, task, engine, model):
    blobs = MemoryBlobStore()
    table = small_table(blobs, task=task, mixed=True)
    predictor = open_predictor(small_bundle(blobs, table, model, engine=engine))
    columns = {
        name: array[:40] for name, array in load_columns(blobs.get(table.holdout, team=TEAM), table.features).items()
    }
    expected = predictor.predict(columns)
    world.deploy(kit.Watched(predictor), app="real")
    world.publish()
    world.start()
    rows = [
        {feature.name: plain(feature, columns[feature.name][row]) for feature in table.features} for row in range(40)
    ]
    reply = world.ask("POST", "/predict/real", {"rows": rows})
    assert reply.status == 200, reply
    predictions = reply.json()["predictions"]
    if task == "classification":
        assert [one["label"] for one in predictions] == expected["label"].tolist()
        got = [[one["probabilities"][name] for name in table.target.categories] for one in predictions]
        np.testing.assert_array_equal(got, expected["probability"])
    else:
        assert set(predictions[0]) == {"value", *({"lower", "upper"} & set(expected))}
        np.testing.assert_array_equal([one["value"] for one in predictions], expected["label"])
    described = world.ask("GET", "/v2/models/real").json()
    tensors = [
        {"name": one["name"], "datatype": one["datatype"], "shape": [40], "data": [row[one["name"]] for row in rows]}
        for one in described["inputs"]
    ]
    outputs = world.ask("POST", "/v2/models/real/infer", {"inputs": tensors}).json()["outputs"]
    assert [(one["name"], one["datatype"]) for one in outputs] == [
        (one["name"], one["datatype"]) for one in described["outputs"]
    ]
    assert outputs[0]["data"] == expected["label"].tolist()


def plain(feature, value):
    """Return a column's value as JSON says it."""
    if value is None or value != value:  # noqa: PLR0124  NaN alone differs from itself
        return None
    return bool(value) if feature.kind == "boolean" else value
