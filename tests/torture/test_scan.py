"""The scanner for canaries sees through every wrapping, and sees nothing where there is nothing."""

from __future__ import annotations

import base64
import gzip
import io
import random
import sqlite3
import zipfile
import zlib
from contextlib import closing

import polars as pl
import pytest
import zstandard

from datahall.testing.canaries import make_canary, scan

CANARY = make_canary(random.Random(1))  # noqa: S311
TEXT = f"somebody called {CANARY} lives here".encode()


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data)
    return out.getvalue()


def parquet(text):
    out = io.BytesIO()
    pl.DataFrame({"name": ["a", text.decode()]}).write_parquet(out, compression="zstd")
    return out.getvalue()


WRAPPINGS = {
    "raw": lambda text: text,
    "utf-16": lambda text: text.decode().encode("utf-16-le"),
    "hex": lambda text: text.hex().encode(),
    "base64": base64.b64encode,
    "base64 of one byte more": lambda text: base64.b64encode(b"x" + text),
    "base64 of two bytes more": lambda text: base64.urlsafe_b64encode(b"xy" + text),
    "zstd": zstandard.compress,
    "zstd after a header": lambda text: b"HEAD" * 9 + zstandard.compress(text),
    "gzip": gzip.compress,
    "zlib": lambda text: b"\0\0" + zlib.compress(text),
    "zip": zipped,
    "parquet": parquet,
    "zstd in zip in base64": lambda text: base64.b64encode(zipped(zstandard.compress(text))),
    "gzip in hex": lambda text: gzip.compress(text).hex().encode(),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_canary_is_seen_through_its_wrapping(tmp_path, name):
    noise = b"" if name == "parquet" else random.Random(name).randbytes(3000)  # noqa: S311
    (tmp_path / "file").write_bytes(noise + WRAPPINGS[name](TEXT))
    assert {found.canary for found in scan(tmp_path, [CANARY, "Kanarinowhere"])} == {CANARY}


def test_a_canary_is_seen_in_a_row_that_spans_pages_and_in_a_name(tmp_path):
    with closing(sqlite3.connect(tmp_path / "some.db")) as database:
        database.execute("CREATE TABLE t (body TEXT, raw BLOB)")
        database.execute("INSERT INTO t VALUES (?, ?)", ("x" * 4000 + CANARY * 300, zlib.compress(TEXT)))
        database.commit()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / CANARY).write_bytes(b"")
    hows = {found.how for found in scan(tmp_path, [CANARY])}
    assert {"table t", "table t > zlib", "name"} <= hows


def test_random_bytes_and_what_is_left_out_are_clean(tmp_path):
    (tmp_path / "noise").write_bytes(random.Random(2).randbytes(300_000))  # noqa: S311
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "one").write_bytes(TEXT)
    assert scan(tmp_path, [CANARY], leave_out=["keys"]) == []
    assert scan(tmp_path, [CANARY]) != []
