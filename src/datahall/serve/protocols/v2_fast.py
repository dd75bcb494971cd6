"""The two forms of `inference_request` that nearly everyone sends, read by one typed decode.

One tensor `input` of shape [rows, features], or one flat tensor a feature; no parameters. Whatever else a body
is, right or wrong, is left to the general reader, which also says what is wrong with it.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from datahall.core.records import BundleManifest
from datahall.serve.columns import to_array
from datahall.serve.protocols.prepared import Asked
from datahall.serve.protocols.v2_metadata import DATATYPES, INTEGERS, WHOLE_TABLE
from datahall.serve.rows import Rows, is_table

T = TypeVar("T")


class Tensor(msgspec.Struct, Generic[T], forbid_unknown_fields=True, gc=False):
    """A `request_input` with flat data and nothing that is optional."""

    name: str
    shape: list[int]
    datatype: str
    data: list[T]


class Output(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A `request_output` by its name only."""

    name: str


class Infer(msgspec.Struct, Generic[T], forbid_unknown_fields=True, gc=False):
    """An `inference_request` without parameters."""

    inputs: list[Tensor[T]]
    id: str | UnsetType = UNSET
    outputs: list[Output] | UnsetType = UNSET
    model_name: str | UnsetType = UNSET


_STRINGS_A_TENSOR = 6
"""Four keys, the name and the datatype."""
_TYPES: dict[str, type] = {"number": float, "category": str, "boolean": bool}


class FastReader:
    """Reads the usual bodies for one manifest."""

    def __init__(self, manifest: BundleManifest, outputs: tuple[str, ...]) -> None:
        self._app = manifest.app
        self._features = manifest.features
        self._names = [feature.name for feature in manifest.features]
        self._width = len(self._names)
        self._outputs = outputs
        self._is_table = is_table(manifest.features)
        self._all_numbers = all(feature.kind == "number" for feature in manifest.features)
        self._takes_matrix = self._all_numbers and WHOLE_TABLE not in self._names
        nullable = [feature.nullable for feature in manifest.features]
        self._required = [i for i, may in enumerate(nullable) if not may] if any(nullable) else []
        """Positions in which a null must still be looked for: the decoder lets nulls through for the others' sake."""
        self._kinds = [{_TYPES[f.kind], type(None)} if f.nullable else {_TYPES[f.kind]} for f in manifest.features]
        element: Any = float if self._all_numbers else float | str | bool
        element = element | None if any(nullable) else element
        self._decode = msgspec.json.Decoder(Infer[element]).decode
        self._decode_nested = msgspec.json.Decoder(Infer[list[element]]).decode

    def read(self, body: bytes | bytearray) -> Asked | None:
        """Return what is asked, None where the general reader has to look at it."""
        request, is_nested = self._parse(body)
        if request is None:
            return None
        inputs = request.inputs
        num_strings = 1 + _STRINGS_A_TENSOR * len(inputs)
        names, asked_id = self._outputs, ""
        if request.id is not UNSET:
            asked_id = request.id
            num_strings += 2
        if request.model_name is not UNSET:
            num_strings += 2
        if request.outputs is not UNSET:
            num_strings += 1 + 2 * len(request.outputs)
            names = tuple([output.name for output in request.outputs]) or names
            if not set(names) <= set(self._outputs):
                return None
        if is_nested or (len(inputs) == 1 and self._takes_matrix and inputs[0].name == WHOLE_TABLE):
            rows = self._read_nested(inputs) if is_nested else self._read_matrix(inputs[0])
        else:
            rows = self._read_tensors(inputs)
            if not self._all_numbers:
                num_strings += sum([type(value) is str for tensor in inputs for value in tensor.data])
        # More quotes than strings: a key twice, or an escaped quote (see `refuse_duplicate_keys`).
        if rows is None or request.model_name not in (UNSET, self._app) or body.count(b'"') != 2 * num_strings:
            return None
        return Asked(rows, asked_id, names)

    def _parse(self, body: bytes | bytearray) -> tuple[Infer[Any] | None, bool]:
        """Return the request, None where it is of no usual form, and whether its data is nested."""
        try:
            return self._decode(body), False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if not self._takes_matrix or b"[[" not in body:
                return None, False
        try:
            return self._decode_nested(body), True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, False

    def _read_matrix(self, tensor: Tensor[Any]) -> Rows | None:
        shape, data, width = tensor.shape, tensor.data, self._width
        if len(shape) != 2 or shape[1] != width or shape[0] < 1 or len(data) != shape[0] * width:
            return None
        if not _is_of(tensor.datatype, data, "number"):
            return None
        if self._required and None in data and any(None in data[index::width] for index in self._required):
            return None
        if shape[0] == 1:
            return Rows(1, [data])
        return Rows(shape[0], [data[start : start + width] for start in range(0, len(data), width)])

    def _read_nested(self, tensors: list[Tensor[Any]]) -> Rows | None:
        """Read a matrix whose rows are lists of their own."""
        tensor = tensors[0]
        if len(tensors) != 1 or tensor.name != WHOLE_TABLE or len(tensor.shape) != 2:
            return None
        if len(tensor.data) != tensor.shape[0] or any(len(row) != tensor.shape[1] for row in tensor.data):
            return None
        tensor.data = list(chain.from_iterable(tensor.data))
        return self._read_matrix(tensor)

    def _read_tensors(self, tensors: list[Tensor[Any]]) -> Rows | None:
        ordered = tensors
        if [tensor.name for tensor in tensors] != self._names:
            given = {tensor.name: tensor for tensor in tensors}
            if len(tensors) != self._width or given.keys() != set(self._names):
                return None
            ordered = [given[name] for name in self._names]
        num_rows = len(ordered[0].data)
        shapes = ([num_rows], [num_rows, 1])
        for tensor, feature, kinds in zip(ordered, self._features, self._kinds, strict=True):
            data = tensor.data
            if num_rows == 0 or len(data) != num_rows or tensor.shape not in shapes:
                return None
            if not kinds.issuperset(map(type, data)) or not _is_of(tensor.datatype, data, feature.kind):
                return None
        if not self._is_table:
            columns = zip(self._features, ordered, strict=True)
            return Rows(num_rows, None, {feature.name: to_array(feature, tensor.data) for feature, tensor in columns})
        if num_rows == 1:
            return Rows(1, [[tensor.data[0] for tensor in ordered]])
        return Rows(num_rows, list(zip(*[tensor.data for tensor in ordered], strict=True)))


def _is_of(datatype: str, data: list[Any], kind: str) -> bool:
    """Return whether checked values of a kind are also of a datatype: whole numbers where it is one of integers."""
    if datatype in INTEGERS and kind == "number":
        return all(value is None or value.is_integer() for value in data)
    return datatype in DATATYPES[kind]
