"""Reads every object of given grants again, before somebody needs it, and says what is damaged, missing or nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import BlobStore
from datahall.core.records import Grant
from datahall.security.opening import check_object_whole

STALE_AFTER_S: Final = 86_400.0
"""A writer that added nothing for a day is gone."""


class ScrubbedStore(BlobStore, Protocol):
    """A store that can put objects aside and clear what killed writers left."""

    def quarantine(self, object_name: str, *, team: str) -> None:
        """Move an object, durably, to where nothing reads it and nothing deletes it."""

    def clear(self, *, team: str, older_than_s: float) -> list[str]:
        """Remove what killed writers left, last added to longer ago than that, and return what it was; nothing else."""

    def strange(self, *, team: str) -> list[str]:
        """Return what lies among a team's objects and is none."""


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is not what was stored, and why that is known."""

    object: str
    why: str


class ScrubResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrub found: names of objects, but for `cleared` and `strange`, which are what lay beside them."""

    num_checked: int
    num_bytes: int
    damaged: tuple[Damage, ...]
    missing: tuple[str, ...]
    stray: tuple[str, ...]
    strange: tuple[str, ...]
    cleared: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether everything that a grant names is there and right."""
        return not self.damaged and not self.missing


def scrub(
    store: ScrubbedStore,
    grants: Sequence[Grant],
    *,
    team: str,
    report: Report = lambda _: None,
    stale_after_s: float = STALE_AFTER_S,
) -> ScrubResult:
    """Check every frame and the whole digest of each object, and put damaged ones aside.

    `grants` are all grants of the team: an object that none of them names is stray. It is only reported, since one that
    was stored meanwhile looks the same. Raises UnavailableError where the store does not answer.
    """
    there = set(store.list(team=team))
    total = sum(grant.size_bytes for grant in grants)
    done = 0
    damaged: list[Damage] = []
    missing: list[str] = []
    for grant in grants:
        try:
            check_object_whole(store, grant, team=team)
        except NotFoundError:
            missing.append(grant.object)
        except IntegrityError as error:
            damaged.append(Damage(object=grant.object, why=error.what))
            if grant.object in there:
                store.quarantine(grant.object, team=team)
        done += grant.size_bytes
        report(Progress(done=done, total=total, message=f"{len(damaged)} damaged, {len(missing)} missing"))
    return ScrubResult(
        num_checked=len(grants),
        num_bytes=total,
        damaged=tuple(damaged),
        missing=tuple(missing),
        stray=tuple(sorted(there - {grant.object for grant in grants})),
        strange=tuple(store.strange(team=team)),
        cleared=tuple(store.clear(team=team, older_than_s=stale_after_s)),
    )
