"""Runs a bundle's `model.onnx` in ONNX Runtime; scikit-learn is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datahall.core.errors import IntegrityError
from datahall.engines.base import TablePredictor
from datahall.engines.quiet import import_onnxruntime

MODEL_FILE = "model.onnx"
INPUT_NAME = "features"
OUTPUT_NAMES = {"classification": "probabilities", "regression": "variable"}
"""What skl2onnx calls the output that holds the scores."""


class OnnxEngine(TablePredictor):
    """One inference session over a float32 matrix of shape (rows, features)."""

    _session: Any

    def _load(self, files: Mapping[str, memoryview], num_threads: int) -> None:
        onnxruntime = import_onnxruntime()
        if set(files) != {MODEL_FILE}:
            raise IntegrityError(f"an ONNX bundle holds '{MODEL_FILE}' and nothing else, not {sorted(files)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters arrives as an exception
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                bytes(files[MODEL_FILE]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise IntegrityError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error
        self._output = OUTPUT_NAMES[self._manifest.task]
        self._check_signature()

    def _check_signature(self) -> None:
        inputs = [(node.name, node.type, node.shape[1:]) for node in self._session.get_inputs()]
        expected = [(INPUT_NAME, "tensor(float)", [len(self._manifest.features)])]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != expected or self._output not in outputs:
            raise IntegrityError(f"the ONNX model takes {inputs} and answers {outputs}, not what its manifest says")
        # The declared shape may leave the classes open, and a first run also warms the session up.
        shape = self._scores(np.zeros((1, len(self._manifest.features)), dtype=np.float32)).shape
        if self._manifest.task == "classification" and shape != (1, len(self._manifest.target.categories)):
            raise IntegrityError(f"the ONNX model answers {shape[1:]} classes, not what its manifest says")

    def _scores(self, matrix: np.ndarray) -> np.ndarray:
        scores: np.ndarray = self._session.run([self._output], {INPUT_NAME: matrix})[0]
        return scores if self._manifest.task == "classification" else scores.reshape(len(matrix))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
