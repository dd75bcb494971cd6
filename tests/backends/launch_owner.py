"""Owns launched processes until it is killed: prints their process ids as one line of JSON, then waits."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from datahall.backends.launch.local import LocalLauncher
from datahall.core.ports.launching import ProcessSpec


def main():
    folder, kind, actions = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    launcher = LocalLauncher(folder / "logs", folder / "work", entry=(str(Path(__file__).with_name("launch_main.py")),))
    process = launcher.start(ProcessSpec(main=kind, name="owned", request={"actions": actions}))
    pids = [process.pid]
    for action in actions:
        if action[0] in {"grandchild", "progress"}:
            message = next(iter(process.messages()))
            pids += [int(pid) for pid in message.progress.figures.values()]
    print(json.dumps({"pids": pids}), flush=True)  # noqa: T201  (what its reader waits for)
    signal.pause()


main()
