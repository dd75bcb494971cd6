# /// script
# dependencies = ["ray[serve]==2.60.0", "scikit-learn==1.9.1"]
# ///
"""Ray Serve: batches of 64 rows or 2 ms, its settings for throughput, one replica."""

from __future__ import annotations

import os

os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # read when ray is imported

import signal
import tempfile
from pathlib import Path

import numpy as np
import ray
from fit import arguments, load
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=2000, ray_actor_options={"num_cpus": 1})
class Model:
    """One request is one row; batching is Ray's own."""

    def __init__(self, template: str, folder: str) -> None:
        self.model = load(template, Path(folder))

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def many(self, rows: list[list[float]]) -> list[int]:
        """Return each row's class."""
        return self.model.predict(np.asarray(rows)).tolist()

    async def __call__(self, request: Request) -> dict[str, list[int]]:
        """Answer one request."""
        return {"predictions": [await self.many((await request.json())["rows"][0])]}


name, place, number = arguments()
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        _temp_dir=scratch,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    serve.run(Model.bind(name, str(place)), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
