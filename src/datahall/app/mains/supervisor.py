"""The supervisor process of a hall that runs in the background."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from datahall.app.supervisor import supervise
from datahall.core.errors import DatahallError
from datahall.core.hall import HallPaths


class SupervisorOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor process reads from its standard input."""

    hall: str
    host: str
    port: int
    num_gateways: int | None = None


def main() -> int:
    """Supervise the hall that standard input names."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=SupervisorOrder)
    try:
        return supervise(
            HallPaths(Path(order.hall)),
            order.host,
            order.port,
            num_gateways=order.num_gateways,
            started=lambda _: None,
        )
    except DatahallError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
