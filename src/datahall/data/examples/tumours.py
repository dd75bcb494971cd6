"""The Wisconsin diagnostic breast-cancer table: 569 real fine-needle aspirates, 30 measurements of cell nuclei."""

from __future__ import annotations

import csv
from pathlib import Path

from datahall.data.examples.template import Template

APP_FILE = """\
# Tell malignant from benign tumours by 30 measurements of cell nuclei.
# Everything that `datahall run` does follows from this file; `datahall plan` shows it beforehand.
datahall: 1
name: tumours
task: classification

data:
  sources: [tumours.csv]   # one row a case, 569 of them
  target: diagnosis        # benign or malignant; every other column is a feature
  columns:                 # the contract: a row that breaks it stops the run and is shown
    mean_radius: {kind: number, min: 0, max: 100, nullable: false}
    diagnosis: {values: [benign, malignant]}
  split: {holdout: 0.3, validation: 0.2, seed: 0}   # no training ever sees the holdout

train:
  candidates:
    surface:               # as little as a person could judge by eye
      model: forest
      num_trees: 25
      columns: [mean_texture, mean_smoothness, mean_symmetry]
    logistic:              # all 30 measurements, in a model that a doctor can read
      model: logistic
  seeds: 5                 # each candidate is fitted five times, to see what chance does

evaluate:
  claims:                  # written before any fit; only the bound of the interval counts, never the estimate
    - kind: accuracy
      metric: accuracy
      at_least: 0.92
      reason: the largest radius alone, cut at the best place, is right in 92 of 100 cases of this table
    - kind: improvement
      metric: balanced_accuracy
      at_least: 0.2
      reason: whoever always says benign scores 0.5 here; a fifth better is the least that earns attention
    - kind: calibration
      at_most: 0.12
      reason: a stated 95 % must not mean less than 83 %, or nobody can weigh a second look
    - kind: stability
      metric: churn
      at_most: 0.1
      reason: nine people in ten must get the same answer whatever the seed of the training was
    - kind: latency
      metric: latency_ms_p95
      at_most: 50
      reason: somebody waits at a screen, and 50 ms feel like at once

serve:
  replicas: 1
"""


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


TEMPLATE = Template(write, APP_FILE)
