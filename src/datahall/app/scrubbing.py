"""Reads every object of a hall again: each frame, each whole digest, before somebody needs it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from datahall.app.backup.mark import BackupMark
from datahall.backends.blobs.scrub import ScrubbedStore, ScrubResult, scrub
from datahall.core.hall import HallPaths
from datahall.core.jobs import Progress
from datahall.core.ports import Catalogue
from datahall.core.records import Artifact, Grant
from datahall.security.keys import KeyRing

Told = Callable[[str, Progress], None]


class Scrubbed(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a whole hall, by team."""

    teams: dict[str, ScrubResult]

    @property
    def num_objects(self) -> int:
        """How many objects were read."""
        return sum(result.num_checked for result in self.teams.values())

    @property
    def num_bytes(self) -> int:
        """How many plain bytes they hold."""
        return sum(result.num_bytes for result in self.teams.values())

    @property
    def problems(self) -> list[str]:
        """A line for each object that is damaged or missing."""
        return [
            line
            for team, result in sorted(self.teams.items())
            for line in (
                *(f"{team}/{damage.object} is damaged and was put aside: {damage.why}" for damage in result.damaged),
                *(f"{team}/{name} is missing" for name in result.missing),
            )
        ]


def scrub_hall(catalogue: Catalogue, store: ScrubbedStore, keys: KeyRing, paths: HallPaths, told: Told) -> Scrubbed:
    """Read every object that an artifact names; nothing is collected meanwhile.

    `catalogue` may be a copy of one moment. Raises ConflictError while a backup or a collection goes on.
    """
    grants: dict[str, list[Grant]] = {}
    with BackupMark(paths.backup_lock).backing_up():
        for artifact in catalogue.find(Artifact):
            key = keys.unwrap(artifact.wrapped_key, team=artifact.team, object=artifact.object)
            grant = Grant(digest=artifact.digest, object=artifact.object, size_bytes=artifact.size_bytes, key=key)
            grants.setdefault(artifact.team, []).append(grant)
        teams = {
            team: scrub(store, found, team=team, report=lambda progress, team=team: told(team, progress))  # type: ignore[misc]
            for team, found in sorted(grants.items())
        }
    return Scrubbed(teams=teams)
