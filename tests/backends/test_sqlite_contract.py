"""The SQLite backend keeps the catalogue's and the ledger store's contracts, and a Coordinator's."""

from __future__ import annotations

import sqlite3

import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.testing.catalogue import CatalogueContract, LedgerStoreContract
from datahall.testing.clock import AutoClock
from datahall.testing.coordination import CoordinatorContract


@pytest.fixture(autouse=True)
def _store(request):
    request.node.user_properties.append(("store", f"SQLite {sqlite3.sqlite_version}"))


@pytest.fixture
def catalogue(tmp_path):
    opened = SqliteCatalogue(tmp_path / "hall.db", AutoClock())
    yield opened
    opened.close()


class TestCatalogue(CatalogueContract):
    @pytest.fixture
    def catalogue(self, catalogue):
        return catalogue


class TestLedgerStore(LedgerStoreContract):
    @pytest.fixture
    def catalogue(self, catalogue):
        return catalogue


class TestCoordinator(CoordinatorContract):
    @pytest.fixture
    def open_store(self, tmp_path):
        opened = []

        def open_one(clock):
            opened.append(SqliteCatalogue(tmp_path / "hall.db", clock))
            return opened[-1]

        yield open_one
        for one in opened:
            one.close()
