"""The Open Inference Protocol, version 2, over HTTP (kserve/open-inference-protocol, inference_rest): requests.

A request gives one tensor per feature, of shape [n] or [n, 1], or, where every feature is a number, one tensor
`input` of shape [n, number of features]. JSON tensors come flat in row-major order or nested; binary ones as
`binary.py` says. What nearly everyone sends is read by `v2_fast.py`; what it does not take comes here.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from datahall.core.errors import UserError
from datahall.core.records import BundleManifest, Column
from datahall.serve.columns import decode_json, to_array
from datahall.serve.keys import count_strings, refuse_duplicate_keys
from datahall.serve.protocols import binary
from datahall.serve.protocols.prepared import Asked
from datahall.serve.protocols.v2_fast import FastReader
from datahall.serve.protocols.v2_metadata import DATATYPES, INTEGERS, WHOLE_TABLE, describe_outputs
from datahall.serve.rows import Rows, is_table

_NUM_NAMED = 5
_MEANT_OTHERWISE = ("classification", "sequence_id", "shared_memory_region")
"""Parameters that would change what is asked, and that are not done here."""


class InputTensor(msgspec.Struct, forbid_unknown_fields=True):
    """One `request_input`; `data` is read once its datatype is known."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | UnsetType = UNSET


class OutputRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One `request_output`."""

    name: str
    parameters: dict[str, Any] | UnsetType = UNSET


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An `inference_request`."""

    inputs: list[InputTensor]
    id: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET
    outputs: list[OutputRequest] | UnsetType = UNSET
    model_name: str | UnsetType | None = UNSET
    """Not in the protocol; the client of kserve sends it."""


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
        self._outputs = tuple(output["name"] for output in describe_outputs(manifest))
        self._fast = FastReader(manifest, self._outputs)

    def read(self, body: bytes | bytearray) -> Asked:
        """Return what is asked. Raises UserError that says which tensor is wrong, and how."""
        return self._fast.read(body) or self._read(body, b"")

    def read_binary(self, num_json_bytes: bytes, body: bytes | bytearray) -> Asked:
        """Return what is asked in JSON and binary tensors; `num_json_bytes` is the header that says how much is JSON.

        Raises UserError that says which tensor is wrong, and how.
        """
        return self._read(*binary.split(body, num_json_bytes))

    def _read(self, body: bytes | bytearray, tail: bytes) -> Asked:
        request: InferRequest = decode_json(_DECODER.decode, body)
        refuse_duplicate_keys(body, _num_strings(request))
        _refuse_what_is_not_done(request)
        if request.model_name and request.model_name != self._app:
            raise UserError(f"the body names the model '{request.model_name[:80]}', the path '{self._app}'")
        outputs = request.outputs or []
        unknown = [output.name for output in outputs if output.name not in self._outputs]
        if unknown:
            raise UserError(f"there is no output '{unknown[0][:80]}'", hint=f"there are: {', '.join(self._outputs)}")
        sizes = [(tensor.name, (tensor.parameters or {}).get(binary.SIZE)) for tensor in request.inputs]
        parts = binary.share_out(tail, sizes)
        inputs = list(zip(request.inputs, parts, strict=True))
        if [tensor.name for tensor, _ in inputs] == [WHOLE_TABLE] and WHOLE_TABLE not in self._features:
            columns = self._read_table(*inputs[0])
        else:
            columns = self._read_features(inputs)
        num_rows = len(next(iter(columns.values())))
        if num_rows == 0:
            raise UserError("there are no rows to answer", hint="the first number of each shape is the number of rows")
        names = tuple(output.name for output in outputs) or self._outputs
        return Asked(self._rows(columns, num_rows), request.id or "", names, _wanted_binary(request, names))

    def _rows(self, columns: dict[str, np.ndarray], num_rows: int) -> Rows:
        if is_table(tuple(self._features.values())):
            return Rows(num_rows, np.stack(list(columns.values()), axis=1).tolist())
        return Rows(num_rows, None, columns)

    def _read_table(self, tensor: InputTensor, part: bytes | None) -> dict[str, np.ndarray]:
        if not self._all_numbers:
            raise UserError(
                f"'{WHOLE_TABLE}' needs every column to be a number, and here some are not",
                hint=f"send one tensor for each column, as GET /v2/models/{self._app} describes them",
            )
        width = len(self._features)
        if len(tensor.shape) != 2 or tensor.shape[1] != width:
            raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint=f"it must be [rows, {width}]")
        stand_in = Column(name=tensor.name, kind="number", nullable=self._nullable)
        matrix = to_array(stand_in, _values(tensor, part, stand_in)).reshape(tensor.shape)
        for index, feature in enumerate(self._features.values()):
            if not feature.nullable and np.isnan(matrix[:, index]).any():
                raise UserError(f"'{feature.name}' has no missing values", hint="send a number in every row")
        return {name: matrix[:, index] for index, name in enumerate(self._features)}

    def _read_features(self, inputs: list[tuple[InputTensor, bytes | None]]) -> dict[str, np.ndarray]:
        given = {tensor.name: (tensor, part) for tensor, part in inputs}
        missing = [name for name in self._features if name not in given]
        unknown = [name for name in given if name not in self._features]
        if missing or unknown or len(given) != len(inputs):
            wrong = "one comes twice"
            if missing or unknown:
                wrong = f"missing are {_listed(missing)}" if missing else f"unknown are {_listed(unknown)}"
            raise UserError(
                f"the inputs are not the model's columns: {wrong}",
                hint=f"send one tensor for each column, as GET /v2/models/{self._app} describes them",
            )
        columns = {name: _column(*given[name], feature) for name, feature in self._features.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise UserError(f"the inputs have different numbers of rows: {sorted(lengths)}", hint="send equal shapes")
        return columns


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(f"'{name[:80]}'" for name in names[:_NUM_NAMED]) + more


def _num_strings(request: InferRequest) -> int:
    """Return how many strings the decoded request holds; see `refuse_duplicate_keys`."""
    count = 1 + (request.id is not UNSET) * 2 + _num_parameter_strings(request)
    if request.model_name is not UNSET:
        count += 1 + isinstance(request.model_name, str)
    for tensor in request.inputs:
        # The data is a list of scalars or is refused later, so each of its quotes belongs to a string.
        count += 5 + bool(bytes(tensor.data)) + _num_parameter_strings(tensor) + bytes(tensor.data).count(b'"') // 2
    if request.outputs is not UNSET:
        count += 1 + sum(2 + _num_parameter_strings(output) for output in request.outputs)
    return count


def _num_parameter_strings(holder: InputTensor | OutputRequest | InferRequest) -> int:
    return 0 if holder.parameters is UNSET else 1 + count_strings(holder.parameters)


def _column(tensor: InputTensor, part: bytes | None, feature: Column) -> np.ndarray:
    if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
        raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint="it must be [rows] or [rows, 1]")
    return to_array(feature, _values(tensor, part, feature))


