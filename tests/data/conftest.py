from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datahall.core.canonical import digest_bytes
from datahall.core.records import Grant
from datahall.data import job
from datahall.data.contract import DataRequest, DataResult


class Shelf:
    """The BlobStore port over a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        name = f"{team}-{len(self.objects)}"
        self.objects[name] = bytes(data)
        return Grant(digest=digest_bytes(data), object=name, size_bytes=len(data), key=bytes(32))

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        return self.put(b"".join(chunks), team=team)

    def get(self, grant: Grant, *, team: str) -> bytes:
        return self.objects[grant.object]

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        yield self.objects[grant.object][start:stop]

    def delete(self, object_name: str, *, team: str) -> None:
        self.objects.pop(object_name, None)

    def list(self, *, team: str) -> list[str]:
        return sorted(self.objects)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(scope="session")
def new_shelf() -> type[Shelf]:
    return Shelf


@pytest.fixture
def run_data(shelf: Shelf) -> Callable[..., DataResult]:
    return partial(run_on, shelf)


@pytest.fixture(scope="session")
def run_with() -> Callable[..., DataResult]:
    return run_on


@pytest.fixture(scope="session")
def csv_table() -> Callable[..., list[list[str]]]:
    return make_rows


@pytest.fixture(scope="session")
def write_csv() -> Callable[..., Path]:
    return write_rows


def run_on(
    shelf: Shelf, paths: list[Path], target: str = "y", task: Any = "classification", **section: Any
) -> DataResult:
    given = section.pop("format", None)
    sources = [{"path": path.name or "/", "format": given or _format(path)} for path in paths]
    data = {"sources": sources, "target": target, **section}
    request = DataRequest(app="app", team="main", task=task, data=data, sources=tuple(map(str, paths)))
    return job.run(request, shelf, lambda _: None)


def _format(path: Path) -> str:
    return {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}[path.suffix]


def make_rows(num_rows: int = 120, seed: int = 0) -> list[list[str]]:
    """A header and rows with a number, a category, a boolean, a person and a label."""
    rng = np.random.default_rng(seed)
    rows = [["x", "colour", "member", "person", "y"]]
    rows += [
        [
            f"{rng.normal():.6f}" if rng.random() > 0.05 else "",
            str(rng.choice(["red", "green", "blue, dark"])),
            str(rng.choice(["true", "false"])),
            f"p{rng.integers(num_rows // 3)}",
            str(rng.choice(["no", "yes"])),
        ]
        for _ in range(num_rows)
    ]
    return rows


def write_rows(path: Path, rows: list[list[str]]) -> Path:
    cells = ['"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n') else cell for row in rows for cell in row]
    width = len(rows[0])
    lines = [",".join(cells[start : start + width]) for start in range(0, len(cells), width)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
