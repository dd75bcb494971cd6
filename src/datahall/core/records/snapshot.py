"""One immutable version of an application's data."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from datahall.core.records.base import Record

ColumnKind = Literal["number", "category", "boolean"]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column as models see it: `categories` in the order in which they are encoded, sorted."""

    name: str
    kind: ColumnKind
    categories: tuple[str, ...] = ()
    nullable: bool = False

    def outline(self) -> Column:
        """Return it without its categories, which are values of people's rows: what a record may hold of it."""
        return msgspec.structs.replace(self, categories=())


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file that went into a snapshot, by the digest of its bytes."""

    name: str
    digest: str
    size_bytes: int
    num_rows: int


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the rows: `artifact` is the digest of a Parquet object."""

    name: Literal["train", "validation", "holdout_inputs", "holdout_outcomes"]
    artifact: str
    num_rows: int


class Snapshot(Record, frozen=True, kw_only=True):
    """An immutable version of a dataset: `id` is `snap_` and the digest of what determines its rows."""

    KIND: ClassVar[str] = "snapshot"
    INDEX: ClassVar[tuple[str, ...]] = ("app",)

    app: str
    team: str
    sources: tuple[Source, ...]
    recipe_digest: str
    """Digest of the spec's data section: target, contract, split, seed."""
    features: tuple[Column, ...]
    """Outlines, as of `target` and `sensitive`: the categories stand in the artifact `columns` alone."""
    target: Column
    sensitive: tuple[Column, ...]
    has_subject: bool
    splits: tuple[Split, ...]
    statistics: str
    """Digest of the JSON artifact with each column's statistics (of the training rows only)."""
    num_rows: int
    num_rows_dropped: int
    made_at_ns: int
    columns: str = ""
    """Digest of the JSON artifact with the columns and their categories; empty where an older hall kept them here."""

    def split(self, name: str) -> Split:
        """Return the split called `name`."""
        return next(split for split in self.splits if split.name == name)
