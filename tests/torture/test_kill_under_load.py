"""kill -9 of control at random moments of a mixed load: no acknowledged write is lost, and no act is half there."""

from __future__ import annotations

import random
import threading

import pytest

from tests.torture.control_main import TEAM
from tests.torture.hall import Client, quantile
from tests.torture.load import KINDS, Worker, halves, left_behind, live_until_killed, lost, stale_routes

NUM_KILLS = 8
NUM_KILLS_LONG, NUM_SEEDS_LONG = 25, 8
NUM_STARTS_LONG = 20
NUM_CLIENTS = 4
READY_S_P99 = 5.0
CHECKED_EACH = 5
"""The whole hall is looked through after so many kills, and what the clients know after each."""


def tortured(hall, seed, num_kills, *, kinds=KINDS):
    """Kill a hall's control so often; return everything that was found wrong, and the clients."""
    draw = random.Random(f"kill {seed}")  # noqa: S311
    workers = [Worker(hall, number, seed) for number in range(NUM_CLIENTS)]
    problems = []
    for number in range(num_kills):
        hall.start()
        if number % CHECKED_EACH == CHECKED_EACH - 1:  # while it opens the hall and mends it
            threading.Event().wait(draw.uniform(0, 0.4))
            hall.kill()
            hall.start()
        hall.await_ready()
        live_until_killed(hall, workers, kinds[number % len(kinds)], draw.uniform(0.1, 0.7), draw.uniform(0, 0.01))
        last = number == num_kills - 1
        with left_behind(hall) as found:
            for worker in workers:
                problems += lost(found, worker.facts)
            if last or number % CHECKED_EACH == 0:
                problems += halves(found)
        if problems:
            break
    problems += [problem for worker in workers for problem in worker.problems]
    return problems, workers


def settled(hall):
    """Start it once more, and return what is wrong once it has recovered and collected its garbage."""
    hall.start()
    hall.await_ready()
    client = Client(hall)
    assert client.ask("POST", "/torture/collect", {"call": "last"})[0] == 200
    client.close()
    hall.kill()
    with left_behind(hall) as found:
        problems = halves(found) + stale_routes(hall, found)
        if [step.id for step in found.running()]:
            problems.append("a step is still running")
        if set(found.blobs.list(team=TEAM)) != found.named():
            problems.append("an object is there that nothing names, or is named and gone")
    return problems


def told(seed, hall, workers):
    """Return a line for people: what was done, and how soon control answered."""
    done = {kind: sum(worker.num_done[kind] for worker in workers) for kind in KINDS}
    p50, p99 = (quantile(hall.ready_s, share) for share in (0.5, 0.99))
    return (
        f"seed {seed}: {len(hall.ready_s)} lives, ready after {p50:.2f} s (p50), {p99:.2f} s (p99); acknowledged {done}"
    )


def check(hall, seed, num_kills):
    """Torture one hall and say what came of it."""
    problems, workers = tortured(hall, seed, num_kills)
    print(told(seed, hall, workers))  # noqa: T201  (a failure shows it, and `make torture` tells it)
    assert problems + settled(hall) == [], f"seed {seed}"
    assert sum(worker.num_done.total() for worker in workers) >= 10 * num_kills


def test_no_kill_loses_or_halves_anything(make_hall):
    check(make_hall(), 0, NUM_KILLS)


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, NUM_SEEDS_LONG + 1))
def test_no_kill_of_200_loses_or_halves_anything(make_hall, seed):
    check(make_hall(), seed, NUM_KILLS_LONG)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_killed_control_answers_again_within_five_seconds(make_hall):
    """In fresh processes, with their imports, as the supervisor starts them."""
    hall = make_hall(zygote=False)
    problems, workers = tortured(hall, 99, NUM_STARTS_LONG)
    print(told(99, hall, workers))  # noqa: T201  (the figure is what this test is for)
    assert problems == []
    assert quantile(hall.ready_s, 0.99) <= READY_S_P99


def test_an_answer_before_the_commit_is_found_out(make_hall):
    """The control: the same kills of a control that acknowledges what it has not committed."""
    problems, _ = tortured(make_hall("--early"), 0, NUM_KILLS)
    assert problems != []


def test_the_checks_see_half_an_act(make_hall):
    """The control: one record of an act removed behind the ledger's back."""
    hall = make_hall()
    problems, _ = tortured(hall, 1, 2)
    assert problems == []
    with left_behind(hall) as found:
        assert halves(found) == []
        found.catalogue._writer.transact(lambda cursor: cursor.execute("DELETE FROM record_candidate"))
        assert any("candidate" in problem for problem in halves(found))
