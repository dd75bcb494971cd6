from __future__ import annotations

import csv
import datetime as dt
import io
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.core.errors import DataError
from datahall.data.formats import FORMATS
from datahall.data.peek import column_names
from datahall.data.read import stack

CSV = {
    "empty": (b"", "f.csv", "the file is empty"),
    "only blank lines": (b"\n\r\n\n", "f.csv", "the file is empty"),
    "no rows": (b"a,b\n", "f.csv", "a header but not one row"),
    "short row": (b"a,b\n1,2\n3\n", "f.csv:3", "the row has 1 field, the header 2"),
    "long row": (b"a,b\n1,2\n\n3,4,5\n6,7,8\n", "f.csv:4", "the row has 3 fields, the header 2 (2 such rows)"),
    "short row after a quoted line break": (b'a,b\n"x\ny",2\n3\n', "f.csv:4", "the row has 1 field"),
    "same name twice": (b"a,b,a\n1,2,3\n", "f.csv", "two columns are called 'a'"),
    "no name": (b",b\n1,2\n", "f.csv", "column 1 has no name"),
    "reserved name": (b"__row,b\n1,2\n", "f.csv", "begins with two underscores"),
    "latin-1": ("a,b\n1,Ü\n".encode("latin-1"), "f.csv:2", "byte 0xdc is not UTF-8"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "f.csv", "UTF-16"),
    "binary": (b"a,b\n1,\x00\n", "f.csv:2", "zero byte"),
    "parquet": (b"PAR1....", "f.csv", "not a CSV file"),
    "spreadsheet": (b"PK\x03\x04....", "f.csv", "not a CSV file"),
    "open quote": (b'a,b\n1,2\n"3,4\n5,6\n', "f.csv:3", "never closed"),
    "quote inside": (b'a,b\n5" pipe,2" pipe\n', "f.csv:2", "stands inside a field"),
    "text after quote": (b'a,b\n1,2\n"x"y,2\n', "f.csv:3", "stands inside a field"),
    "semicolons": (b"a;b\n1;2\n", "f.csv", "separated by semicolons"),
    "tabs": (b"a\tb\n1\t2\n", "f.csv", "separated by tabs"),
    "old Macintosh": (b"a,b\r1,2\r3,4", "f.csv:1", "a carriage return stands alone"),
}
JSON = {
    "empty": (b"", "f.json", "not one row"),
    "no rows": (b"[]", "f.json", "not one row"),
    "number": (b"5", "f.json:1", "a number, not an object"),
    "rows of numbers": (b'[{"a": 1}, 2]', "f.json, row 2", "a number, not an object"),
    "twice": (b'[{"a": 1, "a": 2}]', "f.json:1", "the key 'a' twice"),
    "NaN": (b'[{"a": NaN}]', "f.json:1", "NaN is not JSON"),
    "cut off": (b'{"a": 1}\n{"a": 2', "f.json:2", "not JSON"),
    "depth bomb": (b'{"a":' * 100_000, "f.json:1", "nested too deeply"),
    "endless number": (b'[{"a": ' + b"9" * 5000 + b"}]", "f.json:1", "thousands of digits"),
    "latin-1": ('[{"a": "Ü"}]'.encode("latin-1"), "f.json:1", "not UTF-8"),
}


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


PARQUET = {
    "empty": (b"", "f.parquet", "not a Parquet file"),
    "csv": (b"a,b\n1,2\n", "f.parquet", "not a Parquet file"),
    "cut off": (parquet(a=[1, 2])[:-9], "f.parquet", "damaged"),
    "no rows": (parquet(a=pl.Series([], dtype=pl.Int8)), "f.parquet", "not one row"),
}
REFUSED = {
    "object": ("json", b'[{"a": 1}, {"a": {"b": 1}}]', "f.json, row 2", "'a' is an object"),
    "array": ("json", b'{"a": 1}\n{"a": [1]}\n', "f.json, row 2", "'a' is an array"),
    "dates": ("parquet", parquet(a=[dt.date(2020, 1, 1)]), "f.parquet", "column 'a' holds dates"),
    "lists": ("parquet", parquet(a=[[1]]), "f.parquet", "no plain value"),
    "bytes": ("parquet", parquet(a=[b"x"]), "f.parquet", "no plain value"),
}
CASES = [
    pytest.param(kind, *case, id=f"{kind}-{name}")
    for kind, table in {"csv": CSV, "json": JSON, "parquet": PARQUET}.items()
    for name, case in table.items()
]


