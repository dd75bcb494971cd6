"""Makes a hall out of a backup: everything is checked before any of it is put in place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from datahall.app.backup.form import Manifest, object_name
from datahall.app.backup.reader import Archive
from datahall.app.backup.staging import Staging
from datahall.app.backup.target import said_plainly
from datahall.app.backup.telling import Teller
from datahall.app.settings import read_settings
from datahall.app.supervision import read_state
from datahall.backends.db.lock import HallLock
from datahall.backends.db.schema import MIGRATE
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.tables import REVISION
from datahall.core.clock import iso
from datahall.core.errors import ConflictError, HallBusyError, IntegrityError, SchemaError, StorageFullError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock
from datahall.core.records import Artifact, Checkpoint
from datahall.ledger.checkpoint import read_note, verify_note
from datahall.ledger.verify import VerifyError, lines, verify_hall
from datahall.security.keys import KeyRing

_SPARE_BYTES = 64 << 20  # the database's log and a file system's own needs


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A hall is in place: the moment of its life that it is, and what has been lost since, as far as a witness knows.

    `lost` are the entries first <= seq < stop that were witnessed and are not in the backup, None if there are none.
    `unknown` says why a witness's note could not be believed, "" where that is not so; `num_witnesses` how many
    it asks because the hall before it did; `aside` is where that one now lies. `damaged` has a line for each
    object that the backup lacks, because it was damaged or missing when it was made.
    """

    hall: str
    at: str
    num_entries: int
    num_signed: int
    num_files: int
    size_bytes: int
    took_s: float
    lost: tuple[int, int] | None = None
    unknown: str = ""
    num_witnesses: int = 0
    damaged: tuple[str, ...] = ()
    aside: str | None = None
    migrate: str | None = None


class Restore:
    """Restores one open backup; `keys` lie in `keys_folder`, and `witnessed` is the newest note of a witness."""

    def __init__(
        self, archive: Archive, keys: KeyRing, keys_folder: Path, clock: Clock, *, witnessed: str | None = None
    ) -> None:
        self._archive, self._keys, self._keys_folder, self._clock = archive, keys, keys_folder, clock
        self._witnessed = witnessed

    def into(self, paths: HallPaths, teller: Teller, *, replace: bool = False) -> Restored:
        """Put the hall in place at `paths`.

        Raises ConflictError where something is there (unless `replace`, which moves it aside), HallBusyError where that
        runs, StorageFullError where there is no room, SchemaError for a backup of a newer Datahall, and IntegrityError
        where anything in the backup is not right. Whatever is raised, `paths` is as it was.
        """
        began_ns, manifest = self._clock.monotonic_ns(), self._archive.manifest
        _check_schema(manifest, self._archive.where)
        seen, unknown = self._seen()
        with _vacated(paths, self._clock, replace=replace) as aside, said_plainly(paths.root.parent):
            _check_room(paths, manifest)
            with Staging.beside(paths.root) as staging:
                staging.paths.create()
                self._extract(staging, teller)
                staging.put_keys(self._keys_folder)
                asks = read_settings(paths).witness if aside else ()
                staging.put_witnesses(asks)
                self._verify(staging, teller, seen)
                staging.become(paths.root, aside)
        return Restored(
            hall=str(paths.root),
            at=iso(manifest.at_ns),
            num_entries=manifest.num_entries,
            num_signed=num_signed(manifest),
            num_files=len(manifest.members),
            size_bytes=sum(member.size_bytes for member in manifest.members),
            took_s=(self._clock.monotonic_ns() - began_ns) / 1e9,
            lost=(manifest.num_entries, seen.size) if seen and seen.size > manifest.num_entries else None,
            unknown=unknown,
            num_witnesses=len(asks),
            damaged=manifest.damaged,
            aside=str(aside) if aside else None,
            migrate=MIGRATE if manifest.schema < REVISION else None,
        )

    def _extract(self, staging: Staging, teller: Teller) -> None:
        members = self._archive.manifest.members
        with teller.step("extract") as step:
            for number, member in enumerate(members):
                step.at(number, len(members), "files")
                staging.put(member.name, self._archive.read(number))
            step.summary = f"{len(members):,} files are as they were written"

    def _verify(self, staging: Staging, teller: Teller, seen: Checkpoint | None) -> None:
        manifest = self._archive.manifest
        held = [manifest.checkpoint] if manifest.checkpoint else []
        if seen and seen.size <= num_signed(manifest):  # then the backup must extend it: a fork of it is refused
            held.append(seen.note)
        with teller.step("verify") as step:
            try:
                report = verify_hall(staging.paths.db, self._keys.signer.public_key, held)
            except VerifyError as error:
                raise IntegrityError(f"the backup's database cannot be checked: {error}") from error
            if not report.ok:
                raise IntegrityError("the backup's ledger does not hold: " + "; ".join(list(lines(report))[:3]))
            if report.num_entries != manifest.num_entries:
                raise IntegrityError(
                    f"the backup's ledger has {report.num_entries} entries, its manifest says {manifest.num_entries}"
                )
            num_objects = self._check_objects(staging) if manifest.schema == REVISION else 0
            step.summary = f"{report.num_entries:,} entries hold, {num_objects:,} objects are there"

    def _check_objects(self, staging: Staging) -> int:
        names = {member.name for member in self._archive.manifest.members}
        absent = {one.name for one in self._archive.manifest.absent}
        catalogue = SqliteCatalogue(staging.paths.db, self._clock, entry_key=self._keys.entry_key)
        try:
            artifacts = catalogue.find(Artifact)
        finally:
            catalogue.close()
        for artifact in artifacts:
            if object_name(artifact.team, artifact.object) not in names | absent:
                raise IntegrityError("the backup lacks an object that its ledger names", where=artifact.id)
        return len(artifacts) - len(absent)

    def _seen(self) -> tuple[Checkpoint | None, str]:
        """Return what a witness saw, or why its note is not believed: that must not keep people from their hall."""
        if self._witnessed is None:
            return None, ""
        try:
            return verify_note(self._witnessed, self._keys.signer.public_key, origin=self._archive.manifest.origin), ""
        except IntegrityError as error:
            return None, f"the note of the witness cannot be believed: {error.what}"


