"""Makes a backup of a hall that goes on working: the database first, then every object that it names, then the answers."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from datahall import __version__
from datahall.app.backup.form import DATABASE, Absent, Manifest, is_member_name, object_name
from datahall.app.backup.mark import BackupMark
from datahall.app.backup.objects import SoundObjects, StoredObjects
from datahall.app.backup.reader import Archive
from datahall.app.backup.target import Target
from datahall.app.backup.telling import Teller
from datahall.app.backup.writer import ArchiveWriter
from datahall.app.events import BackedUp, Notify
from datahall.app.jobs import Cancel
from datahall.app.origin import origin_of
from datahall.backends.db.snapshot import Told
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.tables import REVISION
from datahall.core.clock import iso
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock
from datahall.core.records import AnswerSegment, Artifact
from datahall.ledger.checkpoint import read_note
from datahall.security.keys import KeyRing
from datahall.serve.segment_files import OPEN, SEALED, read_segment, segment_files

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What the copied database says of itself; `checkpoint` is the note of its newest signed tree head."""

    at_ns: int
    num_entries: int
    checkpoint: str | None
    artifacts: tuple[Artifact, ...]
    """One for every stored object that it names, sorted by team and object."""
    moved: tuple[AnswerSegment, ...]
    """The stretches of the answer log whose records are among those objects."""


class Backups:
    """Makes backups of one hall, one at a time.

    `snapshot` copies the database as it is at one moment into a new SQLite file. What is acknowledged before `make` is
    called is in the backup; what is written while it runs may be.
    """

    def __init__(
        self,
        paths: HallPaths,
        keys: KeyRing,
        blobs: StoredObjects,
        clock: Clock,
        snapshot: Callable[[Path, Told], None],
        *,
        alone: Callable[[], AbstractContextManager[object]] = nullcontext,
        is_erased: Callable[[Artifact], bool] = lambda _: False,
    ) -> None:
        """`alone` keeps processes on other machines from removing objects while its block runs.

        `is_erased` says whether the hall knows an artifact no more that the copy of its database still names.
        """
        self._alone, self._is_erased = alone, is_erased
        self._paths, self._keys, self._blobs, self._clock = paths, keys, blobs, clock
        self._snapshot = snapshot

    def make(self, file: Path, *, replace: bool, notify: Notify, cancel: Cancel) -> BackedUp:
        """Write the hall into `file`, read it back, and only then give it its name.

        An object that is damaged or missing is left out and named: it must not keep all others from being backed up.

        Raises ConflictError where `file` is there already (unless it is a backup and `replace`), where it lacks less than
        this one would, and where another backup goes on; StorageFullError where the disk does not take it. Whatever is
        raised, no `file` was put in place.
        """
        began_ns = self._clock.monotonic_ns()
        teller = Teller(notify, cancel, self._clock)
        target = Target(file, replace=replace)
        with (
            BackupMark(self._paths.backup_lock).backing_up(),
            self._alone(),
            self._room() as room,
            target.written() as part,
        ):
            # Before the database: what is moved into the blob store from now on is in the one or in the other.
            segments = _copy_segments(self._paths.answers, room, self._keys.answer_key)
            moment = self._copy_database(room, teller)
            segments = _settled(segments, moment.moved, room)
            writer = ArchiveWriter.begin(part, self._keys, origin_of(self._keys.signer))
            absent = self._copy(writer, room, moment, segments, teller)
            manifest = writer.finish(_manifest(writer, moment, absent))
            if manifest.damaged:
                target.check_no_better(self._keys, manifest.damaged)
            target.sync(part)
            self._read_back(target.part, manifest, teller)
            target.place()
        took_s = (self._clock.monotonic_ns() - began_ns) / 1e9
        return _backed_up(target.path, manifest, moment, writer.num_bytes, took_s, self._paths.keys)

    @contextmanager
    def _room(self) -> Iterator[Path]:
        """Yield an empty folder inside the hall, mode 0700; the mark keeps it to one backup."""
        room = self._paths.work / "backup"
        shutil.rmtree(room, ignore_errors=True)  # of a backup that was killed
        room.mkdir(mode=0o700, parents=True)
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def _copy_database(self, room: Path, teller: Teller) -> Moment:
        at_ns = self._clock.now_ns()
        with teller.step("database") as step:
            self._snapshot(room / DATABASE, lambda done, total: step.at(done, total, "pages"))
            moment = self._moment(room / DATABASE, at_ns)
            step.summary = f"{moment.num_entries:,} entries"
        return moment

    def _moment(self, database: Path, at_ns: int) -> Moment:
        catalogue = SqliteCatalogue(database, self._clock, entry_key=self._keys.entry_key)
        try:
            newest = catalogue.checkpoint()
            size = newest.size if newest else 0
            artifacts = {(artifact.team, artifact.object): artifact for artifact in catalogue.find(Artifact)}
            return Moment(
                at_ns=at_ns,
                num_entries=size + len(catalogue.entries(size)),
                checkpoint=newest.note if newest else None,
                artifacts=tuple(artifact for _, artifact in sorted(artifacts.items())),
                moved=tuple(catalogue.find(AnswerSegment)),
            )
        finally:
            catalogue.close()

    def _copy(
        self, writer: ArchiveWriter, room: Path, moment: Moment, segments: list[Path], teller: Teller
    ) -> tuple[Absent, ...]:
        """Write all members; return what had to be left out."""
        sound, absent = SoundObjects(self._blobs, self._keys, room), []
        with teller.step("copy") as step:
            writer.add(DATABASE, step.watch(_chunks(room / DATABASE)))
            total = len(moment.artifacts)
            for number, artifact in enumerate(moment.artifacts):
                step.at(number, total, "objects")
                name = object_name(artifact.team, artifact.object)
                try:
                    path = sound.file(artifact)
                except (NotFoundError, IntegrityError) as error:
                    absent.append(Absent(name=name, why=error.what, erased=self._is_erased(artifact)))
                    continue
                writer.add(name, step.watch(_chunks(path)), packing="stored")
            for path in segments:
                step.at(total, total, path.name)
                writer.add(f"answers/{path.name}", _chunks(path))
            for report in sorted(self._paths.reports.glob("*.html")):
                if is_member_name(f"reports/{report.name}") and report.is_file() and not report.is_symlink():
                    writer.add(f"reports/{report.name}", _chunks(report))
            step.summary = f"{total - len(absent):,} objects, {len(segments):,} segments of the answer log"
        return tuple(absent)

    def _read_back(self, part: Path, manifest: Manifest, teller: Teller) -> None:
        with teller.step("read back") as step, Archive.open(part, self._keys) as archive:
            assert archive.manifest == manifest, "what was written is what is read"
            for number, _ in enumerate(archive.check(), 1):
                step.at(number, len(manifest.members), "files")
            step.summary = f"{len(manifest.members):,} files are as they were written"


