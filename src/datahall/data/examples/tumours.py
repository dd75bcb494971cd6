"""The Wisconsin diagnostic breast-cancer table: 569 real fine-needle aspirates, 30 measurements of cell nuclei."""

from __future__ import annotations

import csv
from pathlib import Path


def write(folder: Path) -> Path:
    """Write `tumours.csv` (569 rows: 357 benign, 212 malignant) into `folder` and return its path.

    Source: W. N. Street, W. H. Wolberg, O. L. Mangasarian, Nuclear feature extraction for breast tumor diagnosis,
    1993; UCI Machine Learning Repository, CC BY 4.0; as scikit-learn carries it. The table names no patients, so
    each row counts as one case of its own.
    """
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415  (heavy, and only for this template)

    table = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in table.feature_names]
    path = folder / "tumours.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "diagnosis"])
        for values, target in zip(table.data, table.target, strict=True):
            writer.writerow([*(repr(float(value)) for value in values), table.target_names[target]])
    return path
