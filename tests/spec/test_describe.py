"""Every key of the application file is listed with its meaning."""

from __future__ import annotations

from datahall.spec.describe import describe
from datahall.spec.fields import section_in
from datahall.spec.schema import AppSpec

INNER = {"train.candidates.<name>.settings", "evaluate.claims[].settings", "evaluate.claims[].name"}
"""What the loader fills in; no key of the file."""


def all_fields(section, at=""):
    for name, field in section.model_fields.items():
        yield f"{at}{name}"
        inner, how = section_in(field.annotation)
        if inner is not None:
            yield from all_fields(inner, f"{at}{name}{ {'list': '[]', 'map': '.<name>'}.get(how, '') }.")


def test_every_key_is_described():
    described = [key.path for key in describe()]
    assert len(set(described)) == len(described)
    assert set(described) == set(all_fields(AppSpec)) - INNER
    for key in describe():
        assert key.description.endswith("."), key.path
        assert key.type, key.path


def test_types_and_defaults_read_well(kinds):
    keys = {key.path: key for key in describe(kinds)}
    assert keys["task"][1:3] == ("classification or regression", "required")
    assert keys["data.sources"][1:3] == ("list of section", "required")
    assert keys["data.sensitive"][1:3] == ("list of text", "")
    assert keys["data.columns.<name>.values"].type == "list of true or false or whole number or number or text"
    assert keys["data.columns.<name>.nullable"][1:3] == ("true or false", "true")
    assert keys["data.split.holdout"][1:3] == ("number", "0.3")
    assert keys["serve.protocols"][1:3] == ("list of v2 or predict or mlflow", "[v2, predict]")
    assert keys["train.candidates"].type == "section by name"
    assert keys["train.candidates.<name>.search.timeout_s"][1:3] == ("number", "")
    assert keys["evaluate.claims[].resamples (kind: accuracy)"].default == "2000"


def test_keys_of_kinds_that_are_installed(kinds):
    paths = {key.path for key in describe(kinds)}
    assert "train.candidates.<name>.depth (model: forest)" in paths
    assert not [path for path in paths if "deep)" in path]
