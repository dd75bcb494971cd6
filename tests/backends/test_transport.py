"""The Unix transport keeps the contract of its port, and one that breaks a promise of it is found out."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

from datahall.backends.transport.unix import UnixLink, UnixTransport
from datahall.core.errors import UnavailableError
from datahall.testing.transport import QUICK_PING_S, QUICK_SILENT_S, TransportContract


@pytest.fixture
def listen():
    folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))

    async def start(handler):
        path = str(folder / "r.sock")
        return path, await asyncio.start_unix_server(handler, path)

    yield start
    shutil.rmtree(folder)


class TestUnix(TransportContract):
    @pytest.fixture
    def transport(self):
        return UnixTransport(ping_seconds=QUICK_PING_S, silent_seconds=QUICK_SILENT_S)

    @pytest.fixture
    def listen(self, listen):
        return listen


class Broken(UnixTransport):
    """Opens links of a class that breaks one promise."""

    def __init__(self, link, silent_seconds=QUICK_SILENT_S):
        self.link, self.silent_seconds = link, silent_seconds

    def connect(self, address, *, bundle, changed):
        return self.link(
            address, bundle=bundle, changed=changed, ping_seconds=QUICK_PING_S, silent_seconds=self.silent_seconds
        )


class Hasty(UnixLink):
    def send(self, columns, num_rows, done):
        if not self.ready:
            done(UnavailableError("the replica is not connected"))
        else:
            super().send(columns, num_rows, done)


class Trusting(UnixLink):
    def _set_ready(self, ready):
        super()._set_ready(ready or self._num_pings > 0)


class Forgetful(UnixLink):
    def _lost(self):
        self._set_ready(False)


class Faithless(UnixLink):
    def _retry_later(self):
        """Never come back."""


class Patient(UnixLink):
    def _abort(self):
        """Cut nobody off."""


@pytest.mark.parametrize(
    ("link", "test", "arguments"),
    [
        (Hasty, "test_nothing_is_told_from_within_send", ()),
        (Forgetful, "test_closing_gives_back_what_is_open_for_good", ()),
        (Forgetful, "test_a_lost_connection_gives_back_what_is_open_and_comes_back", ()),
        (Faithless, "test_a_lost_connection_gives_back_what_is_open_and_comes_back", ()),
        (Patient, "test_a_silent_replica_is_given_up_and_tried_anew", ()),
        (Patient, "test_who_says_what_nobody_asked_is_cut_off", ("twice",)),
        (Patient, "test_who_says_what_nobody_asked_is_cut_off", ("ready",)),
    ],
)
def test_the_suite_finds_a_link_that_breaks_its_promise(monkeypatch, listen, link, test, arguments):
    monkeypatch.setattr("datahall.testing.transport._BOUND_S", 0.5)
    with pytest.raises((AssertionError, TimeoutError)):
        getattr(TransportContract(), test)(Broken(link), listen, *arguments)
