"""Queries on the way of every act, proof and start use an index: none of them reads a whole table."""

import re

import pytest
from sqlalchemy import event

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.records import App
from datahall.ledger.proofs import prove_inclusion
from datahall.ledger.sequencer import integrate
from datahall.ledger.tree import consistency_proof
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock


@pytest.fixture
def plans(tmp_path):
    """Return the plans of the queries that `work` makes on a small ledger."""
    catalogue = SqliteCatalogue(tmp_path / "hall.db", AutoClock())
    for number in range(40):
        declare(catalogue, app(f"app-{number}"))
    integrate(catalogue, Ed25519Signer.generate(), "hall")

    def of(work):
        asked = []

        def note(_connection, _cursor, statement, parameters, *_):
            if statement.startswith("SELECT"):
                asked.append((statement, parameters))

        event.listen(catalogue._readers, "before_cursor_execute", note)
        work(catalogue)
        event.remove(catalogue._readers, "before_cursor_execute", note)
        assert asked
        with catalogue._reading() as connection:
            return [
                str(row[3])
                for statement, parameters in asked
                if "ORDER BY checkpoints.size DESC" not in statement  # the newest alone, from the end of its table
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]

    yield of
    catalogue.close()


def scans(plans):
    return [plan for plan in plans if re.match(r"SCAN (?!wanted|\d+ CONSTANT ROWS|CONSTANT ROW)", plan)]


@pytest.mark.parametrize(
    "work",
    [
        lambda store: prove_inclusion(store, 17),
        lambda store: consistency_proof(13, 40, store.nodes),
        lambda store: store.pending(10),
        lambda store: store.get(App, "app-1"),
        lambda store: store.find(App, team="ward"),
        lambda store: store.touching("app", "app-1"),
        lambda store: store.reply("call", "asked"),
        lambda store: store.leaf_bytes(3, 9),
    ],
)
def test_no_query_reads_a_whole_table(plans, work):
    assert scans(plans(work)) == []


def test_a_query_without_an_index_is_noticed(plans):
    """The control."""

    def work(store):
        with store._reading() as connection:
            connection.exec_driver_sql("SELECT hash FROM nodes WHERE (level, idx) IN (VALUES (1, 2), (3, 4))").all()

    assert scans(plans(work)) != []
