"""Crowds of clients that each wait for an answer and ask again at once (closed loop), against the policies of a gateway."""

import functools
import heapq
import random

import msgspec
import pytest

from datahall.core.records import KeyGrant
from datahall.policy import shed
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings, Refusal
from datahall.serve.batch import BatchQueue, BatchSettings, Item
from datahall.serve.config import GatewayLimits
from tests.serve.test_admission_load import ROUTES, door

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
REFUSAL_NS = 10 * US
WAY_NS = 50 * US
"""From an answer to the client's next request."""
MAX_ROWS = 16
PATIENCE_NS = 30 * SECOND
CALM_NS = SECOND // 2
"""Until then one client asks alone; then all come."""
GRANT = KeyGrant(key_id="k", principal="p", team="lab", scopes=(), expires_at_ns=None)

IMPATIENT = AdmissionSettings(
    app=LimitView(ceiling=1024, crowd_ns=0.0),
    hall=LimitView(floor=64, ceiling=4096, calm=4096, tolerance=6.0, unfelt_ns=0.0, crowd_ns=0.0, learns=False),
)
"""The control: answers of a cheap model may take no longer than others."""


class Result(msgspec.Struct):
    num_answered: int
    num_refused: int
    took_ns: list[int]
    """Of each answer, from when its request was sent."""

    @property
    def p99_ms(self) -> float:
        return sorted(self.took_ns)[int(0.99 * len(self.took_ns))] / MS


class Machine:
    """One core that takes what has come, refuses what it must, answers a batch, and looks again."""

    def __init__(self, num_clients, answer_ns, *, settings=None, batch=None, max_refusals_per_s=None, seconds=4.0):
        limits = GatewayLimits()
        self.answer_ns, self.num_clients = answer_ns, num_clients
        self.door: Admission = door(settings=settings)
        self.queue = BatchQueue(batch or BatchSettings(max_rows=MAX_ROWS))
        self.view = shed.ShedView(max_refusals_per_s or limits.max_refusals_per_s, limits.max_refusals_in_a_row)
        self.shedding = shed.ShedState()
        self.draw = random.Random(3)  # noqa: S311  a simulation is repeatable, not secret
        self.now, self.in_a_row = 0, [0] * num_clients
        self.result = Result(0, 0, [])
        self.coming = [(CALM_NS + self.draw.randrange(5 * MS), 0, client) for client in range(1, num_clients)]
        self.coming.append((0, 0, 0))
        """When each request is read, when it was sent, and by whom."""
        heapq.heapify(self.coming)
        while self.now < CALM_NS:
            self.tick()
        self.result = Result(0, 0, [])
        while self.now < CALM_NS + seconds * SECOND:
            self.tick()

    def tick(self):
        """Go once around the event loop."""
        if not len(self.queue):
            self.now = max(self.now, self.coming[0][0])
        came = []
        while self.coming and self.coming[0][0] <= self.now:
            came.append(heapq.heappop(self.coming)[1:])
        for sent_ns, client in came:
            self.ask(sent_ns or self.now, client)
        taken = self.queue.take(self.now, 1)
        for item in (*taken.expired, *taken.shed):
            place, _, client = item.key
            place.leave(self.now, sample_ns=None)
            self.refuse(client)
        if not taken.batches and taken.wake_at_ns is not None:  # it waits for more of them
            self.now = max(self.now, min(taken.wake_at_ns, self.coming[0][0] if self.coming else taken.wake_at_ns))
        for items in taken.batches:
            began = self.now
            self.now += int(self.answer_ns * len(items) * self.draw.uniform(0.8, 1.2))
            self.queue.finished(len(items), len(items), self.now - began, self.now)
            for item in items:
                self.answer(item)

    def ask(self, sent_ns, client):
        deadline_ns = self.now + PATIENCE_NS
        place = self.door.enter(GRANT, ROUTES["lab"], self.now, deadline_ns=deadline_ns)
        if isinstance(place, Refusal):
            self.refuse(client)
        elif self.queue.offer(Item((place, sent_ns, client), 1, deadline_ns, self.now), 1) != "taken":
            place.leave(self.now, sample_ns=None)
            self.refuse(client)

    def refuse(self, client):
        self.now += REFUSAL_NS
        self.result.num_refused += 1
        self.in_a_row[client] += 1
        event = shed.Refused(self.in_a_row[client])
        self.shedding, rest_ns, _ = shed.decide(self.shedding, self.view, event, self.now, 0.0)
        if rest_ns == shed.CLOSE:
            self.in_a_row[client] = 0  # it connects again
        sent_ns = self.now + WAY_NS
        heapq.heappush(self.coming, (max(sent_ns, self.now + rest_ns), sent_ns, client))

    def answer(self, item):
        place, sent_ns, client = item.key
        place.leave(self.now, sample_ns=self.now - item.since_ns)
        self.in_a_row[client] = 0
        self.result.num_answered += 1
        self.result.took_ns.append(self.now - sent_ns)
        heapq.heappush(self.coming, (self.now + WAY_NS, self.now + WAY_NS, client))


@functools.cache
def crowd(num_clients, answer_us):
    return Machine(num_clients, answer_us * US).result


@pytest.mark.parametrize("answer_us", [30, 90])
@pytest.mark.parametrize("num_clients", [64, 256])
def test_a_crowd_that_waits_its_turn_is_not_refused(num_clients, answer_us):
    assert crowd(num_clients, answer_us).num_refused == 0


@pytest.mark.parametrize("answer_us", [30, 90, 200])
def test_a_very_large_one_takes_little_from_what_is_answered_and_nobody_waits_long(answer_us):
    few, many = crowd(64, answer_us), crowd(1500, answer_us)
    assert many.num_answered >= 0.8 * few.num_answered
    assert many.p99_ms <= 500
    assert answer_us > 100 or many.num_refused < 0.1 * many.num_answered


@pytest.mark.parametrize("num_clients", [256, 1500])
def test_whoever_lets_no_crowd_wait_refuses_it_again_and_again(num_clients):
    impatient = Machine(num_clients, 90 * US, settings=IMPATIENT, max_refusals_per_s=10**9).result
    assert impatient.num_refused > impatient.num_answered
    assert impatient.num_answered < 0.6 * crowd(64, 90).num_answered


def test_a_queue_that_lets_no_crowd_wait_refuses_what_was_let_in():
    """The control of the queue's own patience."""
    hasty = Machine(1500, 90 * US, batch=BatchSettings(max_rows=MAX_ROWS, max_requests=512, crowd_ns=0)).result
    assert hasty.num_refused > 10 * crowd(1500, 90).num_refused


def test_where_nobody_has_to_rest_refusals_take_the_place_of_answers():
    """The control of the rests: a model so dear that most of the crowd is refused."""
    restless = Machine(1500, 200 * US, max_refusals_per_s=10**9).result
    assert restless.num_answered < 0.5 * crowd(64, 200).num_answered
