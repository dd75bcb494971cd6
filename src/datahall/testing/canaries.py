"""Looks for words that must not stand in clear under a folder: raw, encoded, compressed, or in a database's rows.

Plant a canary (a word that stands nowhere else) where people's data comes in, let the hall work, scan its folder.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import random
import re
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
import zstandard

MAX_DEPTH: Final = 5
MAX_STREAM_BYTES: Final = 64 << 20
MAX_STREAMS: Final = 2_000
"""Places in one run of bytes at which a stream is looked for: encrypted bytes have magics by chance."""
_SQLITE: Final = b"SQLite format 3\0"
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2}){20,}")


class Found(NamedTuple):
    """One canary in clear: in which file, and what had to be undone to see it."""

    canary: str
    path: str
    how: str


def make_canary(draw: random.Random) -> str:
    """Return a word that stands nowhere else: 16 letters, so that it may be a value, a name or a class."""
    return "Kanari" + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=16))


def scan(folder: Path, canaries: Iterable[str], *, leave_out: Sequence[str] = ()) -> list[Found]:
    """Return every canary that stands in a file under `folder`, but for the top folders and files in `leave_out`.

    Looks at raw bytes, UTF-16, base64 and hexadecimal; into zstd, gzip and zlib streams at any offset, zip archives,
    Parquet and SQLite files; and into what is found in those. File names count too.
    """
    needles = [(canary, how, needle) for canary in canaries for how, needle in _needles(canary)]
    found: set[Found] = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] in leave_out:
            continue
        runs = [("name", str(name).encode())]
        if path.is_file() and not path.is_symlink():
            runs += _file_runs(path)
        for how, data in runs:
            for undone, run in _layers(data, how, 0):
                found |= {
                    Found(canary, str(name), f"{undone}, {way}" if way else undone)
                    for canary, way, needle in needles
                    if needle in run
                }
    return sorted(found)


def _needles(canary: str) -> Iterator[tuple[str, bytes]]:
    """Yield the forms in which a word may stand in a run of bytes."""
    plain = canary.encode()
    yield "", plain
    for encoding in ("utf-16-le", "utf-16-be"):
        yield encoding, canary.encode(encoding)
    yield "hex", plain.hex().encode()
    yield "hex", plain.hex().upper().encode()
    for shift in range(3):  # where the word begins within a group of three bytes
        whole = base64.b64encode(bytes(shift) + plain)
        first, last = (0, 2, 3)[shift], (shift + len(plain)) // 3 * 4
        yield "base64", whole[first:last]
        yield "base64", whole[first:last].translate(bytes.maketrans(b"+/", b"-_"))


def _file_runs(path: Path) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    if data.startswith(_SQLITE):
        # A cell that is larger than a page is cut where no search of the raw file would see it.
        return [("raw", data), *_cells(path)]
    return [("raw", data)]


def _cells(path: Path) -> list[tuple[str, bytes]]:
    """Return every text and blob of a database, read from a copy so that a living one is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        for end in ("", "-wal"):
            source = path.with_name(path.name + end)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + end))
        with closing(sqlite3.connect(copy)) as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            runs = []
            for table in tables:
                quoted = table.replace('"', '""')
                for row in connection.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608  (quoted; no value has a parameter's place here)
                    cells = (cell.encode() if isinstance(cell, str) else cell for cell in row)
                    runs += [(f"table {table}", cell) for cell in cells if isinstance(cell, bytes)]
            return runs


def _layers(data: bytes, how: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """Yield a run of bytes and, to some depth, everything that can be unpacked from it."""
    yield how, data
    if depth < MAX_DEPTH:
        for name, unpack in _UNPACKERS.items():
            for inner in unpack(data):
                if inner:
                    yield from _layers(inner, f"{how} > {name}", depth + 1)


def _streams(magics: Sequence[bytes], unpack: Callable[[bytes], bytes]) -> Callable[[bytes], Iterator[bytes]]:
    """Return a function that tries `unpack` wherever one of the magics stands."""
    pattern = re.compile(b"|".join(re.escape(magic) for magic in magics))

    def found(data: bytes) -> Iterator[bytes]:
        for number, match in enumerate(pattern.finditer(data)):
            if number >= MAX_STREAMS:
                return
            try:
                yield unpack(data[match.start() :])
            except (zlib.error, zstandard.ZstdError, OSError, EOFError):
                continue  # the magic stood there by chance

    return found


def _zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
        return reader.read(MAX_STREAM_BYTES)


def _gzip(data: bytes) -> bytes:
    return _inflate(data, zlib.MAX_WBITS | 16)


def _zlib(data: bytes) -> bytes:
    return _inflate(data, zlib.MAX_WBITS)


def _inflate(data: bytes, bits: int) -> bytes:
    return zlib.decompressobj(bits).decompress(data, MAX_STREAM_BYTES)


def _zip(data: bytes) -> Iterator[bytes]:
    if b"PK\x05\x06" not in data:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    yield file.read(MAX_STREAM_BYTES)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError):
        return  # no archive, or one that nobody can open


def _parquet(data: bytes) -> Iterator[bytes]:
    if data[:4] == data[-4:] == b"PAR1":
        try:
            yield pl.read_parquet(io.BytesIO(data)).write_csv().encode()
        except pl.exceptions.PolarsError:
            return  # damaged, or of nested columns: its pages were looked at as streams


def _base64(data: bytes) -> Iterator[bytes]:
    for number, match in enumerate(_BASE64.finditer(data)):
        if number >= MAX_STREAMS:
            return
        text = match[0].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):  # what stands before may look like part of it
            some = text[start:]
            yield base64.b64decode(some[:-1] if len(some) % 4 == 1 else some + b"=" * (-len(some) % 4))


def _hex(data: bytes) -> Iterator[bytes]:
    for number, match in enumerate(_HEX.finditer(data)):
        if number >= MAX_STREAMS:
            return
        yield binascii.unhexlify(match[0])
        yield binascii.unhexlify(match[0][1:-1])


_UNPACKERS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "zstd": _streams([b"\x28\xb5\x2f\xfd"], _zstd),
    "gzip": _streams([gzip.compress(b"")[:3]], _gzip),
    "zlib": _streams([b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"], _zlib),
    "zip": _zip,
    "parquet": _parquet,
    "base64": _base64,
    "hex": _hex,
}
