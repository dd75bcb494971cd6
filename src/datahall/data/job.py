"""The data job: sources become the Parquet parts of one immutable snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from datahall.core.canonical import canonical_json
from datahall.core.errors import DataError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import BlobStore
from datahall.core.records import Column, ColumnKind, Grant, Source
from datahall.data.contract import DataRequest, DataResult
from datahall.data.describe import statistics
from datahall.data.frames import ROW, SUBJECT, to_parquet
from datahall.data.parts import divide
from datahall.data.read import RawRows, all_columns, read_source, stack
from datahall.data.split import PARTS, pseudonyms
from datahall.data.table import Table, column_of, columns_used, make_table
from datahall.spec.schema import DataSection


def run(request: DataRequest, blobs: BlobStore, report: Report) -> DataResult:
    """Read, check, type and divide the sources, and store the parts.

    The same rows under the same data section give the same bytes, whatever their order and in however many files.
    Raises DataError that names file, row and column of what is wrong.
    """
    section = DataSection.model_validate(request.data)
    raw = _read(request, section, report)
    report(Progress(done=0.5, total=1, message="checking the contract"))
    table = make_table(raw, section, request.task)
    report(Progress(done=0.7, total=1, message="dividing the rows"))
    table, parts = divide(table, section, request.task)
    report(Progress(done=0.8, total=1, message="writing the snapshot"))
    frames = _frames(table, parts, section.split.seed)
    return _store(request, table, frames, raw.sources, blobs)


def _read(request: DataRequest, section: DataSection, report: Report) -> RawRows:
    tables, sources = [], []
    for number, (path, source) in enumerate(zip(request.sources, section.sources, strict=True)):
        report(Progress(done=0.5 * number / len(request.sources), total=1, message=f"reading {source.path}"))
        table, record = read_source(Path(path), source.format, source.path)
        tables.append(table)
        sources.append(record)
    return stack(tables, sources, columns_used(section, all_columns(tables)))


def _store(
    request: DataRequest, table: Table, frames: dict[str, pl.DataFrame], sources: tuple[Source, ...], blobs: BlobStore
) -> DataResult:
    seen = frames["train"]
    features = tuple(
        column_of(name, table.kinds[name], table.features[name], seen[name]) for name in table.features.columns
    )
    _refuse_unseen(seen, features)
    kind: ColumnKind = "category" if request.task == "classification" else "number"
    target = column_of(table.target.name, kind, table.target, table.target)
    summary = statistics(seen, (*features, target)) | {
        "num_rows_all": table.num_rows,
        "num_rows_dropped": table.num_dropped,
        "num_rows_repeated": int(table.num_rows - len(table.features.unique())),
    }

    def put(data: bytes) -> Grant:
        return blobs.put(data, team=request.team)

    return DataResult(
        sources=sources,
        features=features,
        target=target,
        sensitive=tuple(column_of(group.name, "category", group, group) for group in table.groups),
        has_subject=table.subjects is not None,
        num_rows=table.num_rows,
        num_rows_dropped=table.num_dropped,
        splits={name: put(to_parquet(frame)) for name, frame in frames.items()},
        split_rows={name: frame.height for name, frame in frames.items()},
        statistics=put(canonical_json(summary)),
    )


def _frames(table: Table, parts: np.ndarray, seed: int) -> dict[str, pl.DataFrame]:
    """Cut the table into its four parts; only the outcomes carry groups and pseudonyms."""
    whole = table.features.with_columns(table.target)
    outcomes = pl.DataFrame([table.target, *table.groups])
    if table.subjects is not None:
        outcomes = outcomes.with_columns(pseudonyms(table.subjects, seed).alias(SUBJECT))
    held = pl.Series(parts == PARTS.index("holdout"))
    return {
        "train": whole.filter(pl.Series(parts == PARTS.index("train"))),
        "validation": whole.filter(pl.Series(parts == PARTS.index("validation"))),
        "holdout_inputs": table.features.filter(held).with_row_index(ROW).cast({ROW: pl.Int64}),
        "holdout_outcomes": outcomes.filter(held).with_row_index(ROW).cast({ROW: pl.Int64}),
    }


def _refuse_unseen(train: pl.DataFrame, features: tuple[Column, ...]) -> None:
    empty = [column.name for column in features if train[column.name].null_count() == train.height]
    if empty:
        names = ", ".join(f"'{name}'" for name in empty)
        hint = "leave it out with ignore, or bring more rows"
        raise DataError(f"no training row has a value of {names}", where="data.columns", hint=hint)
