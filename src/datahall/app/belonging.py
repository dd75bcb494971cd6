"""A hall's keys and its database belong together: neither is ever taken for another hall's."""

from __future__ import annotations

from importlib import import_module

from datahall.app.origin import origin_of
from datahall.app.settings import read_settings
from datahall.core.clock import SystemClock
from datahall.core.errors import IntegrityError, NotFoundError, UserError
from datahall.core.hall import HallPaths
from datahall.core.ports import LedgerStore
from datahall.security.keys import KeyRing


def open_keys(paths: HallPaths) -> KeyRing:
    """Return the hall's keys; make those that are missing only where its database holds nothing yet.

    Raises UserError where it does: what new keys sign would not go on with what is there. Hold the hall's lock.
    """
    try:
        return KeyRing.open(paths.keys)
    except NotFoundError as error:
        if _holds_entries(paths):
            raise _other_keys(
                paths, f"keys of this hall are missing ({error.where}), and its database is in use"
            ) from error
    return KeyRing.open(paths.keys, create=True)


def check_belongs(store: LedgerStore, keys: KeyRing, paths: HallPaths) -> None:
    """Raise UserError where the ledger in `store` was begun with other keys than these; writes nothing."""
    checkpoint = store.checkpoint()
    # Before the first checkpoint only the vouchers say whose entries these are.
    if not (checkpoint.origin == origin_of(keys.signer) if checkpoint else _vouched(store)):
        raise _other_keys(paths, "this database belongs to a hall with other keys")


def _vouched(store: LedgerStore) -> bool:
    try:
        store.pending(1)
    except IntegrityError:
        return False
    return True


def _holds_entries(paths: HallPaths) -> bool:
    settings = read_settings(paths)
    if settings.database is None and not paths.db.exists():
        return False
    # Only here: a hall whose keys are there need not load a database for them.
    catalogue = import_module("datahall.app.stores").open_catalogue(settings, paths, SystemClock(), None)
    try:
        return not catalogue.is_empty()
    finally:
        catalogue.close()


def _other_keys(paths: HallPaths, what: str) -> UserError:
    return UserError(
        what, where=str(paths.root), hint=f"copy that hall's keys/ to {paths.keys}, or name an empty database"
    )
