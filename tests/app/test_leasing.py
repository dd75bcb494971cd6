"""Who asks for a lease watches long enough to see that its holder died."""

from __future__ import annotations

import pytest

from datahall.app.leasing import PATIENCE_S, leased
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import JumpingClock

STORES = ["sqlite", "postgres"]


class Beating(JumpingClock):
    """A clock under which another holder's heart beats whenever time passes."""

    beat = None

    def sleep(self, seconds):
        super().sleep(seconds)
        if self.beat:
            self.beat()


@pytest.fixture
def open_store(request, tmp_path):
    opened = []

    def one(store, clock):
        if store == "postgres":
            opened.append(PostgresCatalogue(request.getfixturevalue("postgres_url"), clock))
        else:
            opened.append(SqliteCatalogue(tmp_path / "hall.db", clock))
        return opened[-1]

    yield one
    for catalogue in opened:
        catalogue.close()


@pytest.mark.parametrize("store", STORES)
def test_a_holder_that_died_is_followed_by_a_process_that_asks_only_through_leased(open_store, store):
    clock = JumpingClock()
    gone, heir = open_store(store, JumpingClock()), open_store(store, clock)
    assert gone.leases.acquire("run/x").token == 1
    with leased(heir, heir.leases, "run/x", "busy", clock=clock) as fenced:
        declare(fenced, app())
    assert heir.leases.leases() == []


@pytest.mark.parametrize("store", STORES)
def test_a_holder_that_lives_is_not(open_store, store):
    """The control of the test above."""
    clock = Beating()
    living, other = open_store(store, JumpingClock()), open_store(store, clock)
    lease, clock.beat = living.leases.acquire("run/x"), living.leases.beat
    with pytest.raises(ConflictError, match="busy"), leased(other, other.leases, "run/x", "busy", clock=clock):
        pass
    assert clock.monotonic_ns() >= PATIENCE_S * 1e9
    assert living.leases.leases() == [lease]


@pytest.mark.parametrize("store", STORES)
def test_a_catalogue_that_is_closed_gives_all_its_leases_back(open_store, store):
    first, second = open_store(store, JumpingClock()), open_store(store, JumpingClock())
    for name in ("run/x", "sequencer"):
        first.leases.acquire(name)
    kept = second.leases.acquire("collecting")
    first.close()
    assert second.leases.leases() == [kept]
