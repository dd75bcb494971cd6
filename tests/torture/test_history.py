"""The checker of histories accepts what a sequential store could have said, and nothing else."""

from __future__ import annotations

import math
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.testing.history import UNKNOWN, Key, Operation, Register, is_explained, unexplained


def op(name, called, returned=math.inf, argument=None, answer=UNKNOWN, record="r"):
    return Operation(
        record=record, name=name, argument=argument, answer=answer, called=called, returned=returned
    )  # fmt: skip


CREATED = op("create", 0, 1, "a", "done")

GOOD = {
    "nothing happened": [],
    "one after another": [CREATED, op("read", 2, 3, answer="a"), op("delete", 4, 5, answer="done")],
    "a read beside the write sees the new value": [CREATED, op("replace", 2, 9, ("a", "b"), "done"), op("read", 3, 4, answer="b")],
    "a read beside the write sees the old value": [CREATED, op("replace", 2, 9, ("a", "b"), "done"), op("read", 3, 4, answer="a")],
    "of two creators one is first": [op("create", 0, 5, "a", "exists"), op("create", 1, 4, "b", "done"), op("read", 6, 7, answer="b")],
    "a call that was cut off had its effect": [CREATED, op("replace", 2, argument=("a", "b")), op("read", 8, 9, answer="b")],
    "a call that was cut off had none": [CREATED, op("replace", 2, argument=("a", "b")), op("read", 8, 9, answer="a")],
    "a call that was cut off had its effect late": [
        CREATED, op("delete", 2), op("read", 3, 4, answer="a"), op("read", 5, 6, answer=None), op("create", 7, 8, "c", "done"),
    ],
    "who expected the old value came too late": [
        CREATED, op("replace", 2, 6, ("a", "b"), "done"), op("replace", 3, 7, ("a", "c"), "conflict"),
    ],
}  # fmt: skip
BAD = {
    "a stale read": [CREATED, op("replace", 2, 3, ("a", "b"), "done"), op("read", 4, 5, answer="a")],
    "a read goes back": [
        CREATED, op("replace", 2, 9, ("a", "b"), "done"), op("read", 3, 4, answer="b"), op("read", 5, 6, answer="a"),
    ],
    "a lost update": [CREATED, op("replace", 2, 6, ("a", "b"), "done"), op("replace", 3, 7, ("a", "c"), "done")],
    "an acknowledged write is lost": [CREATED, op("read", 2, 3, answer=None)],
    "two creators": [op("create", 0, 5, "a", "done"), op("create", 1, 4, "b", "done")],
    "a value from nowhere": [CREATED, op("read", 2, 3, answer="z")],
    "a refusal without a reason": [CREATED, op("replace", 2, 3, ("a", "b"), "conflict")],
    "an effect that comes and goes": [
        CREATED, op("delete", 2), op("read", 3, 4, answer=None), op("read", 5, 6, answer="a"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_could_have_been_is_accepted(name):
    assert is_explained(GOOD[name], Register())


@pytest.mark.parametrize("name", BAD)
def test_what_could_not_have_been_is_refused(name):
    assert not is_explained(BAD[name], Register())


def test_only_the_record_that_is_wrong_is_named():
    history = [*GOOD["one after another"], op("read", 0, 1, answer="x", record="other")]
    assert list(unexplained(history, Register())) == ["other"]


def test_a_key_is_issued_once_and_revoked_for_good():
    good = [op("issue", 0, 1, answer="good"), op("issue", 0, 3, answer="good"), op("revoke", 2, answer=UNKNOWN)]
    assert is_explained([*good, op("read", 4, 5, answer="revoked")], Key())
    assert is_explained([*good, op("read", 4, 5, answer="good")], Key())
    back = [op("issue", 0, 1, answer="good"), op("revoke", 2, 3, answer="revoked"), op("read", 4, 5, answer="good")]
    assert not is_explained(back, Key())
    assert not is_explained([op("read", 4, 5, answer="good")], Key())


def calls(draw):
    """Draw what one client asks of a register next."""
    name = draw.choice(["create", "read", "replace", "delete"])
    value = draw.choice("abc")
    return name, (draw.choice("abc"), value) if name == "replace" else value if name == "create" else None


def executed(draw, number, *, lost=0.0, wide=3.0):
    """Return a history whose operations really happened one after another, each somewhere within its interval."""
    model, state, history = Register(), None, []
    for moment in range(number):
        name, argument = calls(draw)
        answer, after = model._do(state, op(name, moment, argument=argument))
        begun = moment - draw.random() * wide
        if draw.random() < lost:
            happened = draw.random() < 0.5
            history.append(op(name, begun, argument=argument))
            state = after if happened else state
        else:
            history.append(op(name, begun, moment + draw.random() * wide, argument, answer))
            state = after
    return sorted(history, key=lambda operation: operation.called)


@given(st.integers(), st.integers(0, 40), st.sampled_from([0.0, 0.1]))
def test_a_real_execution_is_always_accepted(seed, number, lost):
    assert is_explained(executed(random.Random(seed), number, lost=lost), Register())  # noqa: S311


@given(st.integers())
def test_an_answer_that_no_order_can_give_is_always_refused(seed):
    draw = random.Random(seed)  # noqa: S311
    history = executed(draw, 30)
    reads = [index for index, each in enumerate(history) if each.name == "read"]
    if reads:
        index = draw.choice(reads)
        wrong = op("read", history[index].called, history[index].returned, answer="never written")
        assert not is_explained([*history[:index], wrong, *history[index + 1 :]], Register())


def test_a_long_history_with_many_cut_off_calls_is_judged_in_a_moment():
    """Ten clients' worth of overlap, a thousand operations, one in two hundred cut off: the memory keeps the search small."""
    draw = random.Random(3)  # noqa: S311
    assert is_explained(executed(draw, 1000, lost=0.005, wide=10.0), Register())


class Stale:
    """A store whose reads lag one write behind: the first control."""

    def __init__(self):
        self.now = self.before = None

    def do(self, name, argument):
        if name == "read":
            return self.before
        answer, after = Register()._do(self.now, op(name, 0, argument=argument))
        if answer == "done":
            self.before, self.now = self.now, after
        return answer


class Lossy:
    """A store that looks, waits for somebody else, and then writes: the second control, which loses updates."""

    def __init__(self):
        self.now = None
        self.turn = threading.Barrier(2, timeout=5)

    def do(self, name, argument):
        answer, after = Register()._do(self.now, op(name, 0, argument=argument))
        if name == "replace":
            self.turn.wait()
        self.now = after
        return answer


def test_a_store_with_stale_reads_is_refused():
    store, history = Stale(), []
    for moment, (name, argument) in enumerate([("create", "a"), ("replace", ("a", "b")), ("read", None)]):
        history.append(op(name, moment, moment + 0.5, argument, store.do(name, argument)))
    assert not is_explained(history, Register())


def test_a_store_that_loses_updates_is_refused():
    store, history = Lossy(), []
    assert store.do("create", "a") == "done"

    def replace(value):
        history.append(op("replace", 2, 3, ("a", value), store.do("replace", ("a", value))))

    threads = [threading.Thread(target=replace, args=(value,)) for value in "bc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [each.answer for each in history] == ["done", "done"]
    assert not is_explained([CREATED, *history], Register())
