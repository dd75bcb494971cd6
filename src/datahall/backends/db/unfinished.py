"""The marker that lies beside a database while a migration runs: a start that finds it is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec

from datahall.backends.db.schema import MIGRATE
from datahall.core.errors import SchemaError


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """From which schema to which, and the name of the snapshot that was made first."""

    source: str
    target: str
    snapshot: str | None = None


def marker_of(path: Path) -> Path:
    """Return where the marker of the database at `path` lies while it is migrated."""
    return path.with_name(f"{path.name}.migrating")


def read_marker(path: Path) -> Marker | None:
    """Return what a migration of the database at `path` was about that did not end; None where there is none.

    Raises SchemaError where nobody can say.
    """
    try:
        return msgspec.json.decode(marker_of(path).read_bytes(), type=Marker)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"a migration was cut short, and its marker cannot be read: {error}",
            where=str(marker_of(path)),
            hint="restore a backup, or put back the snapshot that lies beside the database and remove the marker",
        ) from error


def check_finished(path: Path) -> None:
    """Raise SchemaError, with the command that finishes it, where a migration was cut short."""
    marker = read_marker(path)
    if marker is not None:
        raise SchemaError(
            f"a migration from schema {marker.source} to {marker.target} was cut short; nothing is lost",
            where=str(path),
            hint=f"finish it with: {MIGRATE} --to {marker.target}",
        )
