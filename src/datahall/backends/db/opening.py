"""Opens the catalogue that a hall is kept in, whichever database that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.ports import Clock

if TYPE_CHECKING:
    from datahall.backends.db.postgres import PostgresCatalogue


def open_catalogue(place: str | Path, clock: Clock, *, entry_key: bytes = b"") -> SqliteCatalogue | PostgresCatalogue:
    """Return the catalogue at `place`: the path of a SQLite file, or the URL of a Postgres database.

    Raises UserError for a URL of something else, for a database that is no hall, or where the driver is not installed;
    SchemaError for another version's schema; UnavailableError where it cannot be reached.
    """
    if not is_url(place):
        return SqliteCatalogue(Path(place), clock, entry_key=entry_key)
    from datahall.backends.db.postgres import PostgresCatalogue  # noqa: PLC0415  (halls in a file never load it)

    return PostgresCatalogue(str(place), clock, entry_key=entry_key)


def is_url(place: str | Path) -> bool:
    """Return whether `place` names a server rather than a file."""
    return isinstance(place, str) and "://" in place
