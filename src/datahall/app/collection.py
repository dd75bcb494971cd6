"""Garbage collection of the blob store: removes what the ledger does not reach, and never what a writer is about to name.

1. An object that no artifact names, and that was seen so for `grace_s`, is condemned: an act writes its Garbage record.
2. The artifacts are read once more. One that names it now was written before the condemnation: it is pardoned.
3. Any later act that names a condemned object is refused in its own transaction (`Artifact.excluded_by`), so nothing can name it
   again, and it is removed. A crash before that leaves a condemned object, which the next pass removes.

Safety rests on the order of these transactions alone. The grace only spares writers who are slow the work of storing
again, so it is counted on the monotonic clock of this process, and no jump of a clock matters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from datahall.core.ports import BlobStore, Catalogue, Clock, Coordinator
from datahall.core.records import Act, App, Artifact, Change, EntryKind, Garbage

LEASE: Final = "blobs"
"""Held while objects are removed; a backup holds it while it copies them. The mark of `backup/mark.py` keeps the two apart
within one process, which would get the lease twice."""
GRACE_S: Final = 3600.0
_BATCH: Final = 500  # objects an act


class Collector:
    """Collects in passes; each is safe to stop at any point and to run beside any number of writers."""

    def __init__(
        self,
        catalogue: Catalogue,
        blobs: BlobStore,
        coordinator: Coordinator,
        clock: Clock,
        *,
        undisturbed: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(enter_result=True),
        grace_s: float = GRACE_S,
    ) -> None:
        """`undisturbed` yields whether nobody on this machine copies objects at the moment."""
        self._catalogue, self._blobs, self._coordinator, self._clock = catalogue, blobs, coordinator, clock
        self._undisturbed = undisturbed
        self._grace_ns = int(grace_s * 1e9)
        self._seen_ns: dict[str, int] = {}

    def collect(self) -> int:
        """Do one pass; return how many objects were removed: none while a backup or another pass goes on."""
        with self._undisturbed() as free:
            return self._collect_all() if free else 0

    def _collect_all(self) -> int:
        lease = self._coordinator.acquire(LEASE)
        if lease is None:
            return 0
        try:
            return sum(self._collect(team) for team in self._teams())
        finally:
            self._coordinator.release(lease)

    def _collect(self, team: str) -> int:
        there = set(self._blobs.list(team=team))
        condemned = {garbage.object for garbage in self._catalogue.find(Garbage, team=team)}
        self._condemn(team, sorted(self._overdue(team, there - condemned - self._named(team))))
        # Only now is it sure what no act can name any more.
        left = {garbage.object for garbage in self._catalogue.find(Garbage, team=team)} & there
        doomed = left - self._pardon(team, left)
        for object_name in sorted(doomed):
            self._blobs.delete(object_name, team=team)
        return len(doomed)

    def _overdue(self, team: str, unnamed: set[str]) -> set[str]:
        now_ns = self._clock.monotonic_ns()
        mine = f"{team}/"
        for key in [key for key in self._seen_ns if key.startswith(mine) and key.removeprefix(mine) not in unnamed]:
            del self._seen_ns[key]
        return {
            object_name
            for object_name in unnamed
            if now_ns - self._seen_ns.setdefault(f"{team}/{object_name}", now_ns) >= self._grace_ns
        }

    def _condemn(self, team: str, objects: list[str]) -> None:
        self._act("blobs.condemned", team, [Change(new=_garbage(team, name)) for name in objects])

    def _pardon(self, team: str, condemned: set[str]) -> set[str]:
        """Give back and return those that an artifact names: its act was written before the condemnation."""
        named = condemned & self._named(team)
        self._act("blobs.pardoned", team, [Change(old=_garbage(team, name)) for name in sorted(named)])
        return named

    def _act(self, kind: EntryKind, team: str, changes: list[Change]) -> None:
        for first in range(0, len(changes), _BATCH):
            some = changes[first : first + _BATCH]
            body = {"team": team, "num_objects": len(some)}
            self._catalogue.act(Act(kind=kind, actor="collector", body=body, changes=tuple(some)))

    def _named(self, team: str) -> set[str]:
        return {artifact.object for artifact in self._catalogue.find(Artifact, team=team)}

    def _teams(self) -> list[str]:
        found = self._catalogue
        return sorted({artifact.team for artifact in found.find(Artifact)} | {app.team for app in found.find(App)})


def _garbage(team: str, object_name: str) -> Garbage:
    return Garbage(id=f"{team}/{object_name}", team=team, object=object_name)
