"""The form of a backup: header, members in sealed frames, a manifest of them, and a trailer that says where it lies.

    DHBACKUP1 LF | u32 length | header as canonical JSON
    the members, one behind the other, each in frames (`cipher.py`)
    the manifest as zstd-compressed canonical JSON, in frames
    u64 offset and u64 length of the manifest | DHBACKEND LF

No byte is outside of what is checked: the header is bound into every frame, members and manifest lie without a gap
between header and trailer, and the trailer must fit the length of the file.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from datahall.app.backup.cipher import FRAME_BYTES, TAG_BYTES
from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError
from datahall.security.sealing import is_object_name, is_team_name

MAGIC: Final = b"DHBACKUP1\n"
END: Final = b"DHBACKEND\n"
TRAILER_BYTES: Final = 16 + len(END)
MAX_HEADER_BYTES: Final = 1 << 16
MAX_MANIFEST_BYTES: Final = 256 << 20
"""Plain bytes: about a million members."""
MAX_MEMBER_BYTES: Final = 1 << 40
MANIFEST: Final = 0xFFFFFFFF
"""The number under which the manifest's frames are sealed; members count from 0."""

DATABASE: Final = "hall.db"
KEY_TEAM: Final = "*backup*"
"""Stands where a blob's team stands when a data key is wrapped: no team can have this name."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(-[0-9]{15}\.(open|sealed)|\.next)")
_REPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.html")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be read without a key: whose backup it is, and its data key under that hall's master key."""

    id: str
    origin: str
    wrapped_key: bytes


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the hall: `size_bytes` and `sha256` of its bytes, and where its frames lie.

    `packing` says whether the bytes were compressed before they were sealed, or came sealed already.
    """

    name: str
    packing: Literal["zstd", "stored"]
    offset: int
    stored_bytes: int
    size_bytes: int
    sha256: str


class Absent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object that the ledger names and the backup lacks: a member's name, and why.

    `erased` says that somebody erased it while the backup was made, so that nothing is wrong.
    """

    name: str
    why: str
    erased: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup holds, and the moment of the hall's life that it is.

    `checkpoint` is the newest signed tree head in the database, None for a ledger without one; `num_entries` counts
    the entries beyond it too; `at_ns` is when the database was read.
    """

    id: str
    origin: str
    version: str
    schema: str
    at_ns: int
    num_entries: int
    checkpoint: str | None
    members: tuple[Member, ...]
    absent: tuple[Absent, ...] = ()

    @property
    def damaged(self) -> tuple[str, ...]:
        """A line for each object that was damaged or missing when this backup was made: it holds all but those."""
        return tuple(f"{one.name.partition('/')[2]}: {one.why}" for one in self.absent if not one.erased)


def object_name(team: str, stored: str) -> str:
    """Return the member's name of a stored object."""
    return f"blobs/{team}/{stored}"


def parts_of(name: str) -> tuple[str, ...]:
    """Return a member's name in its parts. Raises IntegrityError for one that no backup of ours has.

    The parts are made of what the hall itself calls its files, so none of them leads out of a folder.
    """
    parts = PurePosixPath(name).parts
    match parts:
        case ("hall.db",):
            good = True
        case ("blobs", team, stored):
            good = is_team_name(team) and is_object_name(stored)
        case ("answers", segment):
            good = _SEGMENT.fullmatch(segment) is not None
        case ("reports", report):
            good = _REPORT.fullmatch(report) is not None
        case _:
            good = False
    if not good or "/".join(parts) != name:
        raise IntegrityError("the backup holds a file that no hall has", where=name[:120])
    return parts


def is_member_name(name: str) -> bool:
    """Return whether a backup can have a member of that name."""
    try:
        parts_of(name)
    except IntegrityError:
        return False
    return True


def encode_header(header: Header) -> bytes:
    """Return the bytes with which the file begins."""
    text = canonical_json(header)
    assert len(text) <= MAX_HEADER_BYTES, "a header has a few hundred bytes"
    return MAGIC + len(text).to_bytes(4, "big") + text


def decode_manifest(data: bytes, header: Header, start: int, stop: int) -> Manifest:
    """Return the manifest of the file whose members lie from `start` to `stop`.

    Raises IntegrityError unless it belongs to `header` and its members fill exactly that space under names of ours.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the manifest cannot be read: {error}") from error
    if (manifest.id, manifest.origin) != (header.id, header.origin):
        raise IntegrityError("the manifest is that of another backup")
    _check_members(manifest.members, start, stop)
    names = {member.name for member in manifest.members}
    if any(parts_of(one.name)[0] != "blobs" or one.name in names for one in manifest.absent):
        raise IntegrityError("the manifest does not describe this file")
    return manifest


def num_frames(stored_bytes: int) -> int:
    """Return of how many frames so many stored bytes consist."""
    return -(-stored_bytes // (FRAME_BYTES + TAG_BYTES))


def _check_members(members: tuple[Member, ...], start: int, stop: int) -> None:
    names: set[str] = set()
    offset = start
    for member in members:
        parts_of(member.name)
        if member.name in names:
            raise IntegrityError("the backup holds the same file twice", where=member.name)
        names.add(member.name)
        payload = member.stored_bytes - TAG_BYTES * num_frames(member.stored_bytes)
        if (
            member.offset != offset
            or payload < 0
            or not 0 <= member.size_bytes <= MAX_MEMBER_BYTES
            or (member.packing == "stored" and payload != member.size_bytes)
            or not _SHA256.fullmatch(member.sha256)
        ):
            raise IntegrityError("the manifest does not describe this file", where=member.name)
        offset += member.stored_bytes
    if offset != stop or DATABASE not in names:
        raise IntegrityError("the manifest does not describe this file")
