"""Gateways that share a listening socket take about equally many connections, and none is held up by one that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from types import SimpleNamespace

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from datahall.serve.door import ABSENT, Board, Door, make_board

BOUND_SECONDS = 10.0


class Guest(asyncio.Protocol):
    """A connection that says which gateway took it, and tells the door when it comes and goes."""

    def __init__(self, gateway):
        self._gateway = gateway

    def connection_made(self, transport):
        self._transport = transport
        self._gateway.guests.add(self)
        self._gateway.door.inside(len(self._gateway.guests))
        transport.write(bytes([self._gateway.place]))

    def connection_lost(self, error):
        del error
        self._gateway.guests.discard(self)
        self._gateway.door.inside(len(self._gateway.guests))
        if not self._gateway.guests:
            self._gateway.empty.set()


class Gateway:
    """One door with its own descriptor of the shared socket, as a process of its own has it."""

    def __init__(self, listener, board, place, kind=socket.socket):
        self.place, self.guests, self.empty = place, set(), asyncio.Event()
        own = kind(fileno=os.dup(listener.fileno()))
        own.setblocking(False)
        self.door = Door(own, lambda: Guest(self), board=Board(board), place=place)


class House:
    def __init__(self, num_places):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.board = make_board(num_places)
        self.counts = Board(self.board)
        self.gateways, self.clients = [], []

    def open(self, place, **kind):
        self.gateways.append(Gateway(self.listener, self.board, place, **kind))
        return self.gateways[-1]

    async def come(self):
        """Connect; return the streams and the place of the gateway that took the connection."""
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        self.clients.append(writer)
        return reader, writer, (await asyncio.wait_for(reader.readexactly(1), BOUND_SECONDS))[0]

    async def close(self):
        for writer in self.clients:
            writer.close()
        for gateway in self.gateways:
            gateway.door.close()
        self.listener.close()
        self.counts.close()
        os.close(self.board)


def in_house(num_places, act):
    async def main():
        house = House(num_places)
        try:
            return await act(house)
        finally:
            await house.close()

    return uvloop.run(main())


async def share_out(house, num_connections=20):
    for place in range(2):
        house.open(place)
    return [(await house.come())[2] for _ in range(num_connections)]


def test_two_gateways_get_as_many_connections_each():
    took = in_house(2, share_out)
    assert took.count(0) == took.count(1) == 10


def test_who_insists_takes_a_part_and_leaves_the_others_theirs(monkeypatch):
    taken = []
    monkeypatch.setattr(Door, "_take", lambda _: taken.append(1) or True)

    async def act(house):
        house.open(0).door._insist()
        return len(taken)

    assert in_house(2, act) <= 16


def test_control_without_the_board_one_gateway_gets_more(monkeypatch):
    monkeypatch.setattr(Board, "somebody_has_fewer", lambda *_: False)
    took = in_house(2, share_out)
    assert took.count(0) != took.count(1)


async def rounds_until_all_are_in(num_clients):
    """Return in how many rounds of its loop a lone gateway takes clients who all wait at its door."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(num_clients)]
    inside, rounds = set(), 0
    gateway = SimpleNamespace(
        door=SimpleNamespace(inside=lambda _: None), guests=inside, place=0, empty=asyncio.Event()
    )
    door = Door(listener, lambda: Guest(gateway))
    while len(inside) < num_clients:
        await asyncio.sleep(0)
        rounds += 1
    door.close()
    for client in clients:
        client.close()
    return rounds


def test_a_lone_gateway_takes_who_waits_in_few_rounds_of_its_loop():
    assert uvloop.run(rounds_until_all_are_in(60)) < 20


def test_control_one_a_round_they_wait_for_as_many_rounds(monkeypatch):
    monkeypatch.setattr("datahall.serve.door._NUM_AT_ONCE", 1)
    assert uvloop.run(rounds_until_all_are_in(60)) >= 60


def test_one_that_hangs_with_fewer_connections_holds_up_nobody():
    async def act(house):
        house.counts[1] = 0  # it says that it is there and takes nothing
        house.open(0)
        return [(await house.come())[2] for _ in range(5)]

    assert in_house(2, act) == [0] * 5


def test_a_connection_that_ends_makes_room_for_the_next():
    async def act(house):
        one, other = house.open(0), house.open(1)
        come = [await house.come() for _ in range(4)]
        for _, writer, place in come:
            if place == 0:
                writer.close()
        await asyncio.wait_for(one.empty.wait(), BOUND_SECONDS)
        assert (house.counts[0], house.counts[1], len(other.guests)) == (0, 2, 2)
        return [(await house.come())[2] for _ in range(2)]

    assert in_house(2, act) == [0, 0]


def test_what_waits_at_a_closed_door_is_taken_by_another():
    async def act(house):
        first = house.open(0)
        await house.come()
        first.door.close()
        first.door.close = lambda: None
        assert house.counts[0] == ABSENT
        coming = asyncio.ensure_future(house.come())
        reader, writer = await asyncio.open_connection(*house.listener.getsockname())
        house.clients.append(writer)
        house.open(1)
        waited = (await asyncio.wait_for(reader.readexactly(1), BOUND_SECONDS))[0]
        return (await coming)[2], waited

    assert in_house(2, act) == (1, 1)


class Poor(socket.socket):
    """A socket of a process that has no descriptor left, three times."""

    num_left = 3

    def accept(self):
        if self.num_left:
            self.num_left -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


def test_without_descriptors_it_rests_and_goes_on(monkeypatch):
    monkeypatch.setattr("datahall.serve.door.REST_S", 0.001)

    async def act(house):
        gateway = house.open(0, kind=Poor)
        place = (await house.come())[2]
        assert gateway.door._listener.num_left == 0
        return place

    assert in_house(1, act) == 0


def test_a_client_that_left_before_it_was_taken_hurts_nobody():
    async def act(house):
        for _ in range(3):
            with contextlib.closing(socket.create_connection(house.listener.getsockname())) as hasty:
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it leaves by a reset
        house.open(0)
        return (await house.come())[2]

    assert in_house(1, act) == 0


@given(st.lists(st.integers(min_value=ABSENT, max_value=5), min_size=1, max_size=8), st.data())
def test_of_those_that_are_there_the_one_with_the_fewest_never_waits(counts, data):
    place = data.draw(st.integers(min_value=0, max_value=len(counts) - 1))
    descriptor = make_board(len(counts))
    board = Board(descriptor)
    try:
        for index, count in enumerate(counts):
            board[index] = count
        present = [count for count in counts if count != ABSENT]
        waits = board.somebody_has_fewer(place)
        if counts[place] != ABSENT:
            assert waits == (counts[place] > min(present))
        assert [board[index] for index in range(len(counts))] == counts
    finally:
        board.close()
        os.close(descriptor)


def test_a_place_that_is_not_on_the_board_is_an_error():
    descriptor = make_board(2)
    board = Board(descriptor)
    with pytest.raises(IndexError):
        board[2] = 1
    board.close()
    os.close(descriptor)
