"""Handwritten digits: 1,797 pictures of 8 by 8 pixels, each a row of 64 grey values."""

from __future__ import annotations

import csv
from pathlib import Path

from datahall.data.examples.template import Template

APP_FILE = """\
# Read handwritten digits from pictures of 8 by 8 pixels.
datahall: 1
name: digits
task: classification

data:
  sources: [digits.csv]    # one row a picture: 64 grey values from 0 to 16, and the digit
  target: digit            # numbers as classes: the task says so

train:
  candidates:
    logistic:
      model: logistic      # weighs single pixels
    forest:
      model: forest        # asks about pixels one after the other
      num_trees: 100
  seeds: 3

evaluate:
  claims:
    - kind: accuracy
      metric: accuracy
      at_least: 0.9
      reason: at one wrong digit in ten, four in ten postal codes of five digits go astray, so no less
    - kind: calibration
      at_most: 0.12
      reason: pictures below a stated 90 % go to a person, which helps only if 90 % means nearly that
    - kind: stability
      metric: churn
      at_most: 0.12
      reason: the seed of the training may decide on no more than the hard pictures
"""


def write(folder: Path) -> Path:
    """Write `digits.csv` (1,797 rows) into `folder` and return its path.

    Column `r2c5` is the grey value, 0 to 16, of row 2 and column 5, counted from 0. Source: E. Alpaydin, C. Kaynak,
    Optical Recognition of Handwritten Digits, 1998; UCI Machine Learning Repository, CC BY 4.0; the test part, as
    scikit-learn carries it.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415  (heavy, and only for this template)

    table = load_digits()
    path = folder / "digits.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(f"r{row}c{column}" for row in range(8) for column in range(8)), "digit"])
        for values, target in zip(table.data, table.target, strict=True):
            writer.writerow([*(int(value) for value in values), int(target)])
    return path


TEMPLATE = Template(write, APP_FILE)
