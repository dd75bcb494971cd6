"""Seeds for the tests of faults: so many, or the one that `--seed` names."""

from __future__ import annotations

import pytest


@pytest.fixture
def seeds(request):
    """Return a function from a number to as many seeds."""
    chosen = request.config.getoption("--seed")
    return lambda number: range(number) if chosen is None else [chosen]
