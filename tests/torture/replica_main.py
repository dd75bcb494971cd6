"""One replica process for the torture of replicas: production's server, and a model that a test can slow down."""

from __future__ import annotations

import json
import mmap
import struct
import sys
import threading
from pathlib import Path

import numpy as np

from datahall.core.records import BundleManifest, Column
from datahall.serve.replica import ReplicaRequest, run

MANIFEST = BundleManifest(
    app="flowers",
    task="regression",
    engine="sklearn",
    engine_settings={},
    features=(Column(name="x", kind="number"),),
    target=Column(name="y", kind="number"),
    threshold=None,
    environment="e" * 64,
    files={},
)


class SlowPredictor:
    """Answers the double of each number, after as many seconds as a shared page of memory says."""

    manifest = MANIFEST

    def __init__(self, page):
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self._never = threading.Event()

    def predict(self, columns):
        (delay_s,) = struct.unpack("d", self._page[:8])
        self._never.wait(delay_s)
        y = np.asarray(columns["x"]) * 2
        return {"label": y, "lower": y - 1, "upper": y + 1}


def main():
    """Serve until told to stop; the order is a line of JSON on standard input."""
    order = json.loads(sys.stdin.readline())
    page = Path(order.pop("page"))
    return run(ReplicaRequest(**order), b"", open_predictor=lambda *_, **__: SlowPredictor(page))


if __name__ == "__main__":
    sys.exit(main())
