"""Keeps numeric libraries within one thread and one process: same results each time, and fit for a sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Run the block with BLAS and OpenMP on one thread, and joblib without semaphores or workers.

    Summing in another order changes last bits, so a model's bytes would depend on the machine's number of cores.
    """
    # Read by joblib when it is first imported; without it, joblib tries to make a semaphore under /dev/shm.
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    # The pools must be loaded before they can be limited.
    import sklearn.utils  # noqa: F401, PLC0415  (heavy)
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (comes with scikit-learn)

    with threadpool_limits(limits=1):
        yield
