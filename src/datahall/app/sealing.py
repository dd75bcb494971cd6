"""Moves every finished stretch of the answer log into the blob store, and its Merkle root into the ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datahall.app.archive import root_of
from datahall.app.vault import Vault
from datahall.core.durable import remove
from datahall.core.errors import ConflictError, DatahallError, IntegrityError, NotFoundError
from datahall.core.ids import HALL_TEAM
from datahall.core.ports import Catalogue
from datahall.core.ports.clock import Clock
from datahall.core.records import Act, AnswerSegment, Change
from datahall.registry.segments import hour_of
from datahall.serve.segment_files import SEALED, Segment, first_sequence, gateway_of, read_segment, segment_files
from datahall.serve.stored import MEDIA_TYPE, StoredSegment, encode_segment

_Stamp = tuple[int, int, int]


class Sealer:
    """Seals what gateways have finished, again and again: a pass costs what is new, and a look at the folder.

    A segment's object is stored first; one act then makes it an artifact and records its root; only then its file goes.
    Whatever ends in between, the next pass goes on from what is recorded. A segment that cannot be read does not keep
    the others from it: it is one of `problems`, and is read again only once its file has changed. Not for several
    threads at once.
    """

    def __init__(self, catalogue: Catalogue, vault: Vault, answers: Path, key: bytes, clock: Clock) -> None:
        """`answers` is the folder in which gateways write, `key` the hall's answer key."""
        self._catalogue, self._vault, self._clock = catalogue, vault, clock
        self._answers, self._key = answers, key
        self._failed: dict[str, tuple[_Stamp, str]] = {}
        self._stopped_by = ""
        self._stored: tuple[str, str, tuple[Change, ...]] | None = None
        """Root, digest and changes of an object whose act failed: the next pass does not store it again."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be sealed and why, a line for each segment; empty if all is well."""
        return (*((self._stopped_by,) if self._stopped_by else ()), *(why for _, why in self._failed.values()))

    def seal(self) -> int:
        """Move each sealed segment into the blob store; return how many there were.

        Raises DatahallError and OSError for what concerns more than one segment: a catalogue or a blob store that
        cannot be written. The segments then wait where they are.
        """
        paths = {path.stem: path for path in segment_files(self._answers) if path.suffix == SEALED}
        self._failed = {stem: failed for stem, failed in self._failed.items() if stem in paths}
        return sum(self._seal(path) for path in paths.values())

    def attempt(self) -> int:
        """Do what `seal` does, but keep as a problem what it raises; return how many were moved."""
        self._stopped_by = ""
        try:
            return self.seal()
        except Exception as error:  # noqa: BLE001  no error may end a caller's loop: nobody would start it again
            self._stopped_by = error.what if isinstance(error, DatahallError) else repr(error)
            return 0

    def _seal(self, path: Path) -> bool:
        stamp = _stamp(path)
        if stamp is None or self._failed.get(path.stem, (None,))[0] == stamp:
            return False
        try:
            segment = read_segment(path, self._key)
            root, times_ns = root_of(segment), segment.times_ns()
            known = self._known(path.stem)
            if known is not None and known.root != root:
                raise IntegrityError("another segment of this name was sealed before")  # noqa: TRY301  told like the rest
        except (IntegrityError, OSError) as error:
            why = error.what if isinstance(error, DatahallError) else str(error)
            self._failed[path.stem] = (stamp, f"{path.name} cannot be sealed: {why}")
            return False
        if known is None:
            self._record(segment, root, times_ns)
        remove(path, at="answers.moved")
        self._failed.pop(path.stem, None)
        return known is None

    def _record(self, segment: Segment, root: str, times_ns: list[int]) -> None:
        path = segment.path
        stored = StoredSegment(
            gateway=gateway_of(path), first_sequence=first_sequence(path), records=tuple(segment.raw)
        )
        if self._stored is None or self._stored[0] != root:
            self._stored = (root, *self._vault.store(HALL_TEAM, encode_segment(stored), MEDIA_TYPE))
        _, digest, changes = self._stored
        new = AnswerSegment(
            id=path.stem,
            gateway=stored.gateway,
            first_sequence=stored.first_sequence,
            num_answers=len(segment.raw),
            root=root,
            digest=digest,
            hour=hour_of(min(times_ns, default=0)),
            first_at_ns=min(times_ns, default=0),
            last_at_ns=max(times_ns, default=0),
            sealed_at_ns=self._clock.now_ns(),
        )
        body = {"segment": new.id, "root": root, "num_answers": new.num_answers}
        made = (Change(new=new), *changes)
        try:
            self._catalogue.act(Act(kind="answers.sealed", actor="control", body=body, changes=made))
        except ConflictError:  # its object was condemned, or the key that wraps its data key: store it anew
            self._stored = None
            raise
        self._stored = None

    def _known(self, name: str) -> AnswerSegment | None:
        try:
            return self._catalogue.get(AnswerSegment, name)
        except NotFoundError:
            return None


def seal_on(sealer: Sealer, wait: Callable[[], bool], problems: list[str]) -> None:
    """Seal until `wait` says that it is over; `problems` always holds what is wrong at the moment."""
    while not wait():
        sealer.attempt()
        problems[:] = [f"answer log: {why}" for why in sealer.problems]


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except FileNotFoundError:  # removed since it was listed
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
