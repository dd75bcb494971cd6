"""Does an action of `scenarios.py` in a child of its own, which is killed, or whose disk fails, at one failpoint.

One order a line of standard input, one outcome a line of standard output, both JSON. This process has one thread, so a
fork is safe, and each child starts with everything imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from datahall.core import failpoints
from tests.faults.scenarios import SCENARIOS


class Hook:
    """Lets the process die, or a step fail, at the failpoint with one number; notes the names of all."""

    def __init__(self, *, kill_at=None, fail_at=None, code=0):
        self.reached = []
        self._kill_at, self._fail_at, self._code = kill_at, fail_at, code

    def __call__(self, name):
        number = len(self.reached)
        self.reached.append(name)
        if number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self._fail_at:
            raise OSError(self._code, os.strerror(self._code))


def do(order):
    """Do the action; return what was reached, and what was raised as the names of its class and those above it."""
    scenario = SCENARIOS[order.pop("scenario")]
    folder = Path(order.pop("folder"))
    hook, raised = Hook(**order), []
    try:
        with failpoints.armed(hook):
            scenario.act(folder)
    except Exception as error:  # noqa: BLE001  (whatever it is, the parent judges it)
        raised = [kind.__name__ for kind in type(error).__mro__]
    return {"reached": hook.reached, "raised": raised}


def in_a_child(order):
    """Return the outcome of the child, or the signal that ended it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as out:
            json.dump(do(order), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else {"signal": os.WTERMSIG(status)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(in_a_child(json.loads(line))), flush=True)  # noqa: T201  (its answer)
