"""What the gateways of a hall tell about themselves in its runtime folder, and which revision all of them follow."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from datahall.app.processes import is_running


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway that lives."""

    gateway: str
    pid: int
    started_at: float
    port: int
    """0 until it takes requests."""
    revision: int
    """Of the route table that it follows; -1 before the first."""
    draining: bool
    problem: str
    """Why it does not follow the newest table, or takes no keys; empty while all is well."""


def name_of(place: int) -> str:
    """Return the id of a hall's gateway: part of its answers' ids, so one place has the same for good."""
    return f"g{place + 1}"


def living(runtime: Path) -> tuple[GatewayState, ...]:
    """Return the gateways that live, in the order of their places; what a dead one has left is passed over."""
    found = []
    for path in runtime.glob("gateway-*.json"):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):  # it drained this moment
            state = msgspec.json.decode(path.read_bytes(), type=GatewayState)
            if is_running(state.pid, state.started_at):
                found.append(state)
    return tuple(sorted(found, key=lambda state: (len(state.gateway), state.gateway)))


def acknowledged(runtime: Path) -> int:
    """Return the lowest route revision that the living gateways follow, 0 where none lives.

    One that starts is counted from before it reads its first table on, with revision -1: so it either reads what was
    published before somebody asked here, or holds up whoever asks.
    """
    return min((state.revision for state in living(runtime)), default=0)
