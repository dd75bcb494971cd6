"""Becomes the process that holds a hall, for the length of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

from datahall.app.control import Control
from datahall.app.owner import ensure_owner
from datahall.app.sealing import Sealer
from datahall.app.wiring import open_hall
from datahall.core.hall import HallPaths


@contextmanager
def local_control(paths: HallPaths, *, listen: bool = False) -> Iterator[Control]:
    """Open the hall, mend what an earlier holder left half done, and yield its operations.

    With `listen`, other commands can ask too while this one goes on: `ps` during a long run.
    """
    with open_hall(paths) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        control = Control(hall)
        control.recover()
        sealer = Sealer(hall.catalogue, hall.paths.answers, hall.clock)
        sealer.seal()
        control.watch(lambda: sealer.problems)
        with ExitStack() as stack:
            if listen:
                api = import_module("datahall.app.http.api").make_api(control, hall.catalogue, hall.clock)
                beside = import_module("datahall.app.http.listen").serving_beside
                stack.enter_context(beside(api, paths.control_socket()))
            yield control
