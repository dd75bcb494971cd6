"""MLflow's scoring protocol, version 2: what `POST /invocations` takes and gives.

A body has one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`; rows without names have the order
of the model's columns. As with a classifier of MLflow's own, predictions are labels, or values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from datahall.core.errors import UserError
from datahall.core.records import BundleManifest
from datahall.serve.columns import RowReader, decode_json, to_array
from datahall.serve.keys import count_strings, count_written, refuse_duplicate_keys
from datahall.serve.protocols.finite import encode_finite
from datahall.serve.protocols.prepared import Asked, Prepared
from datahall.serve.responses import HttpError, refusal
from datahall.serve.rows import Rows, is_table

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_ONE_OF = f"send one of {', '.join(FORMATS)}"
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    507: "TEMPORARILY_UNAVAILABLE",
}
_KINDS = {"number": (float, "a number"), "category": (str, "a string"), "boolean": (bool, "true or false")}
_encode = msgspec.json.Encoder().encode


T = TypeVar("T")


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The formats are read once it is clear which it is."""

    dataframe_split: msgspec.Raw | UnsetType = UNSET
    dataframe_records: msgspec.Raw | UnsetType = UNSET
    instances: msgspec.Raw | UnsetType = UNSET
    inputs: msgspec.Raw | UnsetType = UNSET
    params: dict[str, Any] | UnsetType | None = UNSET


class _Split(msgspec.Struct, Generic[T], forbid_unknown_fields=True, gc=False):
    """What pandas calls the orientation `split`; the index says nothing to a model."""

    columns: list[str]
    data: list[list[T]]
    index: list[Any] | UnsetType = UNSET


_BODY = msgspec.json.Decoder(_Body)


class InvocationReader:
    """Reads `/invocations` bodies for one manifest."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._app = manifest.app
        self._features = manifest.features
        self._names = [feature.name for feature in manifest.features]
        self._is_table = is_table(manifest.features)
        self._records = RowReader(manifest)
        # Where every column is a number that must be there, the decoder checks all of it.
        self._is_checked = all(feature.kind == "number" and not feature.nullable for feature in manifest.features)
        element: Any = float if self._is_checked else float | str | bool | None
        self._split = msgspec.json.Decoder(_Split[element])
        self._table = msgspec.json.Decoder(list[list[element]])
        self._columns = msgspec.json.Decoder(dict[str, list[element]])

    def read(self, body: bytes | bytearray) -> Rows:
        """Return what is asked. NaN, which MLflow's clients write for a missing value, is read as null.

        Raises UserError that says what is wrong, and where.
        """
        try:
            return self._read(body)
        except UserError:
            if b"NaN" not in body:
                raise
            plain = _without_nan(body)
        return self._read(plain)

    def _read(self, body: bytes | bytearray) -> Rows:
        try:
            request: _Body = decode_json(_BODY.decode, body)
        except UserError as error:
            hint = _ONE_OF if "no field" in error.what and not error.hint else error.hint
            raise UserError(error.what, hint=hint) from None
        given = [name for name in FORMATS if getattr(request, name) is not UNSET]
        if len(given) != 1:
            raise UserError(f"the body has {len(given)} of the fields that hold rows", hint=_ONE_OF)
        name = given[0]
        raw = bytes(getattr(request, name))
        num_strings = 1 + count_written(raw)  # those within are looked at by whoever reads them
        if request.params is not UNSET:
            num_strings += 1 + count_strings(request.params)
        refuse_duplicate_keys(body, num_strings)
        if request.params:
            raise UserError("the model takes no `params`", hint="leave them out")
        try:
            return self._read_format(name, raw)
        except UserError as error:
            # The readers below see a part of the body only, and one of them within an object of its own.
            what = error.what.replace("at `$.rows[", "at `$[").replace("at `$", f"at `$.{name}")
            raise UserError(what, hint=error.hint) from None

    def _read_format(self, name: str, raw: bytes) -> Rows:
        if name == "dataframe_split":
            split: _Split[Any] = decode_json(self._split.decode, raw)
            num_strings = 2 + (0 if split.index is UNSET else 1 + count_strings(split.index))
            num_strings += len(split.columns) + (0 if self._is_checked else count_strings(split.data))
            refuse_duplicate_keys(raw, num_strings)
            return self._from_table(split.data, self._order(split.columns), "$.data")
        start = raw.lstrip()[:1] + raw.lstrip()[1:].lstrip()[:1]
        if name == "inputs" and start.startswith(b"{"):
            columns: dict[str, list[Any]] = decode_json(self._columns.decode, raw)
            refuse_duplicate_keys(raw, len(columns) if self._is_checked else count_strings(columns))
            order = self._order(list(columns))
            if len({len(values) for values in columns.values()}) != 1:
                raise UserError("the columns have different numbers of rows - at `$`", hint="send equal lists")
            return self._from_table(list(zip(*columns.values(), strict=True)), order, "$")
        if name == "dataframe_records" or start == b"[{":
            return self._records.read(b'{"rows":%b}' % raw)
        return self._from_table(decode_json(self._table.decode, raw), None, "$")

    def _order(self, columns: list[str]) -> list[int] | None:
        """Return where each of the model's columns is in `columns`; None where they have its order."""
        if columns == self._names:
            return None
        missing = [name for name in self._names if name not in columns]
        unknown = [name for name in columns if name not in self._names]
        if missing or unknown or len(columns) != len(self._names):
            wrong = "one comes twice"
            if missing or unknown:
                wrong = f"missing is `{missing[0][:80]}`" if missing else f"unknown is `{unknown[0][:80]}`"
            raise UserError(
                f"the columns are not the model's: {wrong} - at `$`",
                hint=f"GET /v2/models/{self._app} lists the columns",
            )
        return [columns.index(name) for name in self._names]

    def _from_table(self, table: list[Any], order: list[int] | None, place: str) -> Rows:
        if not table:
            raise UserError("there are no rows to answer", hint=_ONE_OF)
        width = len(self._names)
        for number, row in enumerate(table):
            if len(row) != width:
                raise UserError(
                    f"a row has {len(row)} values, and the model has {width} columns - at `{place}[{number}]`",
                    hint=f"GET /v2/models/{self._app} lists the columns",
                )
        rows = table if order is None else [[row[index] for index in order] for row in table]
        if self._is_checked:
            return Rows(len(rows), rows)
        columns = list(zip(*rows, strict=True))
        for feature, column in zip(self._features, columns, strict=True):
            kind, said = _KINDS[feature.kind]
            if not {kind, type(None)}.issuperset(map(type, column)) or (not feature.nullable and None in column):
                number = next(
                    index
                    for index, value in enumerate(column)
                    if type(value) is not kind and not (value is None and feature.nullable)
                )
                raise UserError(f"`{feature.name[:80]}` is {said} - at `{place}`, row {number}")
        if self._is_table:
            return Rows(len(rows), rows)
        both = zip(self._features, columns, strict=True)
        return Rows(len(rows), None, {feature.name: to_array(feature, column) for feature, column in both})


