"""Opens what the settings of a hall name: its catalogue, its objects, its witnesses. What is not known is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast
from urllib.parse import quote, urlsplit, urlunsplit

from datahall.app.settings import Settings, database_password, object_secret, without_password
from datahall.app.witnesses import open_witnesses
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.stores import STORES
from datahall.backends.db import opening
from datahall.backends.db.snapshot import Told, snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.unfinished import check_finished
from datahall.backends.witness.file import FileWitness, default_folder
from datahall.core.errors import UserError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock, Witness
from datahall.ledger.witnessing import Prove
from datahall.security.keys import KeyRing

if TYPE_CHECKING:
    from datahall.backends.blobs.cached import CachedBlobStore
    from datahall.backends.blobs.objects import ObjectBlobStore
    from datahall.backends.db.postgres import PostgresCatalogue

HallCatalogue: TypeAlias = "SqliteCatalogue | PostgresCatalogue"
HallBlobs: TypeAlias = "LocalBlobStore | CachedBlobStore"

_TAKEN: Final[dict[str, set[str]]] = {"gs": set(), "az": {"endpoint"}}
"""What of `objects` a store of a kind takes; one that speaks S3 takes all of it."""

CACHE_BYTES: Final = 10 << 30
"""How much of a remote object store is kept on this machine where the settings do not say."""


def open_catalogue(settings: Settings, paths: HallPaths, clock: Clock, keys: KeyRing | None) -> HallCatalogue:
    """Open the catalogue; without `keys` for reading only. Raises UserError for a database that this Datahall cannot use, and as `opening` does."""
    entry_key = b"" if keys is None else keys.entry_key
    if settings.database is None:
        _check_idle(paths, (("database_password_env", settings.database_password_env),), "database")
        return SqliteCatalogue(paths.db, clock, entry_key=entry_key)
    if urlsplit(settings.database).scheme not in {"postgresql", "postgres"}:
        raise _refused(paths, "database", settings.database, "name a database as postgresql://USER@HOST/NAME")
    check_finished(paths.db)  # the marker of a migration lies in the hall's folder, whichever database it was of
    return opening.open_catalogue(database_url(settings), clock, entry_key=entry_key)


@contextmanager
def database_file(settings: Settings, paths: HallPaths, clock: Clock, keys: KeyRing) -> Iterator[Path]:
    """Yield the hall's database as a SQLite file: itself, or one moment of a catalogue that lies elsewhere."""
    if settings.database is None:
        yield paths.db
        return
    catalogue = open_catalogue(settings, paths, clock, keys)
    try:
        with tempfile.TemporaryDirectory(dir=paths.work) as folder:
            snapshot_of(catalogue)(Path(folder) / "hall.db", lambda _done, _total: None)
            yield Path(folder) / "hall.db"
    finally:
        catalogue.close()


def snapshot_of(catalogue: HallCatalogue) -> Callable[[Path, Told], None]:
    """Return what copies one moment of the catalogue into a new SQLite file, for a backup or the verifier."""
    if isinstance(catalogue, SqliteCatalogue):
        return lambda target, told: snapshot(catalogue.path, target, told)
    export = import_module("datahall.backends.db.export").export_sqlite
    return lambda target, _told: export(catalogue, target)


def open_blobs(settings: Settings, paths: HallPaths) -> HallBlobs:
    """Open the object store: the hall's folder, or a bucket behind a cache in the hall's folder.

    Never behind `blobs/`, which holds objects that lie nowhere else: a cache evicts what lies in it. Raises UserError for
    one that this Datahall cannot use.
    """
    if settings.blobs is None:
        _check_idle(paths, (("cache_bytes", settings.cache_bytes), *_objects(settings)), "blobs")
        return LocalBlobStore(paths.blobs)
    remote = _bucket(settings, paths)
    limit_bytes = CACHE_BYTES if settings.cache_bytes is None else settings.cache_bytes
    return cast("CachedBlobStore", STORES.load("cached")(remote, paths.cache, limit_bytes=limit_bytes))


def open_truth(settings: Settings, paths: HallPaths) -> LocalBlobStore | ObjectBlobStore:
    """Open the object store itself, without a cache in front of it: what a scrub reads."""
    return LocalBlobStore(paths.blobs) if settings.blobs is None else _bucket(settings, paths)


def open_witness(settings: Settings, paths: HallPaths, prove: Prove, clock: Clock) -> Witness:
    """Open the witnesses, or the user's own folder where none is named.

    Raises UserError for one that this Datahall cannot use.
    """
    if not settings.witness:
        return FileWitness(default_folder(), prove)
    try:
        return open_witnesses(settings.witness, prove, clock)
    except UserError as error:
        raise UserError(f"witness: {error.what}", where=str(paths.settings), hint=error.hint) from error


def witness_files(settings: Settings, origin: str) -> tuple[Path, ...]:
    """Return the files in which witnesses of this machine keep the newest note of `origin`."""
    named = [name.partition(":")[2] for name in settings.witness if name.startswith("file:")]
    folders = [Path(name).expanduser() for name in named]
    if not settings.witness:
        folders = [default_folder()]
    return tuple(FileWitness(folder, lambda _old, _new: []).path(origin) for folder in folders)


def database_url(settings: Settings) -> str:
    """Return the database's URL with the password that the settings name, which stands in no file."""
    url = settings.database or ""
    if settings.database_password_env is None:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = quote(parts.username or "", safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(database_password(settings) or '', safe='')}@{host}"))


def _bucket(settings: Settings, paths: HallPaths) -> ObjectBlobStore:
    url = settings.blobs or ""
    if urlsplit(url).scheme not in {"s3", "gs", "az"}:
        raise _refused(paths, "blobs", url, "name a bucket as s3://BUCKET/PREFIX, gs://... or az://...")
    if "@" in urlsplit(url).netloc:
        raise _refused(paths, "blobs", url, "a bucket's URL takes no user or password: they belong into [objects]")
    _check_objects(settings, paths, urlsplit(url).scheme)
    plain = (settings.objects.endpoint or "").startswith("http://")
    return cast("ObjectBlobStore", STORES.load("objects")(url, options=_options(settings), allow_http=plain))


def _options(settings: Settings) -> dict[str, str]:
    """Return how obstore names what the settings say of the bucket."""
    said = settings.objects
    options = {
        "endpoint": said.endpoint,
        "region": said.region,
        "access_key_id": said.access_key_id,
        "secret_access_key": object_secret(settings),
    }
    return {name: value for name, value in options.items() if value is not None}


def _check_objects(settings: Settings, paths: HallPaths, scheme: str) -> None:
    """Refuse a setting that means nothing to this kind of store, and an endpoint that is no address."""
    for key, value in _objects(settings):
        if value is not None and key.partition(".")[2] not in _TAKEN.get(
            scheme, set(settings.objects.__struct_fields__)
        ):
            raise UserError(
                f"{key}: a bucket at {scheme}:// does not take it",
                where=str(paths.settings),
                hint="leave the line out; the store's own environment says it",
            )
    if settings.objects.endpoint is not None and not settings.objects.endpoint.startswith(("https://", "http://")):
        raise UserError(
            "objects.endpoint: this is no address of a server",
            where=str(paths.settings),
            hint="name it as https://HOST:PORT",
        )


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
