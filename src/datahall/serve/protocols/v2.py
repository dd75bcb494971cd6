"""The Open Inference Protocol, version 2, over HTTP with JSON tensors (kserve/open-inference-protocol, inference_rest).

A request gives one tensor per feature, of shape [n] or [n, 1], or, where every feature is a number, one tensor
`input` of shape [n, number of features]. Tensors come flat in row-major order or nested. The binary tensor extension
is not spoken, and asking for it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import BundleManifest, Column
from datahall.serve.columns import decode_json, to_array
from datahall.serve.protocols.finite import finite_list
from datahall.serve.rows import Rows, is_table

WHOLE_TABLE = "input"
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_NUMBERS = (*_INTEGERS, "FP16", "FP32", "FP64")
_DATATYPES = {"number": _NUMBERS, "category": ("BYTES",), "boolean": ("BOOL",)}
_MAIN_DATATYPE = {"number": "FP64", "category": "BYTES", "boolean": "BOOL"}
_NUM_NAMED = 5
_encode = msgspec.json.Encoder().encode


class InputTensor(msgspec.Struct, forbid_unknown_fields=True):
    """One `request_input`; `data` is read once its datatype is known."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] = {}


class OutputRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One `request_output`."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An `inference_request`."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputRequest] = []


class Asked(msgspec.Struct, frozen=True):
    """A request as columns, and what its answer must repeat."""

    rows: Rows
    id: str
    outputs: tuple[str, ...]


_DECODER = msgspec.json.Decoder(InferRequest)
_FLAT = {"number": list[float], "category": list[str], "boolean": list[bool]}
_NULLABLE_FLAT = {"number": list[float | None], "category": list[str | None], "boolean": list[bool | None]}


