# /// script
# dependencies = [
#     "mlserver==1.7.1", "mlserver-sklearn==1.7.1",
#     "uvloop==0.21.0", # later ones end MLServer's start: there is no current event loop
#     "scikit-learn==1.9.1",
# ]
# ///
"""MLServer with its scikit-learn runtime: adaptive batching of 64 rows or 2 ms, no workers beside the server."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from fit import arguments, model_file

template, folder, port = arguments()
with socket.socket() as first, socket.socket() as second:
    first.bind(("127.0.0.1", 0))
    second.bind(("127.0.0.1", 0))
    others = first.getsockname()[1], second.getsockname()[1]
settings = {
    "host": "127.0.0.1",
    "http_port": port,
    "grpc_port": others[0],
    "metrics_port": others[1],
    "metrics_endpoint": None,
    "parallel_workers": 0,
    "debug": False,
}
model = {
    "name": template,
    "implementation": "mlserver_sklearn.SKLearnModel",
    "max_batch_size": 64,
    "max_batch_time": 0.002,
    "parameters": {"uri": str(model_file(template, folder))},
}
here = folder / template
here.mkdir(exist_ok=True)
(here / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
(here / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
os.environ["MLSERVER_PARALLEL_WORKERS"] = "0"
program = Path(sys.executable).with_name("mlserver")
os.execv(sys.executable, [sys.executable, str(program), "start", str(here)])  # noqa: S606  our own environment's