def _without_nan(body: bytes | bytearray) -> bytes:
    """Return the document with null for each NaN. Raises UserError where it is not JSON but for that."""
    try:
        return _encode(json.loads(bytes(body), parse_constant=_null_for_nan, object_pairs_hook=_once))
    except (ValueError, RecursionError, msgspec.MsgspecError):  # no JSON, or numbers that only Python reads
        raise UserError("the body is not JSON", hint=_ONE_OF) from None


def _null_for_nan(constant: str) -> None:
    if constant != "NaN":
        raise UserError("JSON knows no infinity", hint="send finite numbers, and null for a missing value")


def check_type(content_type: bytes | None) -> None:
    """Raise HttpError 415 for a body that is not JSON in UTF-8, as MLflow's own server does."""
    kind, *parameters = [part.strip().lower() for part in (content_type or b"").split(b";")]
    if kind != b"application/json" or any(one.replace(b'"', b"") != b"charset=utf-8" for one in parameters):
        said = (content_type or b"").decode("latin-1")[:80]
        raise HttpError(refusal(415, f"the body's type is '{said}'", "send Content-Type: application/json"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UserError("a key comes twice in an object", hint="send each key once")
    return found


class InvocationWriter:
    """Writes answers of one route: `{"predictions": [...]}`."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._is_labels = manifest.task == "classification"

    def write(self, prepared: Prepared, start: int, stop: int, asked: Asked, answer_id: str) -> bytes:  # noqa: ARG002  all writers' signature
        """Return the answer to the request whose rows are `start` to `stop` of the batch.

        Raises DatahallError where one of them has a number that is not finite.
        """
        if self._is_labels:
            return b'{"predictions":%b}' % _encode(prepared.rows["label"][start:stop])
        return b'{"predictions":%b}' % encode_finite(prepared.rows["value"][start:stop])


def error_body(status: int, body: bytes) -> bytes:
    """Return an error of ours with what MLflow's clients look for in one: `error_code` and `message`."""
    error: Mapping[str, str] = msgspec.json.decode(body, type=dict[str, str])
    message = ": ".join(part for part in (error["error"], error["hint"]) if part)
    code = _CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    return _encode({"error_code": code, "message": message, **error})
