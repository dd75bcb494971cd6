"""Checks what clients saw against what a sequential store could have said: linearizability (Herlihy and Wing, 1990).

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing
for linearizability", 2017): a state that was reached by the same operations once need not be tried again. Operations on
different records are independent, so each record's history is checked by itself (locality, Herlihy and Wing, theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

UNKNOWN: Final = msgspec.UNSET
"""The answer of a call that was cut off: it may have had its effect at any time since, or none for ever."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One call as its client saw it; times are of one monotonic clock, in seconds."""

    record: str
    """What it was about; histories of different records are checked apart."""
    name: str
    argument: Any = None
    answer: Any = UNKNOWN
    called: float
    returned: float = math.inf
    """When the answer came; infinite where none did."""


class Model(Protocol):
    """What a sequential store does."""

    def start(self) -> Hashable:
        """Return the state of a record that nobody has touched."""

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        """Return whether a store in `state` could give the operation's answer, and its state afterwards.

        An operation whose answer is UNKNOWN could always be.
        """


def unexplained(history: Iterable[Operation], model: Model) -> dict[str, list[Operation]]:
    """Return the records whose operations have no order that explains every answer, each with its operations by time.

    An order explains the answers if a sequential store gives them in that order, and no operation comes before one that
    had returned when it was called. Empty for a linearizable history.
    """
    by_record: dict[str, list[Operation]] = {}
    for operation in sorted(history, key=lambda operation: operation.called):
        by_record.setdefault(operation.record, []).append(operation)
    return {record: told for record, told in by_record.items() if not is_explained(told, model)}


class _Place(NamedTuple):
    """A node of the search: which operations were put in order (a bit each), and the state that they lead to."""

    done: int
    state: Hashable
    first: int
    """No operation before this one is left."""


def is_explained(history: Sequence[Operation], model: Model) -> bool:
    """Return whether one record's operations, ordered by `called`, are linearizable under `model`."""
    wanted = sum(1 << index for index, operation in enumerate(history) if operation.answer is not UNKNOWN)
    stack = [_Place(0, model.start(), 0)]
    seen: set[tuple[int, Hashable]] = set()
    while stack:
        place = stack.pop()
        if place.done & wanted == wanted:
            return True
        for index in _next(history, place):
            possible, state = model.step(place.state, history[index])
            done = place.done | 1 << index
            idle = not wanted >> index & 1 and state == place.state  # cut off and without effect: never is as good
            if possible and not idle and (done, state) not in seen:
                seen.add((done, state))
                first = place.first
                while first < len(history) and done >> first & 1:
                    first += 1
                stack.append(_Place(done, state, first))
    return False


def _next(history: Sequence[Operation], place: _Place) -> list[int]:
    """Return the operations that may come next, the likeliest last: those called before any that is left returned."""
    found: list[int] = []
    bound = math.inf
    for index in range(place.first, len(history)):
        operation = history[index]
        if operation.called > bound:
            break
        if not place.done >> index & 1:
            found.append(index)
            bound = min(bound, operation.returned)
    open_to_come = [index for index in found if history[index].called <= bound]
    return sorted(open_to_come, key=lambda index: -history[index].returned)


class Register:
    """A record that is created, read, replaced if it is what the caller thinks, and deleted; its state is its value.

    | operation | argument | answers |
    |---|---|---|
    | `create` | value | `done`, or `exists` |
    | `read` | | the value, or None |
    | `replace` | (expected, value) | `done`, or `conflict` |
    | `delete` | | `done`, or `missing` |
    """

    def start(self) -> Hashable:
        """Return None: there is no record."""
        return None

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        """Return whether the answer fits, and the value afterwards."""
        said, after = self._do(state, operation)
        if operation.answer is UNKNOWN or operation.answer == said:
            return True, after
        return False, state

    def _do(self, state: Any, operation: Operation) -> tuple[Any, Hashable]:
        argument = operation.argument
        if operation.name == "create":
            return ("done", argument) if state is None else ("exists", state)
        if operation.name == "replace":
            expected, value = argument
            return ("done", value) if state == expected and state is not None else ("conflict", state)
        if operation.name == "delete":
            return ("missing", None) if state is None else ("done", None)
        assert operation.name == "read", f"a register has no {operation.name}"
        return state, state


class Key:
    """An API key named by the call that issues it: issued once however often it is asked for, then good, then revoked.

    | operation | answers |
    |---|---|
    | `issue` | `good` |
    | `revoke` | `revoked`, or `missing` |
    | `read` | `good`, `revoked`, or None |
    """

    def start(self) -> Hashable:
        """Return None: it was never issued."""
        return None

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        """Return whether the answer fits, and the key's state afterwards."""
        if operation.name == "issue":
            said, after = "good", state or "good"
        elif operation.name == "revoke":
            said, after = ("missing", None) if state is None else ("revoked", "revoked")
        else:
            assert operation.name == "read", f"a key has no {operation.name}"
            said, after = state, state
        return operation.answer in (UNKNOWN, said), after
