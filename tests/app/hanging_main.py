"""A replica process whose model hangs on certain rows, in the way that its first argument names; else production's."""

from __future__ import annotations

import ctypes
import sys
import threading

import msgspec

from datahall.backends.launch.child import enter
from datahall.core.jobs import Message, Progress

HANG, SLOW = -666.0, -333.0
"""First columns of rows that are never answered, and of those that take `SLOW_SECONDS`."""
SLOW_SECONDS = 0.8


def main():
    context = enter()
    from datahall.engines.open import open_predictor  # noqa: PLC0415  no thread may be older than the confinement
    from datahall.serve import replica  # noqa: PLC0415  as above

    class Hanging:
        def __init__(self, predictor):
            self.predictor = predictor
            self.manifest = predictor.manifest

        def predict(self, columns):
            first = columns[self.manifest.features[0].name]
            if (first == HANG).any():
                hang()
            if (first == SLOW).any():
                threading.Event().wait(SLOW_SECONDS)
            return self.predictor.predict(columns)

    how = sys.argv[1]
    request = msgspec.json.decode(context.request, type=replica.ReplicaRequest)
    request = msgspec.structs.replace(request, inline_us=1e9 if how == "on the loop" else 0)

    def hang():
        if how == "with the interpreter's lock":
            ctypes.PyDLL(None).pause()
        threading.Lock().acquire() and threading.Event().wait()

    return replica.run(
        request,
        context.memfds[0],
        open_predictor=lambda packed, num_threads: Hanging(open_predictor(packed, num_threads=num_threads)),
        listening=lambda: context.send(Message(progress=Progress(done=1, total=1, message="ready"))),
    )


if __name__ == "__main__":
    sys.exit(main())
