"""What reading a request and writing an answer cost: one row of 64 numbers, each protocol, beside bare parsers.

The peers are `msgspec` and `json` of the standard library, which only parse or print the same document: they check no
name, no type, no shape, and no key that comes twice.
"""

from __future__ import annotations

import json
import random
import timeit
from collections.abc import Callable

import msgspec
import numpy as np

from datahall.core.records import BundleManifest, Column
from datahall.serve.columns import RowReader
from datahall.serve.protocols.mlflow import InvocationReader, InvocationWriter
from datahall.serve.protocols.plain import PlainWriter
from datahall.serve.protocols.prepared import begin
from datahall.serve.protocols.v2 import TensorReader
from datahall.serve.protocols.v2_answer import V2Writer

NUM_COLUMNS, NUM_CLASSES, NUM_CALLS, NUM_ROUNDS = 64, 10, 2_000, 9


def us(call: Callable[[], object]) -> float:
    """Return the microseconds of one call, the best of several rounds."""
    return min(timeit.repeat(call, number=NUM_CALLS, repeat=NUM_ROUNDS)) / NUM_CALLS * 1e6


def manifest() -> BundleManifest:
    """Return what a classifier of handwritten digits has: 64 pixels, ten classes."""
    return BundleManifest(
        app="digits",
        task="classification",
        engine="onnx",
        engine_settings={},
        features=tuple(Column(name=f"pixel_{i // 8}_{i % 8}", kind="number") for i in range(NUM_COLUMNS)),
        target=Column(name="digit", kind="category", categories=tuple("0123456789")),
        threshold=None,
        environment="e" * 64,
        files={},
    )


def bodies(described: BundleManifest, values: list[float]) -> dict[str, bytes]:
    """Return the same row in each form."""
    names = [feature.name for feature in described.features]
    row = dict(zip(names, values, strict=True))
    whole = {"name": "input", "shape": [1, NUM_COLUMNS], "datatype": "FP64", "data": values}
    each = [{"name": name, "shape": [1], "datatype": "FP64", "data": [value]} for name, value in row.items()]
    forms = {
        "plain, rows": {"rows": [row]},
        "plain, one object": row,
        "v2, one tensor": {"inputs": [whole]},
        "v2, a tensor a column": {"inputs": each},
        "v2, one tensor, nested": {"inputs": [whole | {"data": [values]}]},
        "mlflow, dataframe_split": {"dataframe_split": {"columns": names, "data": [values]}},
        "mlflow, inputs": {"inputs": [values]},
    }
    return {name: json.dumps(form).encode() for name, form in forms.items()}


def show_reading(described: BundleManifest, kind: str, values: list[float]) -> None:
    """Print what reading each form of one row costs."""
    readers = {"plain": RowReader(described), "v2": TensorReader(described), "mlflow": InvocationReader(described)}
    print(f"\nread, {kind:27} {'ours':>7} {'msgspec':>9} {'json':>7}   microseconds a request")
    for name, body in bodies(described, values).items():
        read = readers[name.partition(",")[0]].read
        mine, bare = us(lambda: read(body)), us(lambda: msgspec.json.decode(body))  # noqa: B023  called at once
        print(f"{name:33} {mine:7.2f} {bare:9.2f} {us(lambda: json.loads(body)):7.2f}")  # noqa: B023  called at once


def main() -> None:
    """Print both tables."""
    described = manifest()
    draw = random.Random(1)  # noqa: S311  numbers to read, no secrets
    show_reading(described, "whole numbers", [float(draw.randint(0, 16)) for _ in range(NUM_COLUMNS)])
    long = [draw.random() for _ in range(NUM_COLUMNS)]
    show_reading(described, "17 digits each", long)
    arrays = {"label": np.array(["3"], dtype=object), "probability": np.array([long[:NUM_CLASSES]])}
    prepared = begin(described, arrays)
    asked = TensorReader(described).read(bodies(described, long)["v2, one tensor"])
    plain, v2 = PlainWriter("digits@1.0.0", described), V2Writer("digits", "1.0.0", described)
    mlflow = InvocationWriter(described)
    writers: dict[str, Callable[[], bytes]] = {
        "plain": lambda: plain.write(prepared, 0, 1, asked, "ans_" + "0" * 50),
        "v2": lambda: v2.write(prepared, 0, 1, asked, ""),
        "mlflow": lambda: mlflow.write(prepared, 0, 1, asked, ""),
    }
    print(f"\n{'write, 10 probabilities':33} {'ours':>7} {'msgspec':>9} {'json':>7}   microseconds an answer")
    print(f"{'arrays to lists, once a batch':33} {us(lambda: begin(described, arrays)):7.2f}")
    for name, write in writers.items():
        document = json.loads(write())
        bare, slow = us(lambda: msgspec.json.encode(document)), us(lambda: json.dumps(document))  # noqa: B023  at once
        print(f"{name:33} {us(write):7.2f} {bare:9.2f} {slow:7.2f}")


if __name__ == "__main__":
    main()
