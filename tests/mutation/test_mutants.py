"""Small changes to gate, ledger and signatures are noticed; `make mutants` tries all of them."""

import ast

import mutate
import mutations
import pytest

NUM = 30
SEED = 2026
MODULES = (
    "datahall.policy.gate",
    "datahall.stats.multiple",
    "datahall.security.signing",
    "datahall.ledger.proofs",
    "datahall.ledger.tree",
)


@pytest.mark.timeout(170)
def test_nine_of_ten_seeded_changes_are_noticed():
    sample = mutate.choose(NUM, SEED, MODULES)
    assert len(sample) == NUM
    results = mutate.study(sample, workers=2, known={})
    survived = {name for name, outcome in results.items() if outcome == "survived"}
    assert survived <= set(mutate.known_survivors()), "a survivor is killed by a better test, or listed with a reason"
    assert len(survived) <= 0.1 * NUM


def test_every_listed_survivor_exists_and_has_a_reason():
    names = {mutant.name for module in mutate.TARGETS for mutant in mutations.mutants_of(module)}
    listed = mutate.known_survivors()
    assert [name for name in listed if name not in names] == []
    assert [name for name, reason in listed.items() if len(reason) < 20] == []


def test_a_mutant_differs_from_the_module_and_from_every_other():
    module = "datahall.stats.multiple"
    texts = [ast.unparse(mutations.mutate(module, mutant.number)) for mutant in mutations.mutants_of(module)]
    assert len({*texts, ast.unparse(mutations.mutate(module, -1))}) == len(texts) + 1
    assert len({mutant.name for mutant in mutations.mutants_of(module)}) == len(texts)


def test_the_source_is_never_written_to():
    module = "datahall.stats.multiple"
    before = mutations.path_of(module).read_bytes()
    mutations.mutate(module, 3)
    assert mutations.path_of(module).read_bytes() == before


def test_tests_that_fail_anyway_prove_nothing(monkeypatch):
    monkeypatch.setitem(mutate.TARGETS, "datahall.stats.multiple", ("tests/no_such_file.py",))
    with pytest.raises(RuntimeError, match="fail without a change"):
        mutate.study(mutate.choose(1, 0, ["datahall.stats.multiple"]), workers=1, known={})
