"""Ten clients at once, with crashes between: what they saw is what one client at a time could have seen."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter

import pytest

from datahall.testing.history import UNKNOWN, Key, Operation, Register, unexplained
from tests.torture.hall import Client, GoneError
from tests.torture.load import halves, left_behind

NUM_OPERATIONS, NUM_OPERATIONS_LONG = 600, 10_000
NUM_SEEDS_LONG = 1
NUM_CLIENTS = 10
NUM_RECORDS, NUM_KEYS = 40, 30
NUM_SENDS = 3
"""How often a call with an idempotency key is sent."""
LIFE_S = (0.4, 2.0)
"""How long control lives between crashes."""


class World:
    """What the clients share: the hall, how many operations are left, what was seen, and what was wrong at once."""

    def __init__(self, hall, seed, num_operations):
        self.hall, self.seed = hall, seed
        self.left = iter(range(num_operations))
        self.up = threading.Event()
        self.registers, self.keys = [], []
        self.key_ids: dict[str, set[str]] = {}
        self.problems = []
        self.num_sends = Counter()


class Caller:
    """One client: draws its calls from a seed and notes when each began, when its answer came, and what it was."""

    def __init__(self, world, number):
        self._world, self._number = world, number
        self._draw = random.Random(f"{world.seed} caller {number}")  # noqa: S311
        self._client = Client(world.hall)
        self._seen = {}
        self._calls = itertools.count()

    def run(self):
        """Ask until nothing is left to ask."""
        try:
            for _ in self._world.left:
                self._key() if self._draw.random() < 0.2 else self._register()
        except Exception as error:  # noqa: BLE001  (a thread's error must reach the test)
            self._world.problems.append(repr(error))
        finally:
            self._client.close()

    def _register(self):
        record = f"lin{self._draw.randrange(NUM_RECORDS)}"
        name = self._draw.choice(["create", "read", "read", "replace", "replace", "delete"])
        call = f"lin{self._number}c{next(self._calls)}"
        argument = {"create": call, "replace": [self._seen.get(record, "?"), call]}.get(name)
        said = {"name": name, "record": record, "argument": argument, "call": call}
        keyed = name != "read" and self._draw.random() < 0.7
        called = time.monotonic()
        body = self._send("POST", "/torture/record", said, call if keyed else None, repeat=name == "read")
        returned = time.monotonic()
        answer = UNKNOWN if body is None else body["answer"]
        if keyed and answer == "done":
            self._send_again("/torture/record", said, call, body)
        if answer == "done":
            self._seen[record] = call
        elif name == "read":
            self._seen[record] = answer or "?"
        argument = tuple(argument) if isinstance(argument, list) else argument
        self._note(self._world.registers, record, name, argument, answer, called, returned)

    def _send(self, method, path, said, key, *, repeat):
        """Return the answer; None where the call was cut off and may not be repeated."""
        while True:
            self._world.up.wait(60)
            self._world.num_sends[path] += 1
            try:
                status, body = self._client.ask(method, path, said, key)
            except (GoneError, FileNotFoundError):
                if key is None and not repeat:
                    return None
                continue
            if status < 300:
                return body
            if status != 409:  # somebody else changed it meanwhile, and nothing was done
                raise AssertionError(f"{method} {path} {said}: {status} {body}")

    def _send_again(self, path, said, key, first):
        for _ in range(NUM_SENDS - 1):
            body = self._send("POST", path, said, key, repeat=True)
            if body != first:
                self._world.problems.append(f"{key} was answered {first}, then {body}")

    def _key(self):
        world, record = self._world, f"lk{self._draw.randrange(NUM_KEYS)}"
        known = sorted(world.key_ids.get(record, ()))
        name = self._draw.choice(["issue", "read", "revoke"] if known else ["issue", "read"])
        called = time.monotonic()
        if name == "issue":
            said = {"name": record, "scopes": ["predict"]}
            body = self._send("POST", "/api/v1/keys", said, record, repeat=True)
            returned, answer = time.monotonic(), body["status"]["state"]
            world.key_ids.setdefault(record, set()).add(body["status"]["id"])
            self._send_again("/api/v1/keys", said, record, body)
        elif name == "revoke":
            body = self._send("DELETE", f"/api/v1/keys/{known[0]}", None, None, repeat=True)
            returned, answer = time.monotonic(), body["state"]
        else:
            body = self._send("GET", "/api/v1/keys", None, None, repeat=True)
            returned = time.monotonic()
            found = [key["state"] for key in body if key["name"] == record]
            answer = found[0] if found else None
            if len(found) > 1:
                world.problems.append(f"{record} was issued {len(found)} times")
        self._note(world.keys, record, name, None, answer, called, returned)

    def _note(self, history, record, name, argument, answer, called, returned):
        more = {} if answer is UNKNOWN else {"returned": returned}
        history.append(
            Operation(record=record, name=name, argument=argument, answer=answer, called=called, **more)
        )  # fmt: skip


def lived(hall, seed, num_operations):
    """Let ten clients ask so much of a control that is killed again and again; return what they saw."""
    world = World(hall, seed, num_operations)
    draw = random.Random(f"crashes {seed}")  # noqa: S311
    threads = [threading.Thread(target=Caller(world, number).run) for number in range(NUM_CLIENTS)]
    hall.start()
    hall.await_ready()
    world.up.set()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        deadline = time.monotonic() + draw.uniform(*LIFE_S)
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        world.up.clear()
        hall.kill()
        hall.start()
        hall.await_ready()
        world.up.set()
    hall.kill()
    return world


def wrong(world):
    """Return what no sequential hall could have answered, and what was done twice."""
    problems = list(world.problems)
    problems += [f"{name} has {len(ids)} keys" for name, ids in world.key_ids.items() if len(ids) > 1]
    for history, model in ((world.registers, Register()), (world.keys, Key())):
        problems += [f"{record}: {told}" for record, told in unexplained(history, model).items()]
    with left_behind(world.hall) as found:
        return problems + halves(found)


def check(hall, seed, num_operations):
    """Hold what was seen against the model."""
    world = lived(hall, seed, num_operations)
    history = world.registers + world.keys
    cut = sum(operation.answer is UNKNOWN for operation in history)
    print(  # noqa: T201  (a failure shows it, and `make torture` tells it)
        f"seed {seed}: {len(history)} operations of {NUM_CLIENTS} clients, {sum(world.num_sends.values())} sends, "
        f"{len(hall.ready_s)} lives, {cut} calls cut off for good"
    )
    assert wrong(world) == [], f"seed {seed}"
    assert len(history) == num_operations


def test_ten_clients_with_crashes_between_see_one_hall(make_hall):
    check(make_hall(), 0, NUM_OPERATIONS)


@pytest.mark.torture
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(1, NUM_SEEDS_LONG + 1))
def test_ten_thousand_operations_see_one_hall(make_hall, seed):
    check(make_hall(), seed, NUM_OPERATIONS_LONG)


def test_a_hall_that_answers_before_the_commit_is_found_out(make_hall):
    """The control: the same clients and crashes; what others read is behind, and what a crash takes was acknowledged."""
    world = lived(make_hall("--early"), 0, NUM_OPERATIONS // 2)
    assert wrong(world) != []
