"""From values that a client sent to the columns that a model takes: typed, complete, and with errors that say where."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import BundleManifest, Column
from datahall.serve.keys import refuse_duplicate_keys
from datahall.serve.rows import Rows, is_table

_PYTHON_TYPES: dict[str, Any] = {"number": float, "category": str, "boolean": bool}
_NUM_NAMED = 5
_astuple = msgspec.structs.astuple


class RowReader:
    """Reads rows as JSON objects for one manifest; made once, when a route is taken up.

    The manifest's features become a struct type, so that types, missing and unknown columns are checked while the
    JSON is decoded.
    """

    def __init__(self, manifest: BundleManifest) -> None:
        self.features = manifest.features
        self._is_table = is_table(manifest.features)
        fields = [(f"f{index}", _python_type(feature)) for index, feature in enumerate(manifest.features)]
        rename = {f"f{index}": feature.name for index, feature in enumerate(manifest.features)}
        # msgspec takes no field names that JSON must escape; rows with such columns go through a dict instead.
        odd = any(json.dumps(name, ensure_ascii=False) != f'"{name}"' for name in rename.values())
        self._fields = {name: field for field, name in rename.items()} if odd else None
        names = None if odd else rename
        row = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, frozen=True, gc=False)
        body = msgspec.defstruct("Body", [("rows", list[row])], forbid_unknown_fields=True, gc=False)  # type: ignore[valid-type]
        self._body = body
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(body)
        self._names = tuple(rename.values())
        self._has_rows_column = "rows" in self._names
        self._categories = [i for i, feature in enumerate(manifest.features) if feature.kind == "category"]
        self._app = manifest.app

    def read(self, body: bytes | bytearray) -> Rows:
        """Return what is asked in `{"rows": [{column: value}]}` or one row's object.

        Raises UserError that says what is wrong and at which row and column, or at which byte.
        """
        whole = not self._has_rows_column and body.startswith((b'{"rows":', b'{ "rows":'))
        try:
            if self._fields is not None:
                whole, rows = decode_json(self._decode_odd, body, self._names, app=self._app)
            else:
                rows = self._many.decode(body).rows if whole else [self._one.decode(body)]  # type: ignore[attr-defined]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            whole, rows = decode_json(self._decode, body, self._names, app=self._app)
        if not rows:
            raise UserError("there are no rows to answer", hint='send {"rows": [{"column": value, ...}]}')
        values = [_astuple(row) for row in rows]
        num_strings = len(values) * len(self._names) + whole
        for index in self._categories:
            num_strings += sum(row[index] is not None for row in values)
        refuse_duplicate_keys(body, num_strings)
        if self._is_table:
            return Rows(len(values), values)
        columns = {
            feature.name: to_array(feature, [row[index] for row in values])
            for index, feature in enumerate(self.features)
        }
        return Rows(len(values), None, columns)

    def _decode(self, body: bytes | bytearray) -> tuple[bool, list[Any]]:
        """Return whether there is an object around the rows, and the rows; errors speak of what was meant."""
        try:
            return True, self._many.decode(body).rows  # type: ignore[attr-defined]
        except msgspec.ValidationError as error:
            if "$.rows" in str(error) and not self._has_rows_column:
                raise
        return False, [self._one.decode(body)]

    def _decode_odd(self, body: bytes | bytearray) -> tuple[bool, list[Any]]:
        assert self._fields is not None
        plain = msgspec.json.decode(body, type=dict[str, Any])
        whole = set(plain) == {"rows"} and isinstance(plain["rows"], list)
        rows = plain["rows"] if whole else [plain]
        return whole, msgspec.convert({"rows": [self._renamed(row) for row in rows]}, self._body).rows  # type: ignore[attr-defined]

    def _renamed(self, row: Any) -> Any:
        assert self._fields is not None
        if not isinstance(row, dict):
            return row
        for name in row:
            if name not in self._fields:  # it might be what a column is called in here
                raise UserError(
                    f"there is no column `{name[:80]}`", hint=_hint(f"unknown field `{name}`", self._names, self._app)
                )
        return {self._fields[name]: value for name, value in row.items()}


def to_array(feature: Column, values: Sequence[Any]) -> np.ndarray:
    """Return checked values of one feature as a column."""
    if feature.kind == "category":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    return np.array(values, dtype=np.float64)


def decode_json(decode: Any, body: bytes | bytearray, known: Collection[str] = (), *, app: str = "") -> Any:
    """Return `decode(body)`; whatever is wrong with the JSON becomes a UserError that says where.

    `known` are the columns of the rows that are read, and `app` the application whose they are, for hints.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        what = (
            _lacking(text, body, known) if known and "missing required field" in text else _explain(text, bool(known))
        )
        raise UserError(what, hint=_hint(text, known, app)) from None
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise UserError(
                f"the JSON ends too early, after byte {len(body)}", hint="send the whole document"
            ) from None
        hint = "JSON knows no NaN or infinity; send null for a missing value" if _has_nan(body) else ""
        raise UserError(str(error), hint=hint) from None
    except UnicodeDecodeError:
        raise UserError("the JSON is not UTF-8", hint="encode the body as UTF-8") from None
    except RecursionError:
        raise UserError("the JSON is nested too deeply", hint="a row is one flat object") from None


def _python_type(feature: Column) -> Any:
    kind = _PYTHON_TYPES[feature.kind]
    return kind | None if feature.nullable else kind


def _explain(text: str, is_row: bool = True) -> str:
    """Return msgspec's message in the words of a person who knows JSON and tables."""
    text = text.replace(
        "Object missing required field", "a row lacks the column" if is_row else "there has to be the field"
    )
    text = text.replace("Object contains unknown field", f"there is no {'column' if is_row else 'field'}")
    for python, plain in (("`float", "`number"), ("`int", "`number"), ("`str", "`string"), ("`bool", "`true or false")):
        text = text.replace(python, plain)
    return text[:500]


def _lacking(text: str, body: bytes | bytearray, known: Collection[str]) -> str:
    """Return which columns a row lacks: msgspec stops at the first of them."""
    place = re.search(r"\$\.rows\[(\d+)\]", text)
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _explain(text)  # what follows the incomplete row cannot be read at all
    rows = plain.get("rows")
    row = rows[int(place[1])] if place and isinstance(rows, list) else plain
    missing = [f"`{name[:80]}`" for name in known if name not in row] if isinstance(row, dict) else []
    if not missing:
        return _explain(text)
    more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
    columns = "the column" if len(missing) == 1 else "the columns"
    return f"a row lacks {columns} {', '.join(missing[:_NUM_NAMED])}{more} - at `{place[0] if place else '$'}`"


def _hint(text: str, known: Collection[str], app: str) -> str:
    listed = f"GET /v2/models/{app} lists the columns"
    if known and "unknown field" in text:
        name = text.split("`")[1] if text.count("`") >= 2 else ""
        near = get_close_matches(name, known, n=1)
        return f"did you mean '{near[0]}'?" if near else listed
    if "got `null`" in text:
        return "this column has no missing values; send a value"
    if known and "missing required" in text:
        return f"{listed}; a missing value of a nullable column is null"
    return ""


def _has_nan(body: bytes | bytearray) -> bool:
    return b"NaN" in body or b"Infinity" in body
