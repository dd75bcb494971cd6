import msgspec
import pytest

from datahall.core.records import BundleManifest, Column
from datahall.registry.semver import next_semver, order

BASE = BundleManifest(
    app="a",
    task="classification",
    engine="onnx",
    engine_settings={},
    features=(Column(name="x", kind="number"), Column(name="c", kind="category", categories=("p", "q"))),
    target=Column(name="y", kind="category", categories=("no", "yes")),
    threshold=0.5,
    environment="e",
    files={"model.onnx": "0" * 64},
)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, "1.4.3"),
        ({"environment": "f"}, "1.4.3"),
        ({"threshold": 0.4}, "1.5.0"),
        ({"files": {"model.onnx": "1" * 64}}, "1.5.0"),
        ({"engine": "sklearn"}, "1.5.0"),
        ({"features": BASE.features[:1]}, "2.0.0"),
        ({"features": (*BASE.features, Column(name="z", kind="number"))}, "2.0.0"),
        ({"features": (Column(name="x", kind="boolean"), BASE.features[1])}, "2.0.0"),
        ({"target": Column(name="y", kind="category", categories=("no", "maybe"))}, "2.0.0"),
        ({"task": "regression"}, "2.0.0"),
    ],
)
def test_the_number_says_what_changed(change, number):
    assert next_semver(("1.4.2", BASE), msgspec.structs.replace(BASE, **change))[0] == number


def test_the_first_version_is_one():
    assert next_semver(None, BASE)[0] == "1.0.0"


def test_numbers_sort_as_numbers():
    assert sorted(["1.10.0", "1.9.9", "1.2.10"], key=order) == ["1.2.10", "1.9.9", "1.10.0"]
