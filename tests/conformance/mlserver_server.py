"""Run in MLServer's own environment: serves a logistic regression that is fitted here from the rows of a file.

Usage: python mlserver_server.py ROWS.json PORT
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression

table, port = Path(sys.argv[1]), int(sys.argv[2])
given = json.loads(table.read_text(encoding="utf-8"))
here = table.parent
joblib.dump(LogisticRegression().fit(np.array(given["rows"]), given["labels"]), here / "model.joblib")
with socket.socket() as first, socket.socket() as second:
    first.bind(("127.0.0.1", 0))
    second.bind(("127.0.0.1", 0))
    others = first.getsockname()[1], second.getsockname()[1]
settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": others[0], "metrics_port": others[1]}
# Workers of its own need an event loop that newer versions of uvloop no longer make.
settings |= {"parallel_workers": 0, "debug": False}
(here / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
model = {"name": "flowers", "implementation": "mlserver_sklearn.SKLearnModel"}
model |= {"parameters": {"uri": str(here / "model.joblib"), "version": "1.0.0"}}
(here / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
start = "from mlserver.cli import main; main()"
os.execv(sys.executable, [sys.executable, "-c", start, "start", str(here)])  # noqa: S606  our own environment's program
