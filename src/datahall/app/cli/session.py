"""Reaches a hall: talks to the process that holds it, or becomes that process."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from datahall.app.supervision import START_SECONDS, read_state
from datahall.core.clock import SystemClock
from datahall.core.errors import HallBusyError, NotFoundError
from datahall.core.hall import DEFAULT_FOLDER, HallPaths

if TYPE_CHECKING:
    from datahall.app.control import Operations


LISTENS_WITHIN_S = 5.0
"""A command that holds the hall answers others from its second second on."""


@contextmanager
def connect(paths: HallPaths, *, create: bool = False, listen: bool = False) -> Iterator[Operations]:
    """Yield the operations of the hall in `paths`; with `listen`, answer other commands meanwhile.

    Raises NotFoundError where there is no hall and `create` is False, HallBusyError where another command holds it.
    """
    if not paths.exists and not create:
        raise NotFoundError(f"there is no hall in {paths.root}", hint=_other_hall(paths))
    if _is_up_soon(paths):
        with _remote(paths) as remote:
            yield remote
        return
    # Only now: whoever talks to a running hall never loads the database.
    local = import_module("datahall.app.local")
    with ExitStack() as stack:
        try:
            control = stack.enter_context(local.local_control(paths, listen=listen))
        except HallBusyError:
            if not _waited_for(lambda: is_up(paths), LISTENS_WITHIN_S):
                raise
        else:
            yield control
            return
    # Another command holds the hall, and answers once it has taken a second.
    with _remote(paths) as remote:
        yield remote


@contextmanager
def _remote(paths: HallPaths) -> Iterator[Operations]:
    remote = import_module("datahall.app.remote").RemoteControl(paths.control_socket(), owner_key(paths))
    try:
        yield remote
    finally:
        remote.close()


def _other_hall(paths: HallPaths) -> str:
    """Return what to do where no hall is: one of a folder above may be meant."""
    for folder in paths.root.parent.parents:
        if HallPaths(folder / DEFAULT_FOLDER).exists:
            return f"there is one above: datahall --hall {shlex.quote(str(folder / DEFAULT_FOLDER))} ..."
    return "make one with: datahall run app.yaml"


def is_up(paths: HallPaths) -> bool:
    """Whether control answers on its socket."""
    if not paths.exists:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(paths.control_socket()))
        except OSError:
            return False
    return True


def _is_up_soon(paths: HallPaths) -> bool:
    """Whether control answers, waiting while a living supervisor is still starting it."""
    return _waited_for(lambda: is_up(paths), START_SECONDS, going_on=lambda: read_state(paths) is not None)


def _waited_for(holds: Callable[[], bool], seconds: float, *, going_on: Callable[[], bool] = lambda: True) -> bool:
    """Return whether `holds` within that time, as long as it is `going_on`."""
    clock = SystemClock()
    deadline = clock.monotonic_ns() + int(seconds * 1e9)
    while not holds():
        if not going_on() or clock.monotonic_ns() > deadline:
            return False
        clock.sleep(0.05)
    return True


def owner_key(paths: HallPaths) -> str:
    """Return the owner's key, which only this user can read."""
    return paths.owner_key.read_text().strip()
