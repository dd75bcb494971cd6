"""Becomes the process that holds a hall, for the length of one command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module

from datahall.app.control import Control
from datahall.app.owner import ensure_owner
from datahall.app.sealing import Sealer
from datahall.app.wiring import Hall, open_hall
from datahall.core.hall import HallPaths

LISTEN_AFTER_S = 1.0


@contextmanager
def local_control(paths: HallPaths, *, listen: bool = False) -> Iterator[Control]:
    """Open the hall, mend what an earlier holder left half done, and yield its operations.

    With `listen`, other commands can ask too while this one goes on: `ps` during a long run.
    """
    with open_hall(paths) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        control = Control(hall)
        control.recover()
        sealer = Sealer(hall.catalogue, hall.vault, hall.paths.answers, hall.keys.answer_key, hall.clock)
        sealer.attempt()
        control.watch(lambda: sealer.problems)
        with _listening(control, hall) if listen else nullcontext():
            yield control


@contextmanager
def _listening(control: Control, hall: Hall) -> Iterator[None]:
    """Answer on the hall's socket once this command has taken a second: shorter ones need not load a web framework."""
    over = threading.Event()

    def serve() -> None:
        if not over.wait(LISTEN_AFTER_S):
            api = import_module("datahall.app.http.api").make_api(control, hall.catalogue, hall.clock)
            with import_module("datahall.app.http.listen").serving_beside(api, hall.paths.control_socket()):
                over.wait()

    thread = threading.Thread(target=serve, name="listening", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
