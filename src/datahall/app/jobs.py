"""Runs a stage's work in a process of its own that holds nothing but what the work needs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from datahall.core import errors
from datahall.core.ids import new_id
from datahall.core.jobs import Failure, Report
from datahall.core.ports import BlobStore, Launcher, Limits, ProcessSpec
from datahall.core.ports.clock import Clock
from datahall.core.records import Grant

Result = TypeVar("Result")


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a job process reads from its standard input."""

    stage: str
    request: msgspec.Raw
    blobs: str
    """Folder of the hall's objects; only those that the request has grants for can be opened."""
    staging: str
    """Folder for the objects that the job makes."""


class ObjectStore(BlobStore, Protocol):
    """A blob store whose objects are files or can be made so, that single ones can be shown to a job."""

    @property
    def folder(self) -> Path:
        """Where the objects lie."""

    def path(self, object_name: str, *, team: str) -> Path:
        """Return the file of one object, and make it be there if the store can."""

    def hold(self, grants: Iterable[Grant], *, team: str) -> AbstractContextManager[tuple[Path, ...]]:
        """Make objects be there as files, in the order of the grants, for as long as the block runs."""

    def take(self, staging: Path) -> None:
        """Move every object of another store's folder into this one."""


class Cancel:
    """A way to stop what runs from another thread; whoever runs something registers how to stop it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], object]] = []
        self.asked = False

    def ask(self) -> None:
        """Stop what runs now, and everything that would run next."""
        with self._lock:
            self.asked = True
            stops = list(self._stops)
        for stop in stops:
            stop()

    @contextmanager
    def calling(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call `stop` if asked while the block runs. Raises UnavailableError if asked before."""
        with self._lock:
            if self.asked:
                raise errors.UnavailableError("stopped on request", hint="run it again to go on where it stopped")
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)


class Jobs:
    """Starts job processes and waits for their results."""

    def __init__(self, launcher: Launcher, blobs: ObjectStore, work: Path, clock: Clock) -> None:
        self._launcher = launcher
        self._blobs = blobs
        self._work = work
        self._clock = clock

    def run(
        self,
        stage: str,
        request: Any,
        result_type: type[Result],
        *,
        team: str,
        report: Report,
        cancel: Cancel,
        readable: tuple[Path, ...] = (),
    ) -> Result:
        """Run one stage over `request` and return its result.

        Every Grant inside the request opens one object to the job; `readable` adds plain files.
        Raises the error that the job failed with, and UnavailableError when cancelled.
        """
        name = new_id(stage, self._clock)
        staging = self._work / name
        staging.mkdir(mode=0o700, parents=True)
        order = JobOrder(
            stage=stage,
            request=msgspec.Raw(msgspec.json.encode(request)),
            blobs=str(self._blobs.folder),
            staging=str(staging),
        )
        try:
            with self._blobs.hold(grants_in(request), team=team) as objects:
                spec = ProcessSpec(
                    main="job",
                    name=name,
                    request=order,
                    readable=(*objects, *readable),
                    writable=(staging,),
                    connects=stage == "evaluate",  # it measures a shadow replica, on whose socket it asks
                    limits=Limits(num_threads=1),
                )
                result = self._talk(spec, report, cancel)
            self._blobs.take(staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        assert result is not None, "a job ends with a result or a failure"
        return msgspec.convert(result, result_type)

    def _talk(self, spec: ProcessSpec, report: Report, cancel: Cancel) -> Any:
        """Start a job, pass on its progress, and return the result it sends. Raises the error it failed with."""
        process = self._launcher.start(spec)
        result: Any = None
        with cancel.calling(lambda: process.stop(grace_seconds=2.0)):
            try:
                for message in process.messages():
                    if message.progress is not None:
                        report(message.progress)
                    if message.failure is not None:
                        raise _error(message.failure, cancel)
                    if message.result is not None:
                        result = message.result
            finally:
                process.stop(grace_seconds=2.0)
        return result


def grants_in(value: Any) -> list[Grant]:
    """Return every Grant inside a request, in the order of its fields."""
    if isinstance(value, Grant):
        return [value]
    if isinstance(value, msgspec.Struct):
        return [grant for name in value.__struct_fields__ for grant in grants_in(getattr(value, name))]
    if isinstance(value, dict):
        return [grant for item in value.values() for grant in grants_in(item)]
    if isinstance(value, list | tuple):
        return [grant for item in value for grant in grants_in(item)]
    return []


def _error(failure: Failure, cancel: Cancel) -> errors.DatahallError:
    if cancel.asked:
        return errors.UnavailableError("stopped on request", hint="run it again to go on where it stopped")
    kind = getattr(errors, failure.error, errors.UnavailableError)
    if not (isinstance(kind, type) and issubclass(kind, errors.DatahallError)) or kind is errors.SpecError:
        kind = errors.UnavailableError
    return kind(failure.what, where=failure.where, hint=failure.hint)
