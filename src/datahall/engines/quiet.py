"""Keeps numeric libraries to themselves: one thread, one process, and no word to their makers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Run the block with BLAS and OpenMP on one thread, and joblib without semaphores or workers.

    Summing in another order changes last bits, so a model's bytes would depend on the machine's number of cores.
    """
    import_skops()  # the pools must be loaded before they can be limited
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (comes with scikit-learn)

    with threadpool_limits(limits=1):
        yield


def import_skops() -> Any:
    """Import and return skops.io, and with it scikit-learn, so that joblib starts no workers."""
    # Read by joblib when it is first imported; without it, joblib tries to make a semaphore under /dev/shm.
    os.environ["JOBLIB_MULTIPROCESSING"] = "0"
    import skops.io  # noqa: PLC0415  (must come after the line above)

    return skops.io


def import_onnxruntime() -> Any:
    """Import and return onnxruntime with its telemetry off; nothing of ours imports it in another way.

    From 1.32 on, its Linux builds send events about every session and model to their maker, keep a device id and a
    database in the user's cache folder, and run a thread for it. The variable prevents all of it, but only before the
    first import (onnxruntime's Privacy.md); the call covers the rest where somebody else was first.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415  (must come after the line above)

    onnxruntime.disable_telemetry_events()
    return onnxruntime
