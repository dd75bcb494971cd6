"""What people and programs rely on: a change here is a change for somebody, and needs a changelog fragment."""

import importlib
from typing import get_args

import pytest

import datahall
from datahall.core import ports, records
from datahall.core.records import EntryKind

ENTRY_KINDS = (
    "hall.created key.issued key.revoked app.declared environment.seen step.started step.completed step.failed "
    "step.interrupted holdout.opened verdict.given version.registered version.revoked deployment.opened "
    "deployment.retired replica.started replica.changed routes.published answers.sealed answers.erased entry.void "
    "run.answered blobs.condemned blobs.pardoned artifact.erased keys.rotated keys.rewrapped keys.retired"
)
PORTS = "Answerer BlobStore Catalogue Clock Coordinator Launcher LedgerStore Link Predictor Process Signer Transport Witness"
TABLES = (
    "answer_segment api_key app artifact bundle candidate deployment environment evidence evidence_key garbage holdout policy replica "
    "retired_master route_table run snapshot step verdict version"
)
MODELS = "boosting forest logistic mlp net ridge"
CLAIMS = "accuracy calibration fairness improvement latency stability"
ENGINES = "onnx sklearn torch"
EXAMPLES = "digits lending tumours"
VERBS = "new check plan run up ps predict provenance verify backup restore report key doctor logs stop version"
SPEC_KEYS = """
datahall
name
team
task
data
data.sources
data.sources[].path
data.sources[].format
data.target
data.subject
data.sensitive
data.use_sensitive
data.ignore
data.columns
data.columns.<name>.kind
data.columns.<name>.min
data.columns.<name>.max
data.columns.<name>.values
data.columns.<name>.nullable
data.columns.<name>.unique
data.on_broken
data.split
data.split.holdout
data.split.validation
data.split.seed
train
train.candidates
train.candidates.<name>.model
train.candidates.<name>.search
train.candidates.<name>.search.trials
train.candidates.<name>.search.timeout_s
train.seeds
train.seed
train.metric
train.engine
train.threshold
evaluate
evaluate.claims
evaluate.claims[].kind
evaluate.claims[].metric
evaluate.claims[].at_least
evaluate.claims[].at_most
evaluate.claims[].confidence
evaluate.claims[].reason
evaluate.evidence_days
evaluate.node_class
serve
serve.replicas
serve.protocols
serve.limits
serve.limits.rate_per_s
serve.limits.burst
serve.limits.concurrency
serve.cache
serve.cache.seconds
serve.rollout
serve.rollout.strategy
serve.rollout.drain_seconds
"""
HOT_ROUTES = """
GET /health public
GET /healthz public
GET /ping public
GET /readyz public
GET /v2 public
GET /v2/health/live public
GET /v2/health/ready public
GET /v2/models/{app} predict
GET /v2/models/{app}/ready predict
GET /v2/models/{app}/versions/{version} predict
GET /v2/models/{app}/versions/{version}/ready predict
GET /version public
POST /endpoints/{app}/invocations predict
POST /invocations predict
POST /invocations/{app} predict
POST /predict/{app} predict
POST /v2/models/{app}/infer predict
POST /v2/models/{app}/versions/{version}/infer predict
"""
CONTROL_ROUTES = """
DELETE /api/v1/keys/{key_id} admin
GET /api/v1/answers/{answer_id}/provenance read
GET /api/v1/apps/{app}/report read
GET /api/v1/healthz public
GET /api/v1/keys admin
GET /api/v1/status read
POST /api/v1/backups admin
POST /api/v1/keys admin
POST /api/v1/master-keys admin
POST /api/v1/plan admin
POST /api/v1/runs admin
"""


SETTINGS = (
    "database database_password_env blobs cache_bytes witness gateways response_cache_mb auth_stale_hours objects.endpoint "
    "objects.region objects.access_key_id objects.secret_access_key_env objects.secret_access_key teams.<name>.rate_per_s "
    "teams.<name>.burst teams.<name>.concurrency teams.<name>.weight"
)


def test_the_kinds_of_ledger_entries():
    assert " ".join(get_args(EntryKind)) == ENTRY_KINDS


def test_the_ports():
    protocols = [name for name in ports.__all__ if getattr(getattr(ports, name), "_is_protocol", False)]
    assert " ".join(protocols) == PORTS


def test_each_port_has_seven_methods_at_most():
    sizes = {name: [key for key in vars(getattr(ports, name)) if not key.startswith("_")] for name in PORTS.split()}
    assert {name: len(methods) for name, methods in sizes.items() if not 1 <= len(methods) <= 7} == {}


def test_the_tables_of_the_catalogue():
    assert " ".join(sorted(kind.KIND for kind in records.CATALOGUE_RECORDS)) == TABLES


def test_what_the_package_exports():
    assert datahall.__all__ == ["__version__"]


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("datahall.train:MODELS", MODELS),
        ("datahall.evaluate:CLAIMS", CLAIMS),
        ("datahall.engines:ENGINES", ENGINES),
        ("datahall.data.examples:EXAMPLES", EXAMPLES),
    ],
)
def test_the_names_that_an_application_file_may_use(place, names):
    module, _, attribute = place.partition(":")
    assert " ".join(getattr(importlib.import_module(module), attribute).names) == names


def test_the_keys_of_the_application_file():
    describe = importlib.import_module("datahall.spec.describe").describe
    assert [key.path for key in describe()] == SPEC_KEYS.split()


def test_the_keys_of_the_settings():
    describe = importlib.import_module("datahall.app.settings").describe
    assert " ".join(setting.key for setting in describe()) == SETTINGS


def test_the_verbs_of_the_command_line():
    assert " ".join(importlib.import_module("datahall.app.cli.main").VERBS) == VERBS


def test_the_routes_that_the_gateway_answers_each_with_its_permission():
    routes = importlib.import_module("datahall.serve.routes").HOT_ROUTES
    assert sorted(f"{route.method} {route.path} {route.permission}" for route in routes) == HOT_ROUTES.split("\n")[1:-1]


def test_the_routes_of_control_each_with_its_permission():
    routes = importlib.import_module("datahall.app.http.api").make_api(None, None, None).routes
    shown = [
        f"{method} {route.path} {getattr(route.endpoint, 'permission', 'NONE')}"
        for route in routes
        for method in route.methods - {"HEAD"}
    ]
    assert sorted(shown) == CONTROL_ROUTES.split("\n")[1:-1]


def test_records_are_frozen_and_refuse_unknown_fields():
    loose = [
        kind.__name__
        for kind in records.CATALOGUE_RECORDS
        if not (kind.__struct_config__.frozen and kind.__struct_config__.forbid_unknown_fields)
    ]
    assert loose == []
