"""Puts the Merkle root of every finished stretch of the answer log into the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datahall.core.errors import DatahallError, IntegrityError, NotFoundError
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Act, Answer, AnswerSegment, Change
from datahall.ledger import tree
from datahall.serve.segments import SEALED, first_sequence, locate, segment_files, segment_leaves

_Stamp = tuple[int, int, int]


class Sealer:
    """Seals what gateways have finished, again and again: a pass costs what is new, and a look at the folder.

    A segment that cannot be sealed does not keep the others from it: it is one of `problems`, and is read again only
    once its file has changed. Not for several threads at once.
    """

    def __init__(self, catalogue: Catalogue, answers: Path, clock: Clock) -> None:
        self._catalogue, self._answers, self._clock = catalogue, answers, clock
        self._done: set[str] = set()
        self._failed: dict[str, tuple[_Stamp, str]] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be sealed and why, a line for each segment; empty if all is well."""
        return tuple(why for _, why in self._failed.values())

    def seal(self) -> int:
        """Record each sealed segment that the catalogue does not know; return how many there were.

        Raises DatahallError and OSError for what concerns more than one segment: a catalogue that cannot be written.
        """
        paths = {path.stem: path for path in segment_files(self._answers) if path.suffix == SEALED}
        self._failed = {stem: failed for stem, failed in self._failed.items() if stem in paths}
        num_sealed = 0
        for stem, path in paths.items():
            if stem not in self._done:
                num_sealed += self._seal(path)
        return num_sealed

    def _seal(self, path: Path) -> bool:
        stamp = _stamp(path)
        if stamp is None or self._failed.get(path.stem, (None,))[0] == stamp:
            return False
        try:
            known = _known(self._catalogue, path)
            leaves = [] if known else segment_leaves(path)
        except (IntegrityError, OSError) as error:
            why = error.what if isinstance(error, DatahallError) else str(error)
            self._failed[path.stem] = (stamp, f"{path.name} cannot be sealed: {why}")
            return False
        if not known:
            self._record(path, leaves)
        self._done.add(path.stem)
        self._failed.pop(path.stem, None)
        return not known

    def _record(self, path: Path, leaves: list[bytes]) -> None:
        segment = AnswerSegment(
            id=path.stem,
            gateway=path.stem.rpartition("-")[0],
            first_sequence=first_sequence(path),
            num_answers=len(leaves),
            root=_root(leaves).hex(),
            sealed_at_ns=self._clock.now_ns(),
        )
        body = {"segment": segment.id, "root": segment.root, "num_answers": segment.num_answers}
        self._catalogue.act(Act(kind="answers.sealed", actor="control", body=body, changes=(Change(new=segment),)))


def segment_root(answers: Path, answer: Answer) -> str | None:
    """Return the root recomputed from the sealed segment that holds `answer`, None while it is still open."""
    path, _ = locate(answers, answer)
    return _root(segment_leaves(path)).hex() if path.suffix == SEALED else None


def seal_on(sealer: Sealer, wait: Callable[[], bool], problems: list[str]) -> None:
    """Seal until `wait` says that it is over; `problems` always holds what is wrong at the moment."""
    while not wait():
        try:
            sealer.seal()
        except Exception as error:  # noqa: BLE001  no error may end this thread: nobody would start it again
            problems[:] = [f"answer log: {error.what if isinstance(error, DatahallError) else repr(error)}"]
        else:
            problems[:] = [f"answer log: {why}" for why in sealer.problems]


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except FileNotFoundError:  # removed since it was listed
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _known(catalogue: Catalogue, path: Path) -> bool:
    try:
        catalogue.get(AnswerSegment, path.stem)
    except NotFoundError:
        return False
    return True


def _root(leaves: list[bytes]) -> bytes:
    return tree.append(0, [tree.leaf_hash(leaf) for leaf in leaves], lambda _: [])[1]
