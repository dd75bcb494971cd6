"""Whoever is interrupted in a group commit leaves the others nothing to wait for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from datahall.backends.db import group
from datahall.backends.db.group import Group
from datahall.core.errors import UnavailableError


class Store:
    """Does what it is told once it may, and says when it has begun."""

    def __init__(self):
        self.begun, self.may_end, self.done = threading.Event(), threading.Event(), []

    def transact(self, works):
        self.begun.set()
        assert self.may_end.wait(20)
        self.done += works
        return works


def interrupted(when):
    """Return tickets whose wait ends with a Ctrl-C once `when(ticket)` has returned."""

    class Interrupting:
        def __init__(self, ticket):
            self._ticket = ticket

        def acquire(self):
            when(self._ticket)
            raise KeyboardInterrupt

        def release(self):
            pass

    class Ticket(group._Ticket):
        def __init__(self, work):
            super().__init__(work)
            self.wake = Interrupting(self)

    return Ticket


@pytest.mark.parametrize("has_lead", [False, True])
def test_a_waiter_that_is_interrupted_is_waited_for_by_nobody(monkeypatch, has_lead):
    store = Store()
    writers, led = Group(store.transact), threading.Event()

    def when(ticket):
        if has_lead:
            store.may_end.set()
            while not ticket.leads:
                led.wait(0.001)

    with ThreadPoolExecutor(2) as pool:
        try:
            first = pool.submit(writers.do, "first")
            assert store.begun.wait(20)
            with monkeypatch.context() as patched:
                patched.setattr(group, "_Ticket", interrupted(when))
                with pytest.raises(KeyboardInterrupt):
                    writers.do("interrupted")
        finally:
            store.may_end.set()
        assert first.result(20) == "first"
        assert pool.submit(writers.do, "later").result(20) == "later"
    assert store.done == ["first", "later"]


def test_a_leader_that_is_interrupted_hands_the_lead_on():
    turns = []

    def transact(works):
        turns.append(works)
        if works == ["interrupted"]:
            raise KeyboardInterrupt
        return works

    writers = Group(transact)
    with pytest.raises(KeyboardInterrupt):
        writers.do("interrupted")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(writers.do, "later").result(20) == "later"
    assert turns == [["interrupted"], ["later"]]


def test_those_who_wait_for_a_leader_that_is_interrupted_hear_of_it():
    begun, may_end, num_waiting = threading.Event(), threading.Event(), threading.Semaphore(0)

    def transact(works):
        if works == ["first"]:
            begun.set()
            assert may_end.wait(20)
        elif len(works) > 1:
            raise KeyboardInterrupt
        return works

    writers = Group(transact)

    def write(work):
        num_waiting.release()
        try:
            return writers.do(work)
        except KeyboardInterrupt:
            return "interrupted"
        except UnavailableError as error:
            return error.what

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(write, "first")
        assert begun.wait(20)
        others = [pool.submit(write, work) for work in "ab"]
        while len(writers._waiting) < 2:
            num_waiting.acquire(timeout=0.01)
        may_end.set()
        assert first.result(20) == "first"
        assert sorted(other.result(20) for other in others) == ["interrupted", "the write was interrupted"]
        assert pool.submit(write, "later").result(20) == "later"
