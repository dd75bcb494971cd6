"""Finds the record of an answer wherever it lies, on this disk or in the blob store, and erases it there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from datahall.app.vault import Vault
from datahall.core.errors import ConflictError, NotFoundError
from datahall.core.ids import HALL_TEAM
from datahall.core.ports import Catalogue
from datahall.core.records import Act, Answer, AnswerSegment, Artifact, Change
from datahall.ledger import tree
from datahall.registry.segments import segments_holding
from datahall.serve.answers import AnswerIdParts
from datahall.serve.segment_files import SEALED, Segment, find_local, is_of
from datahall.serve.stored import MEDIA_TYPE, StoredSegment, decode_segment, encode_segment

_NUM_CACHED = 4


class Kept(NamedTuple):
    """An answer's record, or why there is none."""

    answer: Answer | None
    root: str | None
    """The Merkle root recomputed from the segment that holds it, None while that is still being written."""
    state: Literal["kept", "lost", "erased"]


class Archive:
    """All records of answers that the hall still has. Any threads may use one; a few segments stay decrypted in memory."""

    def __init__(self, catalogue: Catalogue, vault: Vault, folder: Path, key: bytes) -> None:
        """`folder` is where gateways write, `key` the hall's answer key."""
        self._catalogue, self._vault, self._folder, self._key = catalogue, vault, folder, key
        self._cached: OrderedDict[str, StoredSegment] = OrderedDict()
        self._turn = threading.Lock()

    def find(self, parts: AnswerIdParts) -> Answer:
        """Return the record of the answer that an opened id speaks of.

        Raises NotFoundError, saying which, where it was erased or lost.
        """
        kept = self.look(parts)
        if kept.answer is None:
            why = "was erased" if kept.state == "erased" else "is lost: power failed within 0.1 s of the answer"
            raise NotFoundError(f"the answer was given by this hall, but its record {why}")
        return kept.answer

    def look(self, parts: AnswerIdParts) -> Kept:
        """Return what is left of an answer. Raises IntegrityError where the segment that should hold it is damaged."""
        try:
            segment, index = find_local(self._folder, parts, self._key)
        except NotFoundError:
            # Looked for second: a segment is recorded as moved before its file goes.
            return self._look_in_store(parts)
        return Kept(segment.answer(index), root_of(segment) if segment.path.suffix == SEALED else None, "kept")

    def erase(self, gateway: str, answers: Collection[AnswerIdParts], *, actor: str) -> int:
        """Erase these answers' records from the blob store; return how many were there.

        Each segment is replaced by one that holds their leaves instead, so its root and all other proofs hold on; the
        old object and its key are gone for good. What was erased before is passed over. Raises ConflictError, and erases
        nothing, where a record is still in a segment that has not been moved.
        """
        places: dict[str, tuple[AnswerSegment, set[int]]] = {}
        for parts in answers:
            holder = self._holder(gateway, parts)
            places.setdefault(holder.id, (holder, set()))[1].add(parts.sequence)
        return sum(self._erase_from(segment, sequences, actor) for segment, sequences in places.values())

    def _look_in_store(self, parts: AnswerIdParts) -> Kept:
        erased = False
        for segment in segments_holding(self._catalogue, parts.gateway, parts.sequence, parts.at_ns):
            if erased and not _spans(segment, parts):
                break
            stored = self._load(segment)
            answer = stored.answer(parts.sequence - stored.first_sequence)
            if answer is not None and is_of(answer, parts):
                return Kept(answer, tree.root_over(stored.leaf_list()).hex(), "kept")
            erased = erased or (answer is None and _spans(segment, parts))
        return Kept(None, None, "erased" if erased else "lost")

    def _holder(self, gateway: str, parts: AnswerIdParts) -> AnswerSegment:
        for segment in segments_holding(self._catalogue, gateway, parts.sequence, parts.at_ns):
            if _spans(segment, parts):
                return segment
        raise ConflictError(
            f"answer {parts.sequence} of gateway {gateway} lies in no segment that was moved into the blob store",
            hint="segments move when they are a minute old: try again then",
        )

    def _erase_from(self, segment: AnswerSegment, sequences: set[int], actor: str) -> int:
        stored = self._load(segment)
        left = stored.without(sequences)
        num_erased = len(left.leaves) - len(stored.leaves)
        if not num_erased:
            return 0
        old = self._catalogue.get(Artifact, f"{HALL_TEAM}/{segment.digest}")
        digest, changes = self._vault.store(HALL_TEAM, encode_segment(left), MEDIA_TYPE)
        new = msgspec.structs.replace(segment, digest=digest, num_erased=len(left.leaves))
        body = {"segment": segment.id, "root": segment.root, "num_erased": num_erased}
        replaced = (Change(old=segment, new=new), *changes, Change(old=old))
        self._catalogue.act(Act(kind="answers.erased", actor=actor, body=body, changes=replaced))
        with self._turn:
            self._cached.pop(segment.digest, None)
        self._vault.remove(old)
        return num_erased

    def _load(self, segment: AnswerSegment) -> StoredSegment:
        with self._turn:
            if segment.digest in self._cached:
                self._cached.move_to_end(segment.digest)
                return self._cached[segment.digest]
        stored = decode_segment(self._vault.read(HALL_TEAM, segment.digest), segment.id)
        with self._turn:
            self._cached[segment.digest] = stored
            while len(self._cached) > _NUM_CACHED:
                self._cached.popitem(last=False)
        return stored


def root_of(segment: Segment) -> str:
    """Return the Merkle root over one leaf for each record of a segment on this disk, in hexadecimal."""
    return tree.root_over([tree.leaf_hash(record) for record in segment.raw]).hex()


def _spans(segment: AnswerSegment, parts: AnswerIdParts) -> bool:
    """Whether the segment was written when the id says that the answer was given; an id has whole milliseconds."""
    return segment.first_at_ns // 1_000_000 <= parts.at_ns // 1_000_000 <= segment.last_at_ns // 1_000_000
