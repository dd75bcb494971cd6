import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError
from datahall.engines import skops as ours
from datahall.engines.skops import dump_model, load_model

# What `pickle.dumps(os.system)` and a pickle protocol 0 that would call it look like.
PICKLES = [
    b"\x80\x04\x95\x14\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    b"cos\nsystem\n(S'true'\ntR.",
]


@pytest.fixture(scope="module")
def fitted():
    rows = np.arange(12.0).reshape(6, 2)
    return Pipeline([("scale", StandardScaler()), ("model", Ridge())]).fit(rows, rows[:, 0])


def edited(raw, change):
    """Return a skops file whose schema was changed and whose arrays were not."""
    source = zipfile.ZipFile(io.BytesIO(raw))
    schema = json.loads(source.read("schema.json"))
    change(schema)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("schema.json", json.dumps(schema))
        for name in source.namelist():
            if name != "schema.json":
                target.writestr(name, source.read(name))
    return buffer.getvalue()


def test_a_model_answers_alike_after_loading(fitted):
    rows = np.linspace(-5, 5, 10).reshape(5, 2)
    again = load_model(memoryview(dump_model(fitted)))
    np.testing.assert_array_equal(again.predict(rows), fitted.predict(rows))


def test_dumping_a_loaded_model_gives_the_same_bytes(fitted):
    raw = dump_model(fitted)
    assert dump_model(fitted) == raw
    assert dump_model(load_model(raw)) == raw


def test_control_skops_itself_gives_other_bytes_for_an_equal_model(fitted):
    assert skops.io.dumps(load_model(dump_model(fitted))) != skops.io.dumps(fitted)


SCRIPT = """
import sys
from datahall.core.canonical import digest_bytes
from datahall.core.records import Column
from datahall.engines.skops import dump_model
from datahall.train import MODELS
from datahall.train.fit import fit_pipeline
from datahall.train.table import Rows
import numpy as np
random = np.random.default_rng(3)
rows = Rows(random.normal(size=(80, 2)).astype(np.float32), (np.arange(80) % 3).astype(np.int64))
features = (Column(name="a", kind="number"), Column(name="b", kind="number"))
for model, settings in (("forest", {"num_trees": 5}), ("boosting", {"num_rounds": 4, "feature_share": 0.5}),
                        ("mlp", {"num_epochs": 3}), ("logistic", {})):
    config = MODELS.load(model).model_validate(settings)
    print(model, digest_bytes(dump_model(fit_pipeline(config, rows, features, "classification", 5))))
"""


def test_other_processes_with_other_hashes_fit_the_same_bytes():
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
            timeout=100,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 8


@pytest.mark.parametrize("raw", [*PICKLES, b"", b"PK\x03\x04", b"{}", b"\x93NUMPY"])
def test_pickles_and_whatever_is_no_skops_file_are_refused(raw):
    with pytest.raises(IntegrityError):
        load_model(raw)


def test_types_beyond_our_list_are_refused_even_where_skops_trusts_them():
    raw = skops.io.dumps(KMeans())
    assert skops.io.get_untrusted_types(data=raw) == []
    with pytest.raises(IntegrityError, match=r"KMeans.*not allowed"):
        load_model(raw)


def _set(path, **fields):
    def change(schema):
        node = schema
        for key in path:
            node = node[key]
        node.update(fields)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set((), __module__="os", __class__="system"),
        _set((), __module__="builtins", __class__="eval", __loader__="FunctionNode"),
        _set((), __module__="sklearn.pipeline", __class__="Pipeline", __loader__="MethodNode"),
        _set(("content",), __loader__="ReduceNode"),
        _set(("content",), __loader__="PartialNode"),
        _set(("content",), __module__="functools", __class__="partial"),
        _set((), protocol=0),
        _set((), protocol=None),
    ],
)
def test_a_schema_that_names_anything_else_is_refused(fitted, change):
    raw = dump_model(fitted)
    assert load_model(edited(raw, dict.copy)) is not None
    with pytest.raises(IntegrityError):
        load_model(edited(raw, change))


def test_a_damaged_file_is_refused_in_our_own_words(fitted):
    raw = dump_model(fitted)
    source = zipfile.ZipFile(io.BytesIO(raw))
    missing = io.BytesIO()
    with zipfile.ZipFile(missing, "w") as target:
        target.writestr("schema.json", source.read("schema.json"))
    for broken in (raw[: len(raw) // 2], missing.getvalue(), edited(raw, lambda schema: schema.update(content=3))):
        with pytest.raises(IntegrityError):
            load_model(broken)


def test_compressed_and_swollen_archives_are_refused(fitted, monkeypatch):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("schema.json", b" " * 10_000_000)
    with pytest.raises(IntegrityError, match="compressed"):
        load_model(bomb.getvalue())
    monkeypatch.setattr(ours, "MAX_MODEL_BYTES", 100)
    with pytest.raises(IntegrityError, match="more than a model may have"):
        load_model(dump_model(fitted))


def test_a_deep_schema_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("schema.json", "[" * 200_000)
    with pytest.raises(IntegrityError):
        load_model(buffer.getvalue())


def test_unused_bytes_between_the_fields_of_an_array_are_cleared():
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 16})
    raws = []
    for dirt in (b"\x00", b"\xff"):
        array = np.frombuffer(dirt * 32, dtype=kind).copy()
        array["a"], array["b"] = 1, 2.0
        buffer = io.BytesIO()
        np.save(buffer, array)
        raws.append(ours._clean_array(buffer.getvalue()))
    assert digest_bytes(raws[0]) == digest_bytes(raws[1])
