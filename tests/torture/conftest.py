"""Halls to be tortured, each in a folder of its own."""

from __future__ import annotations

import contextlib

import pytest

from tests.torture.hall import TorturedHall


@pytest.fixture
def make_hall(tmp_path_factory):
    """Return a function that makes a hall; every process of it ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(*options, zygote=True):
            hall = TorturedHall(tmp_path_factory.mktemp("t"), *options, zygote=zygote)
            stack.callback(hall.close)
            return hall

        yield make
