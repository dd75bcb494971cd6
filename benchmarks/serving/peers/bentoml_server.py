# /// script
# dependencies = ["bentoml==1.4.39", "scikit-learn==1.9.1"]
# ///
"""BentoML: a batchable endpoint with its default window, without its access log and metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from fit import arguments

    template, folder, port = arguments()
    os.environ |= {"BENCH_TEMPLATE": template, "BENCH_FOLDER": str(folder), "BENTOML_DO_NOT_TRACK": "True"}
    os.environ["BENTOML_HOME"] = str(folder / "home")
    os.chdir(Path(__file__).parent)
    words = ["serve", "bentoml_server:Model", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *words])  # noqa: S606  our own environment's

import bentoml
import numpy as np


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Model:
    """The service that `bentoml serve` imports."""

    def __init__(self) -> None:
        from fit import load  # noqa: PLC0415  (BentoML puts this folder on the path)

        self.model = load(os.environ["BENCH_TEMPLATE"], Path(os.environ["BENCH_FOLDER"]))

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=60000, route="/predict")
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows' classes."""
        return self.model.predict(rows)
