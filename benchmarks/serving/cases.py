"""The models and the one row that every server is asked about, in each server's own JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from datahall.data.examples import EXAMPLES

APP = """\
datahall: 1
name: {name}
task: classification
data:
  sources: [{template}.csv]
  target: {target}
  columns:
{columns}
train:
  candidates:
    only: {model}
  seeds: 2
  engine: {engine}
evaluate:
  claims:
    - {{kind: accuracy, metric: accuracy, at_least: 0.5, reason: this measures speed and not the model}}
serve: {{replicas: {replicas}, limits: {{{limits}}}}}
"""


class Case(NamedTuple):
    """One application: which table, which model, what runs it."""

    name: str
    template: str
    model: str
    engine: str = "onnx"
    replicas: int = 1

    def write(self, folder: Path, *, limits: str) -> Path:
        """Write the table and the application file into `folder`; return the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        csv = EXAMPLES.load(self.template).write(folder)
        with csv.open(encoding="utf-8") as file:
            *features, target = file.readline().strip().split(",")
        # Said rather than guessed: a pixel that is always 0 or 1 looks like a category.
        columns = "\n".join(f"    {name}: {{kind: number, nullable: false}}" for name in features)
        path = folder / "app.yaml"
        path.write_text(
            APP.format(
                name=self.name,
                template=self.template,
                target=target,
                columns=columns,
                model=self.model,
                engine=self.engine,
                replicas=self.replicas,
                limits=limits,
            ),
            encoding="utf-8",
        )
        return path


NET = "{model: mlp, layers: [128, 64]}"
FOREST = "{model: forest, num_trees: 100}"
DIGITS = Case("digits", "digits", NET)
TUMOURS = Case("tumours", "tumours", FOREST)
DIGITS_SKLEARN = Case("digits-sklearn", "digits", NET, engine="sklearn")
TUMOURS_SKLEARN = Case("tumours-sklearn", "tumours", FOREST, engine="sklearn")
SLOW = "{model: boosting, num_rounds: 800}"
SLOW_ONE = Case("slow", "digits", SLOW)
SLOW_TWO = Case("slow-two", "digits", SLOW, replicas=2)
"""8,000 trees, whose answers cost the replica at least 100 microseconds of processor time each, however they are batched.

Trees rather than a wide net, because cores must be compared and not what they share: two copies of a net of 17 MB push
each other out of the cache, and a row of 16 costs 150 us instead of 110 as soon as both cores run one.
"""


class Row(NamedTuple):
    """One row of a table, and the class that is right, as a number or by its name."""

    values: list[float]
    right: frozenset[str]


def row_of(template: str) -> Row:
    """Return the first row of a table, which every model gets right."""
    from sklearn import datasets  # noqa: PLC0415  (heavy, and only here)

    table = datasets.load_digits() if template == "digits" else datasets.load_breast_cancer()
    first = int(table.target[0])
    return Row([float(value) for value in table.data[0]], frozenset((str(first), str(table.target_names[first]))))


def ask(form: str, row: Row) -> bytes:
    """Return the body that asks about a row: `rows`, `v2` (Open Inference Protocol) or `mlflow`."""
    bodies: dict[str, dict[str, Any]] = {
        "rows": {"rows": [row.values]},
        "v2": {
            "inputs": [{"name": "input", "shape": [1, len(row.values)], "datatype": "FP64", "data": row.values}],
        },
        "mlflow": {"inputs": [row.values]},
    }
    return json.dumps(bodies[form], separators=(",", ":")).encode()


def answer(form: str, body: bytes) -> str:
    """Return the class in an answer's body. Raises KeyError, IndexError, TypeError or ValueError for another body."""
    found = json.loads(body)
    if form == "v2":
        return str(found["outputs"][0]["data"][0])
    return str((found["predictions"] if isinstance(found, dict) else found)[0])
