"""Writes fitted pipelines as skops bytes, the same bytes each time, and loads only the types that are listed here.

A skops file is a zip of one `schema.json` and numpy arrays; nothing in it is a pickle. skops trusts all of
scikit-learn by itself, which is more than our models need, so the schema is read here first and every type and
loader in it must stand on our own list.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from datahall.core.errors import IntegrityError
from datahall.engines.quiet import import_skops
from datahall.engines.trees import check_trees

MAX_MODEL_BYTES = 2 << 30
MAX_ENTRIES = 200_000

_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can say

ALLOWED_LOADERS = frozenset(
    {
        "CachedNode",
        "DTypeNode",
        "DictNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "NdArrayNode",
        "ObjectNode",
        "SliceNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    }
)
"""How skops may rebuild a node; functions, methods, partials and reducers are not among them."""

_PLAIN_TYPES = frozenset(
    {
        "builtins.bool",
        "builtins.dict",
        "builtins.float",
        "builtins.int",
        "builtins.list",
        "builtins.slice",
        "builtins.str",
        "builtins.tuple",
        "numpy.bool",
        "numpy.dtype",
        "numpy.float32",
        "numpy.float64",
        "numpy.int32",
        "numpy.int64",
        "numpy.ndarray",
        "numpy.uint32",
        "numpy.uint64",
        "numpy.uint8",
    }
)
_SKLEARN_TYPES = frozenset(
    {
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn.compose._column_transformer.ColumnTransformer",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.ensemble._forest.RandomForestRegressor",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.impute._base.SimpleImputer",
        "sklearn.linear_model._logistic.LogisticRegression",
        "sklearn.linear_model._ridge.Ridge",
        "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
        "sklearn.neural_network._multilayer_perceptron.MLPRegressor",
        "sklearn.pipeline.Pipeline",
        "sklearn.preprocessing._data.StandardScaler",
        "sklearn.preprocessing._encoders.OneHotEncoder",
        "sklearn.preprocessing._label.LabelBinarizer",
        "sklearn.preprocessing._label.LabelEncoder",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sklearn.tree._tree.Tree",
    }
)
ALLOWED_TYPES = _PLAIN_TYPES | _SKLEARN_TYPES
"""Every class that a model file of ours can name; a new kind of model adds its own here."""


def dump_model(model: Any) -> bytes:
    """Return a fitted pipeline as skops bytes; equal fits give equal bytes, in any process.

    skops names nodes by memory address, stamps the time and copies the unused bytes between an array's fields;
    here nodes are numbered in order, the time is fixed and the gaps are zero.
    """
    source = zipfile.ZipFile(io.BytesIO(import_skops().dumps(model)))
    schema = json.loads(source.read(_SCHEMA))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    for node in _nodes(schema):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if "file" in node:
            node["file"] = files.setdefault(node["file"], f"{len(files)}.npy")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        _write(target, _SCHEMA, json.dumps(schema, separators=(",", ":")).encode())
        for old, new in files.items():
            _write(target, new, _clean_array(source.read(old)))
    return buffer.getvalue()


def load_model(data: bytes | memoryview) -> Any:
    """Return the pipeline in `data`.

    Raises IntegrityError for what is no skops file, for a pickle, and for any type that is not on our list.
    """
    skops = import_skops()
    from skops.io._protocol import PROTOCOL  # noqa: PLC0415  (must come after the line above)

    raw = bytes(data)
    schema = _read_schema(raw)
    if schema.get("protocol") != PROTOCOL:  # older protocols have loaders of their own, which nobody here needs
        raise IntegrityError(f"the model has skops protocol {schema.get('protocol')!r:.20}, not {PROTOCOL}")
    _check_types(schema)
    try:
        model = skops.loads(raw, trusted=sorted(ALLOWED_TYPES))
        check_trees(model)
    except IntegrityError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in skops, numpy or scikit-learn
        raise IntegrityError(f"the model cannot be loaded: {type(error).__name__}: {error!s:.200}") from error
    return model


def _read_schema(raw: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_MODEL_BYTES:
                raise IntegrityError("the model unpacks to more than a model may have")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise IntegrityError("the model is compressed, which ours are not")
            if len({entry.filename for entry in entries}) != len(entries):
                raise IntegrityError("the model names a file twice")
            schema = json.loads(archive.read(_SCHEMA))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError, NotImplementedError) as error:
        raise IntegrityError(f"the model is no skops file: {error!s:.200}", hint="pickles are never loaded") from error
    if not isinstance(schema, dict):
        raise IntegrityError("the model's schema is not a mapping")
    return schema


def _check_types(schema: dict[str, Any]) -> None:
    for node in _nodes(schema):
        loader = node.get("__loader__")
        if loader is not None and loader not in ALLOWED_LOADERS:
            raise IntegrityError(f"the model wants the loader {loader!r:.80}, which is not allowed")
        if "__class__" in node or "__module__" in node:
            name = f"{node.get('__module__')}.{node.get('__class__')}"
            if name not in ALLOWED_TYPES:
                raise IntegrityError(f"the model holds the type {name[:120]!r}, which is not allowed")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a schema, outer before inner, in the order of the file."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)


def _clean_array(raw: bytes) -> bytes:
    array = np.load(io.BytesIO(raw), allow_pickle=False)
    if array.dtype.names is None:
        return raw
    clean = np.zeros(array.shape, dtype=array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()
