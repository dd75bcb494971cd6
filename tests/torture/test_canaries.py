"""A stolen disk tells nothing: canaries planted in data, models, secrets and answers are nowhere in clear."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import msgspec
import pytest
import zstandard

from datahall.app.calls import Calls, once_of
from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.core.canonical import canonical_json
from datahall.core.records import ApiKey, Artifact
from datahall.security.keys import KeyRing
from datahall.serve.table import read_routes
from datahall.testing.canaries import make_canary, scan
from tests.journeys.conftest import Place, eventually

SEED = 7
KEYS = ["keys"]
"""The keys themselves: the folder that is never part of a data backup."""
IDEMPOTENCY_KEY = "canary-call"


def rows(canaries):
    """Return 300 rows as CSV whose words are canaries."""
    draw = random.Random(SEED)  # noqa: S311
    lines = ["petal,colour,region,person,kind"]
    for number in range(300):
        petal = draw.uniform(0, 10)
        kind = canaries["class"] if petal + draw.gauss(0, 0.3) > 5 else "tulip"
        colour = canaries["category"] if number % 2 else "blue"
        person = canaries["person"] if number == 17 else f"p{number}"
        region = canaries["group"] if number % 3 else "north"
        lines.append(f"{petal:.3f},{colour},{region},{person},{kind}")
    return "\n".join(lines) + "\n"


def wanted(canaries):
    """Return the body that asks for a key."""
    return msgspec.json.encode({"name": canaries["principal"], "scopes": ["predict"]})


APP = """datahall: 1
name: flowers
task: classification
data: {sources: [flowers.csv], target: kind, subject: person, sensitive: [region]}
train: {candidates: {plain: {model: logistic}}, seeds: 2, seed: 0}
evaluate:
  claims:
    - {kind: accuracy, metric: accuracy, at_least: 0.7, reason: a gardener is right as often}
    - {kind: fairness, column: region, metric: accuracy_difference, at_most: 0.9, reason: nobody is served much worse}
serve: {replicas: 1}
"""


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A hall that took canaries in by every door, answered, and was stopped; what each canary is."""
    draw = random.Random(SEED)  # noqa: S311
    canaries = {name: make_canary(draw) for name in ("category", "class", "group", "person", "principal")}
    place = Place(tmp_path_factory.mktemp("n"))
    place.app.write_text(APP)
    place.app.with_name("flowers.csv").write_text(rows(canaries))
    row = {"petal": 3, "colour": canaries["category"]}
    try:
        place.do("run", "-y", "--no-serve", "app/app.yaml")
        report = json.dumps(place.ask("report", "flowers"))
        place.do("up", "-d")
        with place.client() as client:
            headers = {"Idempotency-Key": IDEMPOTENCY_KEY}
            made = client.post("/api/v1/keys", content=wanted(canaries), headers=headers).json()
        canaries["secret"] = made["key"]
        with place.client(made["key"]) as client:

            def answered():
                said = client.post("/predict/flowers", json=row)
                return said.status_code == 200 and said.json()

            eventually(answered)
            wrong = client.post("/predict/flowers", json={"petal": "x", "colour": canaries["category"]})
            assert wrong.status_code == 400
    finally:
        place.close()
    with place.catalogue() as catalogue:
        yield SimpleNamespace(place=place, hall=place.hall, canaries=canaries, catalogue=catalogue, report=report)


def scanned(folder, lived, *names, leave_out=KEYS):
    """Return which of the named canaries stand in clear, and where."""
    by_word = {lived.canaries[name]: name for name in names}
    return [(by_word[found.canary], found.path, found.how) for found in scan(folder, by_word, leave_out=leave_out)]


@pytest.mark.parametrize("name", ["category", "class", "group", "person", "secret"])
def test_nothing_of_people_or_secrets_stands_in_clear(lived, name):
    assert scanned(lived.hall, lived, name) == []


def test_the_report_still_names_the_groups_to_whoever_may_read_it(lived):
    assert lived.canaries["group"] in lived.report


def test_the_answer_log_does_not_tell_who_asked(lived):
    assert scanned(lived.hall / "answers", lived, "principal") == []


def test_without_encryption_every_canary_is_found(lived, tmp_path):
    """The control: the same bytes with each seal taken off, compressed as they were below it."""
    keys = KeyRing.open(lived.hall / "keys")
    vault = Vault(lived.catalogue, LocalBlobStore(lived.hall / "blobs"), keys)
    for number, artifact in enumerate(lived.catalogue.find(Artifact)):
        plain = zstandard.compress(vault.read(artifact.team, artifact.digest))
        (tmp_path / f"blob{number}").write_bytes(plain)
    table = read_routes(
        (lived.hall / "routes.json").read_bytes(), {keys.signer.key_id: keys.signer.public_key}, keys.routes_key
    )
    (tmp_path / "routes.json").write_bytes(canonical_json(table))
    (owner,) = lived.catalogue.find(ApiKey, sha256=keys.owner_key_hash)
    once = once_of(IDEMPOTENCY_KEY, owner.id, "POST", "/api/v1/keys", wanted(lived.canaries))
    (tmp_path / "reply").write_bytes(Calls(lived.catalogue, keys.call_key).answered(once))
    found = scanned(tmp_path, lived, "category", "class", "group", "principal", "secret")
    assert {name for name, _, _ in found} == {"category", "class", "group", "principal", "secret"}
    assert {path for name, path, _ in found if name == "category"} >= {"routes.json"}
