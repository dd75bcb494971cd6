"""Opens what the settings of a hall name: its catalogue, its objects, its witnesses. What is not known is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from datahall.app.settings import Settings, without_password
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.snapshot import Told, snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.witness.file import FileWitness, Prove, default_folder
from datahall.core.errors import UnavailableError, UserError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock, Witness
from datahall.ledger.checkpoint import read_note
from datahall.security.keys import KeyRing


def open_catalogue(settings: Settings, paths: HallPaths, clock: Clock, keys: KeyRing) -> SqliteCatalogue:
    """Open the catalogue. Raises UserError for a database that this Datahall cannot use."""
    if settings.database is not None:
        raise _refused(paths, "database", settings.database, "leave the line out: the catalogue is then hall.db")
    _check_idle(paths, (("database_password_env", settings.database_password_env),), "database")
    return SqliteCatalogue(paths.db, clock, entry_key=keys.entry_key)


def snapshot_of(settings: Settings, paths: HallPaths) -> Callable[[Path, Told], None]:
    """Return what copies one moment of the catalogue into a new SQLite file, for a backup."""
    assert settings.database is None, "open_catalogue has refused it"
    return partial(snapshot, paths.db)


def open_blobs(settings: Settings, paths: HallPaths) -> LocalBlobStore:
    """Open the object store. Raises UserError for one that this Datahall cannot use."""
    if settings.blobs is not None:
        raise _refused(paths, "blobs", settings.blobs, "leave the line out: objects then lie in the hall's folder")
    _check_idle(paths, (("cache_bytes", settings.cache_bytes), *_objects(settings)), "blobs")
    return LocalBlobStore(paths.blobs)


def open_witness(settings: Settings, paths: HallPaths, prove: Prove) -> Witness:
    """Open the witnesses, or the user's own folder where none is named.

    Raises UserError for one that this Datahall cannot use.
    """
    opened = tuple(_open_witness(name, paths, prove) for name in settings.witness)
    if not opened:
        return FileWitness(default_folder(), prove)
    return opened[0] if len(opened) == 1 else Witnesses(opened)


def witness_files(settings: Settings, origin: str) -> tuple[Path, ...]:
    """Return the files in which witnesses of this machine keep the newest note of `origin`."""
    folders = [Path(urlsplit(name).path) for name in settings.witness if name.startswith("file:")]
    if not settings.witness:
        folders = [default_folder()]
    return tuple(FileWitness(folder, lambda _old, _new: []).path(origin) for folder in folders)


class Witnesses:
    """Several witnesses as one: each is told, and the one that saw most is believed."""

    def __init__(self, witnesses: tuple[Witness, ...]) -> None:
        self._witnesses = witnesses

    def newest(self, origin: str) -> str | None:
        """Return the note with the most entries. Raises UnavailableError where one cannot be asked."""
        notes = [note for witness in self._witnesses if (note := witness.newest(origin)) is not None]
        return max(notes, key=lambda note: read_note(note).size, default=None)

    def publish(self, origin: str, note: str) -> None:
        """Tell each of them. Raises IntegrityError as soon as one refuses; UnavailableError once all were tried."""
        away: UnavailableError | None = None
        for witness in self._witnesses:
            try:
                if witness.newest(origin) != note:
                    witness.publish(origin, note)
            except UnavailableError as error:
                away = error
        if away is not None:
            raise away


def _open_witness(name: str, paths: HallPaths, prove: Prove) -> Witness:
    url = urlsplit(name)
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        return FileWitness(Path(url.path), prove)
    raise _refused(paths, "witness", name, "name a folder by its whole path: file:/mnt/other/witness")


def _check_idle(paths: HallPaths, given: Iterable[tuple[str, object]], needed: str) -> None:
    """Refuse what would do nothing without another key: a setting is honoured or refused, never passed over."""
    for key, value in given:
        if value is not None:
            raise UserError(
                f"{key}: it means nothing without {needed}", where=str(paths.settings), hint="leave the line out"
            )


def _refused(paths: HallPaths, key: str, url: str, hint: str) -> UserError:
    return UserError(
        f"{key}: this Datahall cannot use '{without_password(url)[:200]}'", where=str(paths.settings), hint=hint
    )


def _objects(settings: Settings) -> tuple[tuple[str, object], ...]:
    return tuple((f"objects.{name}", getattr(settings.objects, name)) for name in settings.objects.__struct_fields__)
