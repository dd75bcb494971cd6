"""Parts of a hall by themselves: a replica from nothing to its first answer, and a model at growing batches."""

from __future__ import annotations

import csv
import os
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.serving.hall import Hall
from datahall.app.replicas import wait_ready
from datahall.app.wiring import open_hall
from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.hall import HallPaths
from datahall.core.records import Bundle, Deployment
from datahall.engines.open import open_predictor
from datahall.serve.calibration import SIZES, calibrate
from datahall.serve.replica import warm_up

_CALLS = 60


def replica_starts(made: Hall, *, core: int, count: int) -> list[float]:
    """Start a replica `count` times on one core of a hall that does not run.

    Returns, for each, the seconds from the order to its first answer, verification of the bundle included.
    """
    columns = _columns(made.table)
    found = []
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with open_hall(HallPaths(made.folder)) as hall:
            deployment = hall.catalogue.find(Deployment, state="live")[0]
            bundle = hall.catalogue.get(Bundle, deployment.bundle)
            for number in range(count):
                name = f"bench-{number}"
                began = time.monotonic()
                process = hall.replicas.start(name, bundle, deployment.team)
                try:
                    wait_ready(process)
                    answerer = UnixAnswerer(hall.replicas.address(name))
                    answerer.answer({column: values[:1] for column, values in columns.items()})
                    found.append(time.monotonic() - began)
                    answerer.close()
                finally:
                    process.stop(10.0)
                    hall.replicas.forget(name)
    finally:
        os.sched_setaffinity(0, before)
    return found


class Batches(NamedTuple):
    """A model at growing batches, in this process on one core."""

    row_us: dict[int, float]
    """The number of rows of a call to the median microseconds a row; every call has other rows than the last."""
    cap: int
    """The number of rows at which a replica of it aims, from the measurement of its own start."""


def batches(made: Hall, *, core: int) -> Batches:
    """Measure the model of a hall that does not run, in the way in which a replica calls it."""
    table = np.column_stack(list(_columns(made.table).values()))
    with open_hall(HallPaths(made.folder)) as hall:
        deployment = hall.catalogue.find(Deployment, state="live")[0]
        packed = hall.vault.read(deployment.team, hall.catalogue.get(Bundle, deployment.bundle).artifact)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        predictor: Any = open_predictor(packed, num_threads=1)
        cap = calibrate(warm_up(predictor))
        found = {}
        for num_rows in SIZES:
            took = []
            for call in range(_CALLS):
                start = call * num_rows % (len(table) - num_rows)
                rows = table[start : start + num_rows].copy()
                began = time.perf_counter_ns()
                predictor.predict_table(rows)
                took.append(time.perf_counter_ns() - began)
            found[num_rows] = statistics.median(took) / 1000 / num_rows
    finally:
        os.sched_setaffinity(0, before)
    return Batches(found, cap)


def _columns(table: Path) -> dict[str, np.ndarray]:
    """Return a table's features, whose last column is the target."""
    with table.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    matrix = np.array([[float(value) for value in row[:-1]] for row in rows])
    return {name: matrix[:, index].copy() for index, name in enumerate(names[:-1])}
