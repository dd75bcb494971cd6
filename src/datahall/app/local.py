"""Becomes the process that holds a hall, for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datahall.app.control import Control
from datahall.app.owner import ensure_owner
from datahall.app.wiring import open_hall
from datahall.core.hall import HallPaths


@contextmanager
def local_control(paths: HallPaths) -> Iterator[Control]:
    """Open the hall, mend what an earlier holder left half done, and yield its operations."""
    with open_hall(paths) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        control = Control(hall)
        control.recover()
        control.seal()
        yield control