def _values(tensor: InputTensor, part: bytes | None, feature: Column) -> list[Any]:
    """Return a tensor's values, flat, as many as its shape says and of its feature's type."""
    allowed = DATATYPES[feature.kind]
    if tensor.datatype not in allowed:
        raise UserError(
            f"'{tensor.name}' has the datatype '{tensor.datatype[:20]}'", hint=f"it must be {' or '.join(allowed)}"
        )
    if min(tensor.shape, default=0) < 0:
        raise UserError(f"'{tensor.name}' has the shape {tensor.shape}", hint="a shape has no negative numbers")
    values = _json_values(tensor, feature) if part is None else _binary_values(tensor, part, feature)
    if len(values) != math.prod(tensor.shape):
        raise UserError(
            f"'{tensor.name}' has {len(values)} values, but its shape {tensor.shape} says {math.prod(tensor.shape)}",
            hint="make shape and data agree",
        )
    return values


def _binary_values(tensor: InputTensor, part: bytes, feature: Column) -> list[Any]:
    if bytes(tensor.data):
        raise UserError(f"'{tensor.name}' has `data` and binary data", hint="send one of them")
    values = binary.read_values(tensor.name, tensor.datatype, part)
    if not feature.nullable and None in values:
        raise UserError(f"'{tensor.name}' has no missing values, and here is a NaN", hint="send a number in every row")
    return values


def _json_values(tensor: InputTensor, feature: Column) -> list[Any]:
    flat = (_NULLABLE_FLAT if feature.nullable else _FLAT)[feature.kind]
    raw = bytes(tensor.data)
    if not raw:
        raise UserError(f"'{tensor.name}' has no data", hint="send its values in `data`")
    values: list[Any] = _decode_data(tensor, flat, raw)
    if tensor.datatype in INTEGERS and any(value is not None and value != int(value) for value in values):
        raise UserError(f"'{tensor.name}' is {tensor.datatype} but has a fraction", hint="send it as FP64")
    return values


def _decode_data(tensor: InputTensor, flat: Any, raw: bytes) -> list[Any]:
    try:
        if raw.lstrip()[1:].lstrip()[:1] == b"[":
            rows = decode_json(msgspec.json.Decoder(list[flat]).decode, raw)
            widths = {len(row) for row in rows} | {tensor.shape[-1]}
            # Ragged rows give no values, so that the count of values refuses them whatever their sum.
            return [value for row in rows for value in row] if len(widths) == 1 else []
        return decode_json(msgspec.json.Decoder(flat).decode, raw)  # type: ignore[no-any-return]
    except UserError as error:
        raise UserError(f"'{tensor.name}': {error.what}", hint=error.hint) from None


def _refuse_what_is_not_done(request: InferRequest) -> None:
    holders: list[InferRequest | InputTensor | OutputRequest] = [request, *request.inputs, *(request.outputs or [])]
    for name in _MEANT_OTHERWISE:
        if any(name in (holder.parameters or {}) for holder in holders):
            raise UserError(f"the parameter '{name}' is not done here", hint="leave it out")


def _wanted_binary(request: InferRequest, names: tuple[str, ...]) -> tuple[bool, ...]:
    """Return for each output whether it is wanted as bytes; empty where none is."""
    every = (request.parameters or {}).get("binary_data_output", False)
    wanted = [(output.parameters or {}).get("binary_data", every) for output in request.outputs or []]
    wanted = wanted or [every] * len(names)
    if any(type(one) is not bool for one in wanted):
        raise UserError("binary_data and binary_data_output are true or false", hint="send one of them")
    return tuple(wanted) if any(wanted) else ()