class TensorReader:
    """Reads `inference_request` bodies for one manifest."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._app = manifest.app
        self._features = {feature.name: feature for feature in manifest.features}
        self._all_numbers = all(feature.kind == "number" for feature in manifest.features)
        self._nullable = any(feature.nullable for feature in manifest.features)
        self._outputs = tuple(output["name"] for output in _outputs(manifest))

    def read(self, body: bytes | bytearray) -> Asked:
        """Return what is asked. Raises UserError that says which tensor is wrong, and how."""
        request: InferRequest = decode_json(_DECODER.decode, body)
        _refuse_binary(request)
        unknown = [output.name for output in request.outputs if output.name not in self._outputs]
        if unknown:
            raise UserError(f"there is no output '{unknown[0]}'", hint=f"there are: {', '.join(self._outputs)}")
        if [tensor.name for tensor in request.inputs] == [WHOLE_TABLE] and WHOLE_TABLE not in self._features:
            columns = self._read_table(request.inputs[0])
        else:
            columns = self._read_features(request.inputs)
        num_rows = len(next(iter(columns.values())))
        if num_rows == 0:
            raise UserError("there are no rows to answer", hint="the first number of each shape is the number of rows")
        names = tuple(output.name for output in request.outputs) or self._outputs
        return Asked(self._rows(columns, num_rows), request.id, names)

    def _rows(self, columns: dict[str, np.ndarray], num_rows: int) -> Rows:
        if is_table(tuple(self._features.values())):
            return Rows(num_rows, np.stack(list(columns.values()), axis=1).tolist())
        return Rows(num_rows, None, columns)

    def _read_table(self, tensor: InputTensor) -> dict[str, np.ndarray]:
        if not self._all_numbers:
            raise UserError(
                f"'{WHOLE_TABLE}' needs every column to be a number, and here some are not",
                hint=f"send one tensor for each column, as GET /v2/models/{self._app} describes them",
            )
        width = len(self._features)
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint=f"it must be [rows, {width}]")
        stand_in = Column(name=tensor.name, kind="number", nullable=self._nullable)
        matrix = to_array(stand_in, _values(tensor, stand_in)).reshape(tensor.shape)
        for index, feature in enumerate(self._features.values()):
            if not feature.nullable and np.isnan(matrix[:, index]).any():
                raise UserError(f"'{feature.name}' has no missing values", hint="send a number in every row")
        return {name: matrix[:, index] for index, name in enumerate(self._features)}

    def _read_features(self, tensors: list[InputTensor]) -> dict[str, np.ndarray]:
        given = {tensor.name: tensor for tensor in tensors}
        missing = [name for name in self._features if name not in given]
        unknown = [name for name in given if name not in self._features]
        if missing or unknown or len(given) != len(tensors):
            wrong = "one comes twice"
            if missing or unknown:
                wrong = f"missing are {_listed(missing)}" if missing else f"unknown are {_listed(unknown)}"
            raise UserError(
                f"the inputs are not the model's columns: {wrong}",
                hint=f"send one tensor for each column, as GET /v2/models/{self._app} describes them",
            )
        columns = {name: _column(given[name], feature) for name, feature in self._features.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise UserError(f"the inputs have different numbers of rows: {sorted(lengths)}", hint="send equal shapes")
        return columns


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(f"'{name[:80]}'" for name in names[:_NUM_NAMED]) + more


def _column(tensor: InputTensor, feature: Column) -> np.ndarray:
    if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint="it must be [rows] or [rows, 1]")
    return to_array(feature, _values(tensor, feature))


def _values(tensor: InputTensor, feature: Column) -> list[Any]:
    """Return a tensor's values, flat, as many as its shape says and of its feature's type."""
    allowed = _DATATYPES[feature.kind]
    if tensor.datatype not in allowed:
        raise UserError(
            f"'{tensor.name}' has the datatype '{tensor.datatype[:20]}'", hint=f"it must be {' or '.join(allowed)}"
        )
    if min(tensor.shape, default=0) < 0:
        raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint="a shape has no negative numbers")
    flat = (_NULLABLE_FLAT if feature.nullable else _FLAT)[feature.kind]
    raw = bytes(tensor.data)
    if not raw:
        raise UserError(f"'{tensor.name}' has no data", hint="send its values in `data`")
    values: list[Any] = _decode_data(tensor, flat, raw)
    if tensor.datatype in _INTEGERS and any(value is not None and value != int(value) for value in values):
        raise UserError(f"'{tensor.name}' is {tensor.datatype} but has a fraction", hint="send it as FP64")
    if len(values) != math.prod(tensor.shape):
        raise UserError(
            f"'{tensor.name}' has {len(values)} values, but its shape {tensor.shape} says {math.prod(tensor.shape)}",
            hint="make shape and data agree",
        )
    return values


def _decode_data(tensor: InputTensor, flat: Any, raw: bytes) -> list[Any]:
    try:
        if raw.lstrip()[1:].lstrip()[:1] == b"[":
            rows = decode_json(msgspec.json.Decoder(list[flat]).decode, raw)
            widths = {len(row) for row in rows} | {tensor.shape[-1]}
            # Ragged rows give no values, so that the count below refuses them whatever their sum.
            return [value for row in rows for value in row] if len(widths) == 1 else []
        return decode_json(msgspec.json.Decoder(flat).decode, raw)  # type: ignore[no-any-return]
    except UserError as error:
        raise UserError(f"'{tensor.name}': {error.what}", hint=error.hint) from None


def _refuse_binary(request: InferRequest) -> None:
    asked = [f"inputs: {tensor.name}" for tensor in request.inputs if "binary_data_size" in tensor.parameters]
    asked += [f"outputs: {output.name}" for output in request.outputs if output.parameters.get("binary_data")]
    asked += ["parameters: binary_data_output"] if request.parameters.get("binary_data_output") else []
    if asked:
        raise UserError(
            f"the binary tensor data extension is not spoken here ({asked[0]})",
            hint="send and ask for JSON tensors (tritonclient: binary_data=False for inputs and outputs)",
        )


def encode_answer(
    app: str, version: str, manifest: BundleManifest, arrays: Mapping[str, np.ndarray], asked: Asked
) -> bytes:
    """Return an `inference_response`; `id` is the client's own.

    Raises DatahallError where the model answered with a number that is not finite.
    """
    tensors = {output["name"]: output for output in _outputs(manifest)}
    outputs = []
    for name in asked.outputs:
        array = arrays["label" if name == "value" else name]
        data = array.tolist() if tensors[name]["datatype"] == "BYTES" else finite_list(array.reshape(-1))
        outputs.append({**tensors[name], "shape": list(array.shape), "data": data})
    answer: dict[str, Any] = {"model_name": app, "model_version": version, "outputs": outputs}
    if asked.id:
        answer["id"] = asked.id
    return _encode(answer)


def describe_server(version: str) -> dict[str, Any]:
    """Return the `metadata_server_response`."""
    return {"name": "datahall", "version": version, "extensions": []}


def describe_model(app: str, version: str, manifest: BundleManifest) -> dict[str, Any]:
    """Return the `metadata_model_response`: one input for each column."""
    inputs = [
        {"name": feature.name, "datatype": _MAIN_DATATYPE[feature.kind], "shape": [-1]} for feature in manifest.features
    ]
    platform = f"datahall_{manifest.engine}"
    return {"name": app, "versions": [version], "platform": platform, "inputs": inputs, "outputs": _outputs(manifest)}


def _outputs(manifest: BundleManifest) -> list[dict[str, Any]]:
    if manifest.task == "classification":
        labels = list(manifest.target.categories)
        return [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            # Which class a column of probabilities is about: the protocol has no field of its own for it.
            {"name": "probability", "datatype": "FP64", "shape": [-1, len(labels)], "parameters": {"labels": labels}},
        ]
    names = ["value"] + (["lower", "upper"] if "interval" in manifest.engine_settings else [])
    return [{"name": name, "datatype": "FP64", "shape": [-1]} for name in names]
