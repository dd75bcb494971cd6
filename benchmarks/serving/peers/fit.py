"""The model that every peer serves: fitted once for each environment, by that environment's own scikit-learn."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def arguments() -> tuple[str, Path, int]:
    """Return what a peer is told: `digits` or `tumours`, the folder that is its own, and the port."""
    template, folder, port = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return template, Path(folder).resolve(), int(port)


def model_file(template: str, folder: Path) -> Path:
    """Return the path of the fitted model, fitting it if this folder has none yet."""
    path = folder / f"{template}.joblib"
    if not path.exists():
        import joblib  # noqa: PLC0415  (a server that starts again needs none of this)
        from sklearn.datasets import load_breast_cancer, load_digits  # noqa: PLC0415
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415
        from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

        table = load_digits() if template == "digits" else load_breast_cancer()
        if template == "digits":
            model = MLPClassifier((128, 64), random_state=0)
        else:
            model = RandomForestClassifier(100, random_state=0)
        joblib.dump(model.fit(table.data, table.target), path)
    return path


def load(template: str, folder: Path) -> Any:
    """Return the fitted model."""
    import joblib  # noqa: PLC0415

    return joblib.load(model_file(template, folder))
