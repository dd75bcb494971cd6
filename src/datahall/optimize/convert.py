"""Converts a fitted pipeline to ONNX bytes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from datahall.core.errors import DatahallError
from datahall.core.records import Task
from datahall.engines.onnx import INPUT_NAME, OUTPUT_NAMES

_LOCK = threading.Lock()


class ConversionError(DatahallError):
    """The model cannot be said in ONNX; it is then served by scikit-learn."""


def to_onnx(pipeline: Any, task: Task, num_features: int) -> bytes:
    """Return the pipeline as an ONNX model: float32 `features` of shape (rows, num_features) in, scores out.

    Equal pipelines give equal bytes. Raises ConversionError.
    """
    import skl2onnx  # noqa: PLC0415  (heavy, and wanted only here)
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415  (as above)
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs  # noqa: PLC0415  (as above)

    options = {id(pipeline): {"zipmap": False}} if task == "classification" else None
    try:
        with _plain_attributes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever it warns of, equality is proven afterwards
            model = skl2onnx.convert_sklearn(
                pipeline,
                name="model",  # by default a random one
                initial_types=[(INPUT_NAME, FloatTensorType([None, num_features]))],
                options=options,
            )
            # The label follows from the scores (`engines/finish.py`): working it out here too takes a net a fifth of its time.
            model = select_model_inputs_outputs(model, outputs=[OUTPUT_NAMES[task]])
    except Exception as error:  # skl2onnx's converters raise whatever they meet
        text = (str(error).splitlines() or [""])[0]
        raise ConversionError(f"no ONNX form: {type(error).__name__}: {text:.200}") from error
    raw: bytes = model.SerializeToString(deterministic=True)
    return raw


@contextmanager
def _plain_attributes() -> Iterator[None]:
    """Cast node attributes to Python's own numbers while the block runs.

    onnx 1.23 refuses the numpy integers and booleans that skl2onnx 1.20 takes from scikit-learn's trees. There is no
    hook between the two, hence the exchanged function, under a lock.
    """
    from skl2onnx.common import _container  # noqa: PLC0415  (heavy, and wanted only here)

    original = _container.make_node

    def make_node(op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> Any:
        return original(op_type, inputs, outputs, **{name: _plain(value) for name, value in attributes.items()})

    with _LOCK:
        _container.make_node = make_node
        try:
            yield
        finally:
            _container.make_node = original


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_ | np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        if set(map(type, value)) <= {int, float, str, bytes}:
            return list(value)  # a forest has lists of a million numbers, most of them plain
        return [_plain(item) for item in value]
    return value
