"""Starts the process that the first argument names."""

from __future__ import annotations

import sys
from collections.abc import Callable

from datahall.core.registry import Registry

MAINS: Registry[Callable[[], int]] = Registry(
    "process",
    {
        "control": "datahall.app.mains.control:main",
        "gateway": "datahall.app.mains.gateway:main",
        "job": "datahall.app.mains.job:main",
        "replica": "datahall.app.mains.replica:main",
        "supervisor": "datahall.app.mains.supervisor:main",
    },
)

if __name__ == "__main__":
    sys.exit(MAINS.load(sys.argv[1])())
