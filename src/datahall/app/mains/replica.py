"""A replica process: unpacks nothing onto a disk, holds no key, and answers on one Unix socket."""

from __future__ import annotations

from importlib import import_module

import msgspec

from datahall.backends.launch.child import enter
from datahall.core.errors import DatahallError
from datahall.core.jobs import Failure, Message, Progress


def main() -> int:
    """Serve the bundle in the first memory file until told to stop."""
    context = enter()
    # Only now: numerical libraries start threads, and a thread that is older than the confinement is free of it.
    replica = import_module("datahall.serve.replica")
    request = msgspec.json.decode(context.request, type=replica.ReplicaRequest)

    def ready() -> None:
        context.send(Message(progress=Progress(done=1, total=1, message="ready")))

    try:
        return int(replica.run(request, context.memfds[0], listening=ready))
    except DatahallError as error:
        failure = Failure(error=type(error).__name__, what=error.what, where=error.where, hint=error.hint)
        context.send(Message(failure=failure))
        return error.exit_code
