"""The gateway process: everything it needs comes in one order on its standard input."""

from __future__ import annotations

import os
import sys

import msgspec

from datahall.app.lifeline import hold
from datahall.app.processes import started_at
from datahall.app.supervisor import GatewayOrder
from datahall.backends.transport.unix import UnixTransport
from datahall.core.clock import SystemClock
from datahall.serve.gateway import serve


def main() -> int:
    """Serve until told to stop."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=GatewayOrder)
    hold(order.lifeline)
    config = msgspec.structs.replace(order.config, started_at=started_at(os.getpid()))
    return serve(config, transport=UnixTransport(), clock=SystemClock(), listening=lambda _: None)
