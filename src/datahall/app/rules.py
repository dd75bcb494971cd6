"""What `hall.toml` says about teams, read again whenever the file changes."""

from __future__ import annotations

import os

from datahall.app.settings import read_settings
from datahall.core.errors import UserError
from datahall.core.hall import HallPaths
from datahall.core.records import TeamRule


class TeamRules:
    """The rules of all teams as the file says them now; a file that cannot be read leaves those of before."""

    def __init__(self, paths: HallPaths) -> None:
        self._paths = paths
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self._rules: dict[str, TeamRule] = {}
        self._problem = ""

    def __call__(self) -> dict[str, TeamRule]:
        """Return the rule of each team that has one. Costs one stat while the file stays as it is."""
        seen = self._stamp()
        if seen != self._seen:
            try:
                teams = read_settings(self._paths).teams
            except UserError as error:
                self._problem = f"the rules of before stay: {error}"
            else:
                self._problem = ""
                self._rules = {name: team.rule for name, team in sorted(teams.items())}
            self._seen = seen
        return self._rules

    def problems(self) -> tuple[str, ...]:
        """Return why the newest file does not count; empty while it does."""
        return (self._problem,) if self._problem else ()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._paths.settings)  # noqa: PTH116  each round of the reconciler: no Path object made
        except OSError:
            return None
        return status.st_ino, status.st_ctime_ns, status.st_size
