"""The load generator in virtual time: latencies are exact, and a stall is not hidden as a closed loop hides it."""

from __future__ import annotations

import asyncio
import random
import selectors

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.evaluate.histogram import RELATIVE_ERROR, LatencyHistogram
from datahall.evaluate.load import LoadSettings, generate, offer, poisson, saturate
from datahall.testing.clock import AutoClock

REQUEST = b"GET / HTTP/1.1\r\nHost: hall\r\n\r\n"


class VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting, moves its loop's time on."""

    now_s = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "everything waits for something that never comes"
        self.now_s += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.virtual = VirtualSelector()
        super().__init__(self.virtual)

    def time(self):
        return self.virtual.now_s


class Wire(asyncio.Transport):
    """A connection to a scripted server."""

    def __init__(self, server, protocol):
        super().__init__()
        self.server, self.protocol, self.open = server, protocol, True

    def write(self, data):
        self.server.asked(self, data)

    def abort(self):
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    close = abort


class Server:
    """Answers one request at a time, each as `script(number)` says: (seconds of work, bytes or None to hang up)."""

    def __init__(self, script):
        self.script = script
        self.num_asked = self.num_connections = 0
        self.busy_until_s = 0.0
        self.refuses = False

    async def connect(self, make):
        if self.refuses:
            raise ConnectionRefusedError
        protocol = make()
        self.num_connections += 1
        protocol.connection_made(Wire(self, protocol))

    def asked(self, wire, data):
        assert data == REQUEST
        loop = asyncio.get_running_loop()
        seconds, answer = self.script(self.num_asked)
        self.num_asked += 1
        self.busy_until_s = max(self.busy_until_s, loop.time()) + seconds
        loop.call_at(self.busy_until_s, self.answer, wire, answer)

    def answer(self, wire, answer):
        if not wire.open:
            return
        if answer is None:
            wire.abort()
        else:
            wire.protocol.data_received(answer)


def reply(status=200, *headers):
    return f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{''.join(line + chr(13) + chr(10) for line in headers)}\r\nok".encode()


def run(coroutine_of):
    """Run in virtual time; `coroutine_of()` makes the coroutine within the loop."""

    async def main():
        return await coroutine_of()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def settings(**changes):
    return LoadSettings(**{"spin_seconds": 0.0} | changes)


def every(seconds, num):
    return [index * seconds for index in range(num)]


def stall(number):
    """A server that takes 1 ms, and once a whole second."""
    return (1.0 if number == 100 else 0.001), reply()


def test_a_stall_is_counted_for_all_who_wait():
    server = Server(stall)
    report = run(lambda: offer([REQUEST], every(0.01, 300), server.connect, seconds=10, settings=settings()))
    # The request of t = 1.00 s is answered at 2.00; the one after, due at 1.01, at 2.001: (1.000, 0.991, 0.982, ...).
    waits = [1.0 - 0.009 * index for index in range(111)]
    exact = np.sort([0.001] * (300 - len(waits)) + waits)
    assert report.outcomes == {"200": 300}
    for level in (0.5, 0.62, 0.8, 0.9, 0.99, 1.0):
        expected_ms = exact[int(np.ceil(level * 300)) - 1] * 1e3
        assert expected_ms - 1e-6 <= report.answered.quantile_ms(level) <= expected_ms * (1 + RELATIVE_ERROR) + 0.001
    assert report.answered.mean_ms == pytest.approx(exact.mean() * 1e3, abs=0.001)
    assert report.lag.max_us == 0


def test_a_closed_loop_hides_the_same_stall():
    """The negative control: one client that waits counts a single slow request."""
    server = Server(stall)
    closed = run(lambda: saturate([REQUEST], server.connect, seconds=3, settings=settings(max_connections=1)))
    assert closed.answered.quantile_ms(0.99) == pytest.approx(1, abs=0.01)
    assert closed.answered.max_us == 1_000_000
    assert closed.num_answered_in_time == pytest.approx(2001, abs=2)
    assert closed.goodput_per_s == pytest.approx(667, abs=1)


def test_time_from_the_sending_alone_would_hide_the_wait_for_a_connection():
    server = Server(stall)
    one = settings(max_connections=1)
    report = run(lambda: offer([REQUEST], every(0.01, 300), server.connect, seconds=10, settings=one))
    assert report.answered.quantile_ms(0.9) > 600
    assert report.served.quantile_ms(0.9) == pytest.approx(1, abs=0.01)
    assert server.num_connections == 1


def test_connections_are_bounded_and_kept():
    server = Server(lambda _: (0.05, reply()))
    few = settings(max_connections=7, timeout_seconds=100)
    report = run(lambda: offer([REQUEST], every(0.01, 100), server.connect, seconds=1.02, settings=few))
    assert server.num_connections == 7
    assert report.outcomes == {"200": 100}
    assert report.num_answered_in_time == 20  # one each 50 ms of the second
    assert report.goodput_per_s == pytest.approx(20 / 1.02)


