# /// script
# dependencies = ["mlflow==3.17.2", "scikit-learn==1.9.1"]
# ///
"""MLflow's own server of models, with one worker."""

from __future__ import annotations

import os
import sys

from fit import arguments, load

template, folder, port = arguments()
here = folder / f"{template}.mlflow"
if not here.exists():
    import mlflow.sklearn

    mlflow.sklearn.save_model(load(template, folder), here, serialization_format="cloudpickle")
words = ["models", "serve", "-m", str(here), "--env-manager", "local", "--workers", "1", "-h", "127.0.0.1"]
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # noqa: PTH120  it looks for its server there
os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words, "-p", str(port)])  # noqa: S606  our own environment's
