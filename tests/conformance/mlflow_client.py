"""Run in MLflow's own environment: its two clients against a hall, which print what they got as JSON.

Usage: python mlflow_client.py HOST PORT KEY
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pandas as pd

HOST, PORT, KEY = sys.argv[1:]
os.environ["MLFLOW_TRACKING_TOKEN"] = KEY

from mlflow.deployments import get_deploy_client  # noqa: E402  its settings are read at import
from mlflow.pyfunc.scoring_server.client import ScoringServerClient  # noqa: E402  as above

FRAME = pd.DataFrame({"petal width": [0.0, np.nan], "petal length": [1.5, -2.0]})

RECORDS = json.dumps({"dataframe_records": [{"petal length": 3, "petal width": None}]})
"""As text: this version of the client cannot send a dictionary."""


def main() -> dict[str, object]:
    scoring = ScoringServerClient(f"key:{KEY}@{HOST}", PORT)
    scoring.wait_server_ready(timeout=10)
    shown: dict[str, object] = {
        "version": scoring.get_version(),
        "frame": scoring.invoke(FRAME).get_predictions().to_dict("list"),
        "array": scoring.invoke(FRAME[["petal length", "petal width"]].to_numpy()).get_predictions("ndarray").tolist(),
        "records": scoring.invoke(RECORDS),
    }
    deployments = get_deploy_client(f"http://{HOST}:{PORT}")
    shown["deployments"] = deployments.predict(endpoint="flowers", inputs={"instances": [[1.5, 0.0], [-2.0, 1.0]]})
    for name, act in (
        ("bad frame", lambda: scoring.invoke(FRAME.rename(columns={"petal width": "width"}))),
        ("params", lambda: scoring.invoke(FRAME, params={"temperature": 1})),
        ("no key", lambda: ScoringServerClient(HOST, PORT).invoke(FRAME)),
        ("nobody", lambda: deployments.predict(endpoint="nobody", inputs={"instances": [[1.5, 0.0]]})),
    ):
        try:
            act()
        except Exception as error:  # noqa: BLE001  this client raises nothing narrower
            shown[name] = str(error)
    return shown


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
