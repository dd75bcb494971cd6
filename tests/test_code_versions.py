"""A stage's code version is what its step keys trust: it must rise when the stage makes something else.

Each golden digest is of what a stage makes of a fixed small input, with figures rounded so that processors agree. When
one goes red, either the change was meant to keep results and does not, or the stage's number in
`spec/code_versions.py` must rise together with the line below.
"""

from collections import Counter

import msgspec
import pytest

from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.core.canonical import digest_of
from datahall.core.records import Claim, Exhibit, Figure, Holdout, Measurement, Policy
from datahall.data.contract import DataRequest
from datahall.data.frames import ROW, load_columns, load_series, to_parquet
from datahall.data.job import run as make_snapshot
from datahall.engines.bundle import bundle_digest
from datahall.engines.open import open_predictor
from datahall.evaluate.contract import Contender, EvaluateRequest
from datahall.evaluate.job import run as evaluate
from datahall.evaluate.statement import read_statement
from datahall.policy import gate
from datahall.security.signing import Ed25519Signer, dsse_open
from datahall.spec.code_versions import CODE_VERSIONS
from datahall.spec.schema import DataSection
from datahall.testing.clock import AutoClock
from datahall.testing.models import QUICK, no_report, small_export
from datahall.testing.tables import TEAM, small_table

GOLDEN = {
    "data": (1, "afb8c31a92e92900"),
    "train": (2, "6ec9482a1e2fef4a"),
    "export": (2, "3b02b35e43b317a2"),
    "evaluate": (2, "444480a304940777"),
    "gate": (2, "49a064ca4da642ed"),
}


def made_by_data(tmp_path):
    lines = ["city,age,kept,answer"]
    lines += [f"{'abc'[i % 3]},{i * 7 % 90},{['yes', 'no'][i % 2]},{'xy'[i * i % 5 % 2]}" for i in range(300)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    section = DataSection(sources=("rows.csv",), target="answer")
    blobs = MemoryBlobStore()
    result = make_snapshot(
        DataRequest(
            app="a", team=TEAM, task="classification", data=section.model_dump(mode="json"), sources=(str(path),)
        ),
        blobs,
        no_report,
    )
    train = blobs.get(result.splits["train"], team=TEAM)
    columns = load_columns(train, result.features)
    return [
        result.features,
        result.target,
        result.split_rows,
        {name: [str(value) for value in column] for name, column in columns.items()},
        list(load_series(train, result.target)),
    ]


def made_by_train_and_export(models):
    made = {}
    for model in models:
        task = "regression" if model == "ridge" else "classification"
        blobs = MemoryBlobStore()
        table = small_table(blobs, task=task, mixed=True)
        result = small_export(blobs, table, model)
        predictor = open_predictor(blobs.get(result.bundles[0], team=TEAM))
        answers = predictor.predict(load_columns(blobs.get(table.holdout, team=TEAM), table.features))
        label = answers["label"]
        made[model] = [
            result.manifests[0].engine,
            result.equivalence["equal"],
            round(float(label.mean()), 2) if task == "regression" else sorted(Counter(label).items()),
        ]
    return made


def made_by_evaluate():
    blobs = MemoryBlobStore()
    table = small_table(blobs, task="classification")
    result = small_export(blobs, table, "logistic")
    frame = load_series(blobs.get(table.holdout, team=TEAM), table.target)
    rows = load_columns(blobs.get(table.holdout, team=TEAM), table.features)
    number = [f"{i:04}" for i in range(len(frame))]
    inputs = blobs.put(to_parquet(_frame({ROW: number, **rows})), team=TEAM)
    outcomes = blobs.put(to_parquet(_frame({ROW: number, table.target.name: frame})), team=TEAM)
    signer = Ed25519Signer.generate()
    bundle = bundle_digest(result.manifests[0])
    claims = tuple(
        Claim(kind=kind, name=kind, metric=metric, direction=side, bound=0.5, confidence=0.95, reason="r")
        for kind, metric, side in (("accuracy", "accuracy", "at_least"), ("improvement", "accuracy", "at_least"))
    )
    request = EvaluateRequest(
        app="small",
        team=TEAM,
        task="classification",
        policy="pol_1",
        claims=claims,
        target=table.target,
        sensitive=(),
        contenders=(
            Contender(candidate="small#1", bundle=bundle, packed=result.bundles[0], seed_bundles=(), address=None),
        ),
        champion=None,
        holdout="hold_1",
        holdout_inputs=inputs,
        holdout_outcomes=outcomes,
        train=table.train,
        look=1,
        alphas={claim.name: 0.025 for claim in claims},
        seed=7,
        node_class="n",
        environment="e",
        expires_at_ns=10**20,
        signing_key=signer.private_raw(),
    )
    envelopes = evaluate(request, blobs, no_report, AutoClock(), lambda _: None).envelopes
    figures = {}
    for _, claim, envelope in envelopes:
        opened = dsse_open(envelope, {signer.key_id: signer.public_key})
        figure = read_statement(opened.payload_type, opened.payload)[1].figure
        figures[claim] = [round(figure.estimate, 3), round(figure.lower, 2), round(figure.upper, 2), figure.num]
    return figures


def _frame(columns):
    import polars as pl  # noqa: PLC0415  (only here)

    return pl.DataFrame({name: list(values) for name, values in columns.items()})


def made_by_gate():
    claim = Claim(
        kind="accuracy",
        name="accuracy",
        metric="accuracy",
        direction="at_least",
        bound=0.9,
        confidence=0.95,
        reason="r",
    )
    policy = Policy(id="pol_1", app="a", claims=(claim,), evidence_days=30)
    holdout = Holdout(id="hold_1", app="a", snapshot="s", inputs="i", outcomes="o", num_rows=100, num_looks=1)
    said = []
    for lower, upper in ((0.91, 0.99), (0.85, 0.95), (0.7, 0.89)):
        measured = Measurement(
            app="a",
            claim="accuracy",
            kind="accuracy",
            metric="accuracy",
            policy="pol_1",
            holdout="hold_1",
            look=1,
            num_candidates=1,
            champion=None,
            figure=Figure(estimate=(lower + upper) / 2, lower=lower, upper=upper, alpha=0.025, num=100, method="m"),
            node_class="n",
            environment="e",
            measured_at_ns=1,
            expires_at_ns=100,
        )
        exhibit = Exhibit(id="evd_1", bundle="b", measurement=measured, key_id="k", signature="good", integrated=True)
        view = gate.GateView(
            policy=policy,
            candidate="a#1",
            bundle="b",
            champion=None,
            holdout=holdout,
            node_class="n",
            exhibits=(exhibit,),
        )
        _, decision, reason = gate.decide(None, view, None, 2, 0.0)
        said.append([msgspec.to_builtins(decision), reason])
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    models = made_by_train_and_export(sorted(QUICK.keys() - {"mlp", "net"}))  # its descent differs between processors
    return {
        "data": made_by_data(tmp_path_factory.mktemp("rows")),
        "train": {model: answers for model, (_, _, answers) in models.items()},
        "export": {model: [engine, equal] for model, (engine, equal, _) in models.items()},
        "evaluate": made_by_evaluate(),
        "gate": made_by_gate(),
    }


@pytest.mark.parametrize("stage", sorted(GOLDEN))
def test_a_stage_makes_what_its_code_version_says(stage, made):
    assert (CODE_VERSIONS[stage], digest_of(made[stage])[:16]) == GOLDEN[stage]


def test_the_digest_sees_a_changed_result(made):
    assert digest_of(made["gate"][:2])[:16] != digest_of(made["gate"])[:16]
