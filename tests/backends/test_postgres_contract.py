"""The Postgres backend keeps the catalogue's and the ledger store's contracts and a Coordinator's, against a real server."""

from __future__ import annotations

import pytest

from datahall.backends.db.postgres import PostgresCatalogue
from datahall.testing.catalogue import CatalogueContract, LedgerStoreContract
from datahall.testing.clock import AutoClock
from datahall.testing.coordination import CoordinatorContract


@pytest.fixture
def catalogue(postgres_url):
    opened = PostgresCatalogue(postgres_url, AutoClock())
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
    def open_store(self, postgres_url):
        opened = []

        def open_one(clock):
            opened.append(PostgresCatalogue(postgres_url, clock))
            return opened[-1]

        yield open_one
        for one in opened:
            one.close()
