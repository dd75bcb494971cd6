"""What every stage of a lifecycle is asked and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from datahall.app.jobs import Cancel
from datahall.core.errors import NotFoundError
from datahall.core.jobs import Report
from datahall.core.ports import Catalogue
from datahall.core.records import App, Change, EntryKind, R, Version
from datahall.spec.schema import AppSpec


@dataclass(frozen=True, kw_only=True)
class StageCall:
    """One step to do: for which application, with which outputs of the steps before it."""

    app: App
    spec: AppSpec
    folder: Path
    """The application file's folder, to which its paths are relative."""
    key: str
    name: str
    """The step's name, such as `train/forest`."""
    upstream: dict[str, dict[str, str]]
    """Outputs (role to id) of every step before this one, by step name."""
    champion: Version | None
    report: Report
    cancel: Cancel

    @property
    def subject(self) -> str:
        """The candidate that the step is about: what stands behind the slash of its name."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did: the changes to write, all in one act, and the outputs that later steps read."""

    changes: tuple[Change, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    kind: EntryKind = "step.completed"
    body: dict[str, Any] = field(default_factory=dict)
    summary: str = ""


class Stage(Protocol):
    """Does one kind of step."""

    def run(self, call: StageCall) -> StageResult:
        """Do the step; write nothing but through the result's changes."""


def ensure(catalogue: Catalogue, record: R) -> tuple[Change, ...]:
    """Return the change that adds `record`, or none where its id, named by its content, is there already."""
    try:
        catalogue.get(type(record), record.id)
    except NotFoundError:
        return (Change(new=record),)
    return ()