def _copy_segments(answers: Path, room: Path, key: bytes) -> list[Path]:
    """Copy the answer log's files: its segments, open ones up to their last whole write, and where each log goes on."""
    copies: list[Path] = []
    if not answers.is_dir():
        return copies
    for path in segment_files(answers):
        copied = _copied(path, room) or _copied(path.with_suffix(SEALED), room)  # sealed since it was listed
        if copied is None:
            continue  # moved into the blob store since, and so in the database's copy
        if copied.suffix == OPEN:
            torn = read_segment(copied, key).num_torn_bytes
            with copied.open("r+b") as file:
                file.truncate(copied.stat().st_size - torn)
        copies.append(copied)
    # After the segments: a gateway writes its mark before it seals, so this one lies behind all that was copied.
    marks = (_copied(path, room) for path in sorted(answers.glob("*.next")))
    return [*copies, *(mark for mark in marks if mark is not None)]


def _settled(copies: list[Path], moved: tuple[AnswerSegment, ...], room: Path) -> list[Path]:
    """Return the copies without what moved into the database before it was copied, and let each log go on behind that.

    Else the restored hall would give out the numbers of moved answers again, and its segments would not be taken.
    """
    stems = {segment.id for segment in moved}
    copies = [path for path in copies if path.suffix not in {OPEN, SEALED} or path.stem not in stems]
    following: dict[str, int] = {}
    for segment in moved:
        stop = segment.first_sequence + segment.num_answers
        following[segment.gateway] = max(stop, following.get(segment.gateway, 0))
    for gateway, stop in following.items():
        mark = room / f"{gateway}.next"
        said = mark.read_bytes().strip() if mark in copies else b"0"
        if said.isdigit():  # else it is damaged, and whoever opens the log is told what to do
            mark.write_bytes(b"%d\n" % max(stop, int(said)))
            copies = [*(path for path in copies if path != mark), mark]
    return copies


def _copied(path: Path, room: Path) -> Path | None:
    try:
        return Path(shutil.copyfile(path, room / path.name))
    except FileNotFoundError:
        return None


def _chunks(path: Path) -> Iterator[bytes]:
    # O_NONBLOCK: a FIFO planted under a name of ours must not hang the backup.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError("a device lies where a file of the hall should be", where=str(path))
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _manifest(writer: ArchiveWriter, moment: Moment, absent: tuple[Absent, ...]) -> Manifest:
    return Manifest(
        id=writer.header.id,
        origin=writer.header.origin,
        version=__version__,
        schema=REVISION,
        at_ns=moment.at_ns,
        num_entries=moment.num_entries,
        checkpoint=moment.checkpoint,
        members=(),
        absent=absent,
    )


def _backed_up(file: Path, manifest: Manifest, moment: Moment, size_bytes: int, took_s: float, keys: Path) -> BackedUp:
    return BackedUp(
        file=str(file),
        id=manifest.id,
        origin=manifest.origin,
        at=iso(manifest.at_ns),
        num_entries=manifest.num_entries,
        num_signed=read_note(manifest.checkpoint).size if manifest.checkpoint else 0,
        num_objects=len(moment.artifacts) - len(manifest.absent),
        size_bytes=size_bytes,
        took_s=took_s,
        keys=str(keys),
        damaged=manifest.damaged,
    )
