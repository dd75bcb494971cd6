"""The SQLite backend keeps the catalogue's and the ledger store's contracts."""

from __future__ import annotations

import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.testing.catalogue import CatalogueContract, LedgerStoreContract
from datahall.testing.clock import AutoClock


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
