import numpy as np
import onnx
import pytest

from datahall.core.errors import UserError
from datahall.data.frames import load_columns
from datahall.engines.bundle import bundle_digest, unpack
from datahall.engines.onnx import MODEL_FILE, OUTPUT_NAMES
from datahall.engines.open import open_predictor
from datahall.engines.skops import dump_model, load_model
from datahall.optimize import job
from datahall.optimize.convert import ConversionError
from datahall.optimize.prove import TOLERANCE
from datahall.testing.models import export_request, no_report, small_export, train_request
from datahall.testing.tables import TEAM, small_table
from datahall.train.job import run as train

KINDS = [
    ("classification", 2, "boosting"),
    ("classification", 2, "forest"),
    ("classification", 2, "logistic"),
    ("classification", 2, "mlp"),
    ("classification", 3, "boosting"),
    ("classification", 3, "forest"),
    ("classification", 3, "logistic"),
    ("classification", 3, "mlp"),
    ("regression", 0, "boosting"),
    ("regression", 0, "forest"),
    ("regression", 0, "mlp"),
    ("regression", 0, "ridge"),
]


def hostile_rows(columns, num_rows=400):
    """Return rows that no part of the table has: far values, thresholds' neighbours, gaps and unseen categories."""
    random = np.random.default_rng(1)
    rows = {}
    for name, array in columns.items():
        drawn = array[random.integers(0, len(array), num_rows)]
        if array.dtype == object:
            drawn[:50] = None
            drawn[50:100] = "never seen"
        elif name != "member":
            drawn = drawn * random.choice([1, 1, 1 + 1e-7, 1 - 1e-7, 1.5, -3], num_rows)
            drawn[:40] = np.nan
            drawn[40:60] = 1e6
        rows[name] = drawn
    return rows


@pytest.mark.parametrize("mixed", [False, True], ids=["numbers", "mixed"])
@pytest.mark.parametrize(("task", "num_classes", "model"), KINDS)
def test_every_model_is_exported_to_onnx_and_proven_equal(blobs, task, num_classes, model, mixed):
    table = small_table(blobs, task=task, num_classes=num_classes, mixed=mixed)
    fits = train(train_request(table, model), blobs, no_report)
    result = job.run(export_request(table, fits), blobs, no_report)
    told = result.equivalence
    assert (told["engine"], told["tried"], told["equal"], told["num_label_flips"]) == ("onnx", True, True, 0)
    assert told["num_rows"] == 450
    assert told["max_abs_difference"] <= TOLERANCE
    # And on rows that the proof did not see: missing, unseen and far values must answer alike too.
    fitted = job.run(export_request(table, fits, engine="sklearn"), blobs, no_report)
    ours, theirs = (open_predictor(blobs.get(each.bundles[0], team=TEAM)) for each in (result, fitted))
    assert (ours.manifest.engine, theirs.manifest.engine) == ("onnx", "sklearn")
    rows = hostile_rows(load_columns(blobs.get(table.holdout, team=TEAM), table.features))
    answers = [predictor.predict(rows) for predictor in (ours, theirs)]
    assert answers[0].keys() == answers[1].keys()
    if task == "classification":
        assert answers[0]["label"].tolist() == answers[1]["label"].tolist()
        np.testing.assert_allclose(answers[0]["probability"], answers[1]["probability"], atol=TOLERANCE)
    else:
        for name in ("label", "lower", "upper"):
            np.testing.assert_allclose(answers[0][name], answers[1][name], rtol=TOLERANCE, atol=1e-4)


def test_the_onnx_form_works_out_the_scores_and_nothing_else(blobs):
    table = small_table(blobs, task="classification", num_classes=3)
    exported = job.run(export_request(table, train(train_request(table, "mlp"), blobs, no_report)), blobs, no_report)
    _, files = unpack(blobs.get(exported.bundles[0], team=TEAM))
    graph = onnx.load_from_string(bytes(files[MODEL_FILE])).graph
    assert [output.name for output in graph.output] == [OUTPUT_NAMES["classification"]]
    assert not {"ArgMax", "ArrayFeatureExtractor"} & {node.op_type for node in graph.node}, "no label is worked out"


@pytest.fixture(scope="module")
def table(blobs):
    return small_table(blobs, task="classification", mixed=True)


@pytest.fixture(scope="module")
def fits(blobs, table):
    return train(train_request(table, "forest", seeds=(1, 2, 3)), blobs, no_report)


def test_the_first_fit_serves_and_the_others_are_sklearn_bundles(blobs, table, fits):
    result = job.run(export_request(table, fits), blobs, no_report)
    assert [manifest.engine for manifest in result.manifests] == ["onnx", "sklearn", "sklearn"]
    for grant, manifest in zip(result.bundles, result.manifests, strict=True):
        assert unpack(blobs.get(grant, team=TEAM))[0] == manifest
    assert len({bundle_digest(manifest) for manifest in result.manifests}) == 3


