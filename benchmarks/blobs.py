"""How fast objects are stored and read, as a ratio to `cp` and to the same work in plain library calls.

Run it on a quiet machine with twice `--size-mb` free: `python benchmarks/blobs.py [--size-mb 1024] [--folder DIR]`. The
plain calls compress, encrypt and write the same frames with one sync, in one thread; `cp` is followed by a sync of what
it wrote. Half of the bytes can be compressed. Contestants take turns; figures are medians of three; higher is better.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.backends.blobs.cached import CachedBlobStore
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore
from datahall.core.records import Grant, Tree
from datahall.security.frames import FRAME_BYTES
from datahall.security.packing import put_tree
from datahall.security.trees import TreeReader

RUNS = 3
NUM_FILES = 10_000
LEVEL = 1  # as `security/frames.py`
BLOCK_BYTES = 4096
TEAM = "bench"
GOAL = 0.70


def main() -> None:
    """Print one table a workload: median MB/s, the ratio to `cp` and to the plain calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; its disk is what is measured")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        bench = Bench(Path(name), asked.size_mb * 1_000_000)
        bench.one_file()
        bench.many_files()
        bench.cached_read()


class Bench:
    """The source data, and a place to write to that is emptied before each measurement."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        self.place, self.size_bytes = place, size_bytes
        self.file, self.folder = place / "source.bin", place / "source"
        self.out = place / "out"
        self.folder.mkdir()
        data = half_compressible(seed=1)
        with self.file.open("wb") as file:
            for piece in _repeated(data, size_bytes):
                file.write(piece)
        with self.file.open("rb") as file:
            for number in range(NUM_FILES):
                path = self.folder / f"{number // 100:03}" / f"{number:05}.bin"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(file.read(size_bytes // NUM_FILES))

    def one_file(self) -> None:
        """One large file: stored, and read again whole."""
        sealed = Plain()
        kept = LocalBlobStore(self.place / "kept")
        grant = kept.write(_pieces(self.file), team=TEAM)
        sealed.write([self.file], self.place / "stored")
        self.race(
            "put, one file",
            {
                "cp and sync": lambda: _cp(self.file, self.out / "copy"),
                "zstd + AES-GCM, plain calls": lambda: sealed.write([self.file], self.out / "plain"),
                "datahall": lambda: LocalBlobStore(self.out / "blobs").write(_pieces(self.file), team=TEAM),
            },
        )
        self.race(
            "get, one file",
            {
                "cp and sync": lambda: _cp(self.file, self.out / "copy"),
                "zstd + AES-GCM, plain calls": lambda: sealed.read(self.place / "stored", self.out / "plain"),
                "datahall": lambda: _write_file(self.out / "file", kept, grant),
            },
        )
        (self.place / "stored").unlink()
        shutil.rmtree(self.place / "kept")

    def many_files(self) -> None:
        """As many small files: stored as a tree, and restored."""
        sealed = Plain()
        kept = LocalBlobStore(self.place / "kept")
        tree = put_tree(self.folder, kept, team=TEAM)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        sealed.write(files, self.place / "stored")
        sizes = [(path.relative_to(self.folder), path.stat().st_size) for path in files]
        self.race(
            f"put, {NUM_FILES:,} files",
            {
                "cp and sync": lambda: _cp(self.folder, self.out / "copy"),
                "zstd + AES-GCM, plain calls": lambda: sealed.write(files, self.out / "plain"),
                "datahall": lambda: put_tree(self.folder, LocalBlobStore(self.out / "blobs"), team=TEAM),
            },
        )
        self.race(
            f"get, {NUM_FILES:,} files",
            {
                "cp and sync": lambda: _cp(self.folder, self.out / "copy"),
                "zstd + AES-GCM, plain calls": lambda: sealed.restore(self.place / "stored", self.out / "plain", sizes),
                "datahall": partial(self.restore, kept, tree),
            },
        )
        (self.place / "stored").unlink()
        shutil.rmtree(self.place / "kept")

    def restore(self, store: LocalBlobStore, tree: Tree) -> None:
        """Write a copy of a tree's folder."""
        TreeReader(store, tree, team=TEAM).restore(self.out / "again")

    def cached_read(self) -> None:
        """One large object, already in the cache in front of a bucket; nothing is written."""
        (self.place / "bucket").mkdir()
        bucket = ObjectBlobStore((self.place / "bucket").as_uri())
        store = CachedBlobStore(bucket, self.place / "cache", limit_bytes=2 * self.size_bytes)
        sealed = Plain()
        sealed.write([self.file], self.place / "stored")
        grant = store.write(_pieces(self.file), team=TEAM)
        _drain(store.read(grant, team=TEAM))
        self.race(
            "read, one file in the cache",
            {
                "plain file": lambda: _drain(_pieces(self.file)),
                "zstd + AES-GCM, plain calls": lambda: _drain(sealed.pieces(self.place / "stored")),
                "datahall": lambda: _drain(store.read(grant, team=TEAM)),
            },
        )
        stats = store.stats()
        print(
            f"cache: {stats.hits} hits, {stats.misses} misses, hit rate {stats.hit_rate:.2f}, {stats.held_bytes} bytes\n"
        )

    def race(self, title: str, contestants: dict[str, Callable[[], object]]) -> None:
        """Let contestants take turns over an empty place; print their medians and ratios."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(RUNS):
            for name, run in contestants.items():
                shutil.rmtree(self.out, ignore_errors=True)
                self.out.mkdir()
                os.sync()
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
        shutil.rmtree(self.out, ignore_errors=True)
        rates = {name: self.size_bytes / 1e6 / statistics.median(values) for name, values in times.items()}
        copy, plain, ours = rates.values()
        print(f"{title:<34} {'MB/s':>9} {'of the first':>13} {'of plain calls':>15}   ({RUNS} runs each, in turn)")
        for name, rate in rates.items():
            print(f"{name:<34} {rate:>9.0f} {rate / copy:>13.2f} {rate / plain:>15.2f}")
        print(f"{'':<34} goal {GOAL:.2f} of the plain calls: {'met' if ours / plain >= GOAL else 'MISSED'}\n")


class Plain:
    """The peer: the same frames through zstd and AES-GCM, by plain library calls in a loop, and one sync."""

    def __init__(self) -> None:
        self._key = AESGCM.generate_key(bit_length=256)

    def write(self, sources: list[Path], target: Path) -> None:
        """Write all files, one after the other, as one sealed file."""
        packer, cipher = zstandard.ZstdCompressor(level=LEVEL), AESGCM(self._key)
        with target.open("wb") as out:
            held = bytearray()
            number = 0
            for source in sources:
                for piece in _pieces(source):
                    held += piece
                    while len(held) >= FRAME_BYTES:
                        number = _seal(out, packer, cipher, number, bytes(held[:FRAME_BYTES]))
                        del held[:FRAME_BYTES]
            if held:
                _seal(out, packer, cipher, number, bytes(held))
            out.flush()
            os.fsync(out.fileno())

    def pieces(self, source: Path) -> Iterator[bytes]:
        """Yield the plain frames of a sealed file."""
        unpacker, cipher = zstandard.ZstdDecompressor(), AESGCM(self._key)
        with source.open("rb") as file:
            number = 0
            while head := file.read(4):
                sealed = file.read(int.from_bytes(head, "big"))
                yield unpacker.decompress(cipher.decrypt(number.to_bytes(12, "big"), sealed, None))
                number += 1

    def read(self, source: Path, target: Path) -> None:
        """Write the plain bytes of a sealed file."""
        with target.open("wb") as out:
            for piece in self.pieces(source):
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())

    def restore(self, source: Path, target: Path, sizes: list[tuple[Path, int]]) -> None:
        """Write the files of a sealed file below a folder."""
        for folder in sorted({(target / path).parent for path, _ in sizes}):
            folder.mkdir(parents=True, exist_ok=True)
        pieces, held = self.pieces(source), b""
        for path, size_bytes in sizes:
            while len(held) < size_bytes:
                held += next(pieces)
            (target / path).write_bytes(held[:size_bytes])
            held = held[size_bytes:]


def half_compressible(*, seed: int) -> bytes:
    """Return 64 MB of blocks that are noise and text of few letters by turns."""
    draw = random.Random(seed)  # noqa: S311  a seeded choice of bytes
    blocks = []
    for _ in range(64_000_000 // (2 * BLOCK_BYTES)):
        blocks += [draw.randbytes(BLOCK_BYTES), draw.randbytes(BLOCK_BYTES // 8) * 8]
    return b"".join(blocks)


def _repeated(data: bytes, size_bytes: int) -> list[memoryview]:
    # The window of a frame is 1 MiB: a repetition after 64 MB is as good as new to the compressor.
    view = memoryview(data)
    return [view[: min(len(data), size_bytes - at)] for at in range(0, size_bytes, len(data))]


def _seal(out: BinaryIO, packer: zstandard.ZstdCompressor, cipher: AESGCM, number: int, plain: bytes) -> int:
    sealed = cipher.encrypt(number.to_bytes(12, "big"), packer.compress(plain), None)
    out.write(len(sealed).to_bytes(4, "big"))
    out.write(sealed)
    return number + 1


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(FRAME_BYTES):
            yield piece


def _write_file(target: Path, store: LocalBlobStore, grant: Grant) -> None:
    with target.open("wb") as out:
        for piece in store.read(grant, team=TEAM):
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())


def _cp(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)  # noqa: S603, S607  the peer
    subprocess.run(["sync", "--file-system", target], check=True)  # noqa: S603, S607  the peer


def _drain(pieces: Iterable[bytes]) -> None:
    for _ in pieces:
        pass


if __name__ == "__main__":
    main()