def num_signed(manifest: Manifest) -> int:
    """Return how many of a backup's entries lie under a signed checkpoint."""
    return read_note(manifest.checkpoint).size if manifest.checkpoint else 0


@contextmanager
def _vacated(paths: HallPaths, clock: Clock, *, replace: bool) -> Iterator[Path | None]:
    """Yield where to move what is at `paths`, None where nothing is; it cannot be started while the block runs."""
    with ExitStack() as stack:
        if not paths.root.exists() or (paths.root.is_dir() and not any(paths.root.iterdir())):
            yield None
            return
        if not replace:
            raise ConflictError(
                "there is something already, so nothing is restored there",
                where=str(paths.root),
                hint="choose another place with --hall DIR, or move what is there aside: --force",
            )
        if read_state(paths) is not None:
            raise HallBusyError("the hall there is up", where=str(paths.root), hint="stop it with: datahall stop")
        if paths.exists:
            stack.enter_context(HallLock(paths.lock))
        stamp = iso(clock.now_ns()).translate(str.maketrans("", "", "-:."))
        yield paths.root.with_name(f"{paths.root.name}.before-{stamp}")


def _check_schema(manifest: Manifest, where: str) -> None:
    if manifest.schema > REVISION:  # four digits each, so they compare as numbers do
        raise SchemaError(
            f"this backup was made by a newer Datahall ({manifest.version}, schema {manifest.schema})",
            where=where,
            hint="upgrade with: pip install --upgrade datahall",
        )


def _check_room(paths: HallPaths, manifest: Manifest) -> None:
    needed = sum(member.size_bytes for member in manifest.members) + _SPARE_BYTES
    paths.root.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(paths.root.parent).free
    if needed > free:
        raise StorageFullError(
            f"the hall needs {needed / 1e9:.1f} GB, there are {free / 1e9:.1f} GB",
            where=str(paths.root.parent),
            hint="nothing was put in place; free some space, or choose another disk with --hall DIR",
        )