def test_the_same_request_gives_the_same_bundles(blobs, table, fits):
    first, second = (job.run(export_request(table, fits), blobs, no_report) for _ in range(2))
    assert [grant.digest for grant in first.bundles] == [grant.digest for grant in second.bundles]
    assert first.equivalence == second.equivalence


def spoil(pipeline, *_, original=job.to_onnx):
    """Convert another model than the one that was fitted."""
    other = load_model(dump_model(pipeline))
    for tree in other[-1].estimators_[:3]:
        tree.tree_.value[:] = tree.tree_.value[:, :, ::-1]
    return original(other, *_)


def test_control_a_model_that_answers_otherwise_is_served_by_scikit_learn(blobs, table, fits, monkeypatch):
    monkeypatch.setattr(job, "to_onnx", spoil)
    result = job.run(export_request(table, fits), blobs, no_report)
    assert result.manifests[0].engine == "sklearn"
    told = result.equivalence
    assert (told["engine"], told["tried"], told["equal"]) == ("sklearn", True, False)
    assert told["num_label_flips"] > 0
    assert f"{told['num_label_flips']} of 450 labels differ" == told["reason"]


def test_onnx_demanded_of_a_model_that_is_not_proven_equal_is_an_error(blobs, table, fits, monkeypatch):
    monkeypatch.setattr(job, "to_onnx", spoil)
    with pytest.raises(UserError, match="not proven equal") as caught:
        job.run(export_request(table, fits, engine="onnx"), blobs, no_report)
    assert "auto" in caught.value.hint


def test_a_model_without_an_onnx_form_is_served_by_scikit_learn(blobs, table, fits, monkeypatch):
    def fail(*_):
        raise ConversionError("no ONNX form: it is too odd")

    monkeypatch.setattr(job, "to_onnx", fail)
    result = job.run(export_request(table, fits), blobs, no_report)
    assert (result.equivalence["engine"], result.equivalence["reason"]) == ("sklearn", "no ONNX form: it is too odd")


def test_onnx_bytes_that_cannot_be_loaded_are_served_by_scikit_learn(blobs, table, fits, monkeypatch):
    monkeypatch.setattr(job, "to_onnx", lambda *_: b"not onnx")
    told = job.run(export_request(table, fits), blobs, no_report).equivalence
    assert told["engine"] == "sklearn"
    assert "ONNX Runtime cannot load the model" in told["reason"]


def test_a_threshold_reaches_bundle_and_digest(blobs, table):
    plain, strict = (small_export(blobs, table, "logistic", threshold=at).manifests[0] for at in (None, 0.7))
    assert (plain.threshold, strict.threshold) == (None, 0.7)
    assert bundle_digest(plain) != bundle_digest(strict)


def test_regression_answers_the_interval_of_its_fit(blobs):
    table = small_table(blobs, task="regression")
    fits = train(train_request(table, "ridge"), blobs, no_report)
    result = job.run(export_request(table, fits), blobs, no_report)
    width = fits.models[0].metrics["interval_half_width_90"]
    assert result.manifests[0].engine_settings["interval"] == {"confidence": 0.9, "half_width": width}
    predictor = open_predictor(blobs.get(result.bundles[0], team=TEAM))
    raw = blobs.get(table.holdout, team=TEAM)
    answer = predictor.predict(load_columns(raw, table.features))
    truth = load_columns(raw, (table.target,))["price"]
    assert np.mean((answer["lower"] <= truth) & (truth <= answer["upper"])) > 0.8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ()}, "no model"),
        ({"engine": "tensorrt"}, "no engine 'tensorrt'"),
        ({"engine": "torch"}, "a model of scikit-learn is not run by 'torch'"),
        ({"interval_half_widths": (1.0,)}, "half widths"),
    ],
)
def test_requests_that_make_no_sense_are_refused(blobs, table, fits, changes, said):
    with pytest.raises(UserError, match=said):
        job.run(export_request(table, fits, **changes), blobs, no_report)


def test_a_threshold_for_three_classes_is_refused(blobs):
    table = small_table(blobs, task="classification", num_classes=3)
    with pytest.raises(UserError, match="two classes") as caught:
        small_export(blobs, table, "logistic", threshold=0.5)
    assert "low, mid, top" in caught.value.hint


def test_progress_ends_at_its_total(blobs, table, fits):
    heard = []
    job.run(export_request(table, fits), blobs, heard.append)
    assert [progress.done for progress in heard] == [1, 2, 3, 3, 4]
    assert {progress.total for progress in heard} == {4}
    assert heard[3].message == "converting to ONNX, then comparing the answers"
    assert heard[-1].message == "ONNX answers alike on 450 rows"
