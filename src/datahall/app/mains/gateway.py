"""The gateway process: everything it needs comes in one order on its standard input."""

from __future__ import annotations

import sys

import msgspec

from datahall.app.lifeline import hold
from datahall.app.supervisor import GatewayOrder
from datahall.backends.transport.unix import connect
from datahall.core.clock import SystemClock
from datahall.serve.gateway import serve


def main() -> int:
    """Serve until told to stop."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=GatewayOrder)
    hold(order.lifeline)
    return serve(order.config, connect=connect, clock=SystemClock(), listening=lambda _: None)