def test_outcomes_are_counted_by_status_and_a_closing_server_costs_a_connection():
    script = [
        reply(),
        reply(429),
        reply(503, "Connection: close"),
        None,
        b"nonsense\r\n\r\n",
        reply(204)[:-2].replace(b"2\r", b"0\r"),
    ]
    server = Server(lambda number: (0.001, script[number]))
    report = run(lambda: offer([REQUEST], every(1, 6), server.connect, seconds=6, settings=settings()))
    assert report.outcomes == {"200": 1, "429": 1, "503": 1, "lost": 2, "204": 1}
    assert (report.answered.num, report.refused.num) == (2, 4)
    assert server.num_connections == 4
    assert report.amplification == 1


def test_a_client_hangs_up_at_its_deadline_and_a_late_answer_counts_no_more():
    server = Server(lambda number: (3.0 if number == 0 else 0.0, reply()))
    report = run(lambda: offer([REQUEST], [0.0, 4.0], server.connect, seconds=5, settings=settings(timeout_seconds=2)))
    assert report.outcomes == {"timeout": 1, "200": 1}
    assert report.refused.max_us == 2_000_000


def test_who_waits_for_a_connection_times_out_too():
    server = Server(lambda _: (10.0, reply()))
    one = settings(max_connections=1, timeout_seconds=1)
    report = run(lambda: offer([REQUEST], every(0.0, 5), server.connect, seconds=1, settings=one))
    assert report.outcomes == {"timeout": 5}
    assert report.refused.quantile_ms(0) == report.refused.quantile_ms(1) == 1000
    assert server.num_asked == 1


def test_nobody_listens():
    server = Server(stall)
    server.refuses = True
    report = run(lambda: offer([REQUEST], every(0.1, 5), server.connect, seconds=1, settings=settings()))
    assert report.outcomes == {"lost": 5}


@pytest.mark.parametrize(("honour", "asked_again_s"), [(True, 7.0), (False, 0.15)])
def test_a_repetition_waits_as_long_as_it_is_told(honour, asked_again_s):
    server = Server(lambda number: (0.0, reply() if number else reply(503, "Retry-After: 7")))
    patient = settings(max_retries=1, retry_seconds=0.1, honour_retry_after=honour)
    report = run(lambda: offer([REQUEST], [0.0], server.connect, seconds=9, settings=patient))
    assert report.outcomes == {"200": 1}
    assert report.attempts == {"503": 1, "200": 1}
    assert report.amplification == 2
    assert report.answered.max_us / 1e6 <= asked_again_s
    assert report.answered.max_us / 1e6 >= (7.0 if honour else 0.05)


def test_repetitions_back_off_and_end():
    times = []

    def script(_):
        times.append(asyncio.get_running_loop().time())
        return 0.0, reply(429)

    storm = settings(max_retries=3, retry_seconds=0.1)
    report = run(lambda: offer([REQUEST], [0.0], Server(script).connect, seconds=9, settings=storm))
    assert report.outcomes == {"429": 1}
    assert report.num_attempts == 4
    for wait, base in zip(np.diff(times), (0.1, 0.2, 0.4), strict=True):
        assert 0.5 * base <= wait <= 1.5 * base


def test_a_status_that_will_not_change_is_not_repeated():
    stubborn = settings(max_retries=3)
    server = Server(lambda _: (0.0, reply(400)))
    report = run(lambda: offer([REQUEST], [0.0], server.connect, seconds=1, settings=stubborn))
    assert report.attempts == {"400": 1}


def test_arrivals_are_poisson():
    times = []
    for at_s in poisson(1000, random.Random(5)):  # noqa: S311  not for secrets
        if at_s > 20:
            break
        times.append(at_s)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_the_blocking_generator_counts_from_the_due_time_too():
    clock = AutoClock()
    took = generate(
        lambda number: clock.sleep(1.0 if number == 10 else 0.001), num_requests=200, clock=clock, rate_per_s=100
    )
    assert took[11] == pytest.approx(991, abs=0.1)
    closed = generate(lambda number: clock.sleep(1.0 if number == 10 else 0.001), num_requests=200, clock=clock)
    assert closed[11] == pytest.approx(1, abs=0.01)


@given(st.lists(st.integers(0, 1 << 39), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_within_the_stated_error(values_us, level):
    histogram = LatencyHistogram()
    for value in values_us:
        histogram.record(value / 1e6)
    exact = sorted(values_us)[max(1, int(np.ceil(level * len(values_us) - 1e-9))) - 1] / 1e3
    assert exact - 0.001 <= histogram.quantile_ms(level) <= exact * (1 + RELATIVE_ERROR) + 0.001
    assert histogram.num == len(values_us)


@given(st.lists(st.integers(0, 1 << 30)), st.lists(st.integers(0, 1 << 30)))
def test_merged_histograms_are_as_one(one, two):
    parts, whole = (LatencyHistogram(), LatencyHistogram()), LatencyHistogram()
    for part, values in zip(parts, (one, two), strict=True):
        for value in values:
            part.record(value / 1e6)
            whole.record(value / 1e6)
    parts[0].merge(parts[1])
    for level in (0.1, 0.5, 0.99, 1.0):
        np.testing.assert_equal(parts[0].quantile_ms(level), whole.quantile_ms(level))
    np.testing.assert_equal(parts[0].mean_ms, whole.mean_ms)
