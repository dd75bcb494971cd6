"""How many rows a batch should have: a sweep for a forest and a net in ONNX Runtime, and what a replica makes of it.

Run it on a quiet machine: `python benchmarks/batch_cap.py`. The first figures of each model are the model's alone, on
rows that are new in every call and on the same rows again and again: a processor learns the branches that a few rows
take through trees, so the second kind flatters small batches, and no traffic is like it. The third are a replica's
own, frames included; the cap follows from those.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from datahall.core.canonical import digest_bytes, digest_of
from datahall.core.ports import Predictor
from datahall.core.records import BundleManifest, Column
from datahall.engines.bundle import pack
from datahall.engines.open import open_predictor
from datahall.engines.versions import engine_versions
from datahall.optimize.convert import to_onnx
from datahall.serve.calibration import SIZES, calibrate
from datahall.serve.replica import warm_up

CALLS = 60


def main() -> None:
    """Print microseconds a row by batch, and the cap."""
    from sklearn.datasets import load_breast_cancer, load_digits  # noqa: PLC0415  heavy, wanted only here
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415  as above
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415  as above

    print(f"{'microseconds a row, batches of':<38}" + "".join(f"{size:>7}" for size in SIZES) + "    cap")
    _measure("forest(100)", RandomForestClassifier(100, random_state=0), *load_breast_cancer(return_X_y=True))
    _measure("MLP(128, 64)", MLPClassifier((128, 64), random_state=0, max_iter=60), *load_digits(return_X_y=True))


def _measure(name: str, model: Any, features: np.ndarray, target: np.ndarray) -> None:
    predictor: Any = _bundled(name, model.fit(features.astype(np.float32), target), features.shape[1])
    rows = np.random.default_rng(0).permutation(features)
    new = [_a_row(predictor.predict_table, rows, size, step=size) for size in SIZES]
    same = [_a_row(predictor.predict_table, rows, size, step=0) for size in SIZES]
    samples = warm_up(predictor)
    _line(f"{name}, new rows each call", new)
    _line(f"{name}, the same rows again", same)
    _line(f"{name}, a replica's own figures", [s.time_us / s.num_rows for s in samples], calibrate(samples))


def _a_row(predict: Callable[[np.ndarray], object], rows: np.ndarray, size: int, *, step: int) -> float:
    times = []
    for call in range(CALLS):
        start = call * step % (len(rows) - size)
        table = rows[start : start + size].copy()
        began = time.perf_counter_ns()
        predict(table)
        times.append((time.perf_counter_ns() - began) / 1e3 / size)
    return statistics.median(times)


def _line(what: str, figures: list[float], cap: int | None = None) -> None:
    print(f"{what:<38}" + "".join(f"{figure:>7.2f}" for figure in figures) + (f"{cap:>7}" if cap else ""))


def _bundled(name: str, model: Any, num_features: int) -> Predictor:
    files = {"model.onnx": to_onnx(model, "classification", num_features)}
    packages = engine_versions("onnx")
    manifest = BundleManifest(
        app=name,
        task="classification",
        engine="onnx",
        engine_settings={"packages": packages},
        features=tuple(Column(name=f"f{place}", kind="number") for place in range(num_features)),
        target=Column(name="kind", kind="category", categories=tuple(map(str, model.classes_))),
        threshold=None,
        environment=digest_of(packages),
        files={file: digest_bytes(data) for file, data in files.items()},
    )
    return open_predictor(pack(manifest, files))


if __name__ == "__main__":
    main()
