import subprocess
import sys

import numpy as np
import pytest

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, UnavailableError, UserError
from datahall.data.frames import load_columns
from datahall.engines import ENGINES
from datahall.engines.bundle import pack, unpack
from datahall.engines.open import open_predictor
from datahall.testing.models import small_bundle
from datahall.testing.tables import TEAM, small_table


@pytest.fixture(scope="module")
def table(blobs):
    return small_table(blobs, task="classification", mixed=True)


@pytest.fixture(scope="module", params=["onnx", "sklearn"])
def packed(request, blobs, table):
    return small_bundle(blobs, table, "logistic", engine=request.param)


@pytest.fixture(scope="module")
def rows(blobs, table):
    return load_columns(blobs.get(table.holdout, team=TEAM), table.features)


def repacked(packed, files=None, **changes):
    """Return a bundle whose manifest was changed and packed anew, as somebody with the format in hand would."""
    manifest, contents = unpack(packed)
    contents = files if files is not None else {name: bytes(view) for name, view in contents.items()}
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    digests = {name: digest_bytes(data) for name, data in contents.items()}
    return pack(type(manifest)(**(fields | {"files": digests} | changes)), contents)


def test_the_answer_has_the_ports_form(packed, rows, table):
    predictor = open_predictor(memoryview(packed))
    answer = predictor.predict(rows)
    assert answer["label"].dtype == object
    assert set(answer["label"].tolist()) <= set(table.target.categories)
    assert answer["probability"].dtype == np.float64
    assert answer["probability"].shape == (150, 2)
    np.testing.assert_allclose(answer["probability"].sum(axis=1), 1, atol=1e-6)
    assert predictor.manifest == unpack(packed)[0]


def test_no_rows_give_empty_answers(packed, rows):
    answer = open_predictor(packed).predict({name: array[:0] for name, array in rows.items()})
    assert (answer["label"].shape, answer["probability"].shape) == ((0,), (0, 2))


def test_rows_are_answered_one_by_one_as_together(packed, rows):
    predictor = open_predictor(packed)
    together = predictor.predict(rows)["probability"]
    single = [predictor.predict({n: a[i : i + 1] for n, a in rows.items()})["probability"][0] for i in range(20)]
    np.testing.assert_allclose(single, together[:20], atol=1e-6)


def test_a_threshold_moves_labels_and_nothing_else(packed, rows):
    before = open_predictor(packed).predict(rows)
    after = open_predictor(repacked(packed, threshold=0.9)).predict(rows)
    np.testing.assert_array_equal(before["probability"], after["probability"])
    expected = np.where(np.round(before["probability"][:, 1], 6) >= 0.9, "c1", "c0")
    assert after["label"].tolist() == expected.tolist()
    assert after["label"].tolist() != before["label"].tolist()


def test_columns_that_do_not_fit_are_refused(packed, rows):
    predictor = open_predictor(packed)
    for changed in (rows | {"extra": rows["plain"]}, {k: v for k, v in rows.items() if k != "plain"}):
        with pytest.raises(UserError):
            predictor.predict(changed)


def test_flipped_bytes_are_refused(packed):
    for place in range(0, len(packed), max(1, len(packed) // 60)):
        broken = bytearray(packed)
        broken[place] ^= 0x40
        with pytest.raises(IntegrityError):
            open_predictor(bytes(broken))


def test_other_versions_than_those_of_the_proof_are_refused(packed):
    manifest, _ = unpack(packed)
    settings = manifest.engine_settings | {"packages": manifest.engine_settings["packages"] | {"numpy": "1.0"}}
    with pytest.raises(UnavailableError, match=r"numpy 1\.0 \(here "):
        open_predictor(repacked(packed, engine_settings=settings, environment="0" * 64))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ()},
        {"task": "regression", "threshold": None},
        {"threshold": 0.5, "target": "three classes"},
        {"target": "three classes"},
        {"target": "one class"},
    ],
)
def test_a_manifest_that_is_not_the_models_is_refused(packed, table, changes):
    targets = {"three classes": ("a", "b", "c"), "one class": ("a",)}
    if "target" in changes:
        kind = type(table.target)
        changes = changes | {"target": kind(name="level", kind="category", categories=targets[changes["target"]])}
    with pytest.raises(IntegrityError):
        open_predictor(repacked(packed, **changes))


def test_files_that_are_not_the_engines_are_refused(packed):
    _, contents = unpack(packed)
    (name, model), *_ = contents.items()
    for files in ({}, {"model.pkl": b"\x80\x04."}, {name: bytes(model), "more.bin": b""}, {name: b"\x80\x04."}):
        with pytest.raises(IntegrityError):
            open_predictor(repacked(packed, files))


def test_the_registry_names_engines_without_importing_them():
    code = "import sys, datahall.engines as e; print(e.ENGINES.names, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"{ENGINES.names} False"


def test_the_onnx_engine_answers_without_scikit_learn(blobs, table):
    code = (
        "import sys, numpy as np\n"
        "from datahall.engines.open import open_predictor\n"
        "p = open_predictor(sys.stdin.buffer.read())\n"
        "one = {c.name: np.array([None], dtype=object) if c.kind == 'category' else np.array([np.nan])"
        " for c in p.manifest.features}\n"
        "print(len(p.predict(one)['label']), sorted({'sklearn', 'scipy', 'pandas', 'polars', 'skops'} & set(sys.modules)))"
    )
    packed = small_bundle(blobs, table, "forest", engine="onnx")
    done = subprocess.run([sys.executable, "-c", code], input=packed, check=True, capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == "1 []"


@pytest.mark.parametrize("engine", ["onnx", "sklearn"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_law_a_table_is_answered_as_its_columns_are(blobs, engine, task):
    numbers = small_table(blobs, task=task)
    predictor = open_predictor(small_bundle(blobs, numbers, "boosting", engine=engine))
    rows = load_columns(blobs.get(numbers.holdout, team=TEAM), numbers.features)
    table = np.column_stack([rows[feature.name] for feature in predictor.manifest.features])
    for part in (table, table[:1], table[:0]):
        expected = predictor.predict({f.name: part[:, i] for i, f in enumerate(predictor.manifest.features)})
        got = predictor.predict_table(part)
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            assert (got[name].dtype, got[name].tolist()) == (values.dtype, values.tolist())


def test_a_table_is_not_for_a_model_with_categories(packed, table):
    with pytest.raises(UserError, match="categories"):
        open_predictor(packed).predict_table(np.zeros((1, len(table.features))))
