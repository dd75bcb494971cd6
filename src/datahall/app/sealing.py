"""Puts the Merkle root of every finished stretch of the answer log into the ledger."""

from __future__ import annotations

from pathlib import Path

from datahall.core.errors import NotFoundError
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Act, Answer, AnswerSegment, Change
from datahall.ledger import tree
from datahall.serve.segments import SEALED, first_sequence, locate, segment_files, segment_leaves


def seal_segments(catalogue: Catalogue, answers: Path, clock: Clock) -> int:
    """Record each sealed segment that the catalogue does not know; return how many there were."""
    num_sealed = 0
    for path in segment_files(answers):
        if path.suffix != SEALED or _known(catalogue, path):
            continue
        leaves = segment_leaves(path)
        segment = AnswerSegment(
            id=path.stem,
            gateway=path.stem.rpartition("-")[0],
            first_sequence=first_sequence(path),
            num_answers=len(leaves),
            root=_root(leaves).hex(),
            sealed_at_ns=clock.now_ns(),
        )
        body = {"segment": segment.id, "root": segment.root, "num_answers": segment.num_answers}
        catalogue.act(Act(kind="answers.sealed", actor="control", body=body, changes=(Change(new=segment),)))
        num_sealed += 1
    return num_sealed


def segment_root(answers: Path, answer: Answer) -> str | None:
    """Return the root recomputed from the sealed segment that holds `answer`, None while it is still open."""
    path, _ = locate(answers, answer)
    return _root(segment_leaves(path)).hex() if path.suffix == SEALED else None


def _known(catalogue: Catalogue, path: Path) -> bool:
    try:
        catalogue.get(AnswerSegment, path.stem)
    except NotFoundError:
        return False
    return True


def _root(leaves: list[bytes]) -> bytes:
    return tree.append(0, [tree.leaf_hash(leaf) for leaf in leaves], lambda _: [])[1]
