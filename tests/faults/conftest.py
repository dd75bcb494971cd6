"""Seeds for the tests of faults, and folders in memory: the faults are simulated, so no sync has to wait for a disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # noqa: S108  (folders made in it are private)


@pytest.fixture
def seeds(request):
    """Return a function from a number to as many seeds, or to the one that `--seed` names."""
    chosen = request.config.getoption("--seed")
    return lambda number: range(number) if chosen is None else [chosen]


@pytest.fixture(scope="module")
def memory():
    """Return a function that makes empty folders, on a disk where the system has none in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder))


@pytest.fixture
def tmp_path(memory):
    return memory()
