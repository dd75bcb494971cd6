"""Immutable bytes named by their digest, and the right to read them."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from datahall.core.records.base import Record


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The right to read one stored object: whoever holds it can, nobody else can.

    `digest` is the SHA-256 of the plain bytes and `size_bytes` their number; `object` is the random name of what is
    stored, which tells nothing about it; `key` is the AES-256 data key of that object alone. A job is handed only the
    grants that it needs.
    """

    digest: str
    object: str
    size_bytes: int
    key: bytes


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """The right to read one stored folder: its manifest, and the packs that hold the files' bytes.

    `digest` is that of the logical content alone (paths, digests, sizes), so equal folders have equal digests however
    they were packed.
    """

    digest: str
    manifest: Grant
    packs: tuple[Grant, ...]


class Artifact(Record, frozen=True, kw_only=True):
    """A stored object; `id` is `team/digest`, `wrapped_key` its data key under the master key."""

    KIND: ClassVar[str] = "artifact"
    INDEX: ClassVar[tuple[str, ...]] = ("team", "digest")

    team: str
    digest: str
    object: str
    size_bytes: int
    wrapped_key: bytes
    media_type: str

    def excluded_by(self) -> tuple[tuple[str, str], ...]:
        """Return the condemnations of its object and of the master key over its data key.

        What garbage collection may remove, nobody can name any more; nor what a master key opens that is to be destroyed.
        """
        return (("garbage", f"{self.team}/{self.object}"), ("retired_master", self.master))

    @property
    def master(self) -> str:
        """The id of the master key that wraps the data key, in hex; `KeyRing.wrap` puts it behind the format byte."""
        return self.wrapped_key[1:9].hex()