@pytest.mark.parametrize(("kind", "data", "where", "what"), CASES)
def test_a_bad_file_is_refused_with_its_place(kind, data, where, what):
    with pytest.raises(DataError) as caught:
        FORMATS.load(kind).read(data, f"f.{kind}")
    assert caught.value.where == where
    assert what in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(("kind", "data", "where", "what"), REFUSED.values(), ids=REFUSED)
def test_a_column_without_plain_values_is_refused_unless_ignored(kind, data, where, what):
    table = FORMATS.load(kind).read(data, f"f.{kind}")
    assert table.columns == ["a"]
    with pytest.raises(DataError, match=what) as caught:
        stack([table], [], ["a"])
    assert caught.value.where == where
    assert caught.value.hint
    assert stack([table], [], []).frame.width == 0


@given(st.binary(max_size=200) | st.text(alphabet='ab,"\n\r;é ', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_a_data_error(data):
    for kind in ("csv", "json"):
        try:
            table = FORMATS.load(kind).read(data, "f")
        except DataError:
            continue
        assert len(table.places) == table.frame.height > 0


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=8))
def test_quoted_fields_are_read_as_they_were_written(rows):
    rows = [(a.replace("\x00", ""), b.replace("\x00", "")) for a, b in rows]
    text = "".join('"{}","{}"\r\n'.format(*(cell.replace('"', '""') for cell in row)) for row in [("p", "q"), *rows])
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no text that a file could hold
        return
    table = FORMATS.load("csv").read(data, "f.csv")
    assert [(a or "", b or "") for a, b in table.frame.iter_rows()] == rows


@settings(max_examples=300)
@given(st.text(alphabet='ab,"\n\r é', max_size=40))
def test_what_is_read_is_what_the_standard_library_reads(body):
    text = "p,q\n" + body
    try:
        table = FORMATS.load("csv").read(text.encode(), "f.csv")
    except DataError:
        return
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row][1:]
    assert [[cell or "" for cell in row] for row in table.frame.iter_rows()] == rows


def test_lines_are_counted_through_byte_order_mark_blank_lines_and_quoted_breaks():
    table = FORMATS.load("csv").read(b'\xef\xbb\xbf\r\na,b\r\n"1\r\n1",2\r\n\r\n3,\r\n', "f.csv")
    assert table.frame.to_dict(as_series=False) == {"a": ["1\r\n1", "3"], "b": ["2", None]}
    assert [table.place(index) for index in (0, 1)] == ["f.csv:3", "f.csv:6"]


def test_the_header_alone_says_the_columns(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b'\xef\xbb\xbf"a ""1""\nx",b\r\n\xff\xff\n')
    assert column_names(path, "csv") == ['a "1"\nx', "b"]
    (tmp_path / "f.parquet").write_bytes(parquet(x=[1], y=["a"]))
    assert column_names(tmp_path / "f.parquet", "parquet") == ["x", "y"]
    (tmp_path / "f.json").write_bytes(b'{"p": 1}\n{"q": 2}\n')
    assert column_names(tmp_path / "f.json", "json") == ["p", "q"]
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "long.csv").write_bytes(b"a," * 600_000)
    for name in ("empty.csv", "long.csv"):
        with pytest.raises(DataError):
            column_names(tmp_path / name, "csv")


def test_what_is_no_readable_file_is_refused(tmp_path, run_data):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "model.pkl").write_bytes(b"x")
    (tmp_path / "sheet.xlsx").write_bytes(b"x")
    cases = {
        tmp_path / "missing.csv": "cannot be opened",
        tmp_path: "a folder",
        tmp_path / "pipe.csv": "no regular file",
        tmp_path / "model.pkl": "not read",
        tmp_path / "sheet.xlsx": "not read",
        Path("/proc/self/mem\x00"): "cannot be opened",
    }
    for path, what in cases.items():
        with pytest.raises(DataError, match=what):
            column_names(path, "csv")
        with pytest.raises(DataError, match=what):
            run_data([path], format="csv")


def test_a_file_that_lacks_a_column_is_named_with_the_nearest_spelling(tmp_path, run_data, csv_table, write_csv):
    rows = csv_table()
    other = [["x", "color", "member", "person", "y"], *rows[1:]]
    with pytest.raises(DataError) as caught:
        run_data([write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", other)])
    assert (caught.value.where, caught.value.what) == ("b.csv", "there is no column 'colour'")
    assert "'color'" in caught.value.hint
    with pytest.raises(DataError, match="no column 'ignored'"):
        run_data([tmp_path / "a.csv"], ignore=["ignored"])
