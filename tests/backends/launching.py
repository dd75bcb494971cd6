"""Starts `launch_main.py` with actions and returns what came of them."""

from __future__ import annotations

from pathlib import Path

from datahall.backends.launch.local import LocalLauncher
from datahall.core.jobs import Message
from datahall.core.ports.launching import ProcessSpec

ENTRY = (str(Path(__file__).with_name("launch_main.py")),)


def spec(*actions: tuple[object, ...], name: str = "test", main: str = "job", **fields: object) -> ProcessSpec:
    return ProcessSpec(main=main, name=name, request={"actions": actions}, **fields)


def run(launcher: LocalLauncher, *actions: tuple[object, ...], **fields: object) -> list[Message]:
    return list(launcher.start(spec(*actions, **fields)).messages())


def result(launcher: LocalLauncher, *actions: tuple[object, ...], **fields: object) -> list[object]:
    last = run(launcher, *actions, **fields)[-1]
    assert last.failure is None, last.failure
    return last.result
