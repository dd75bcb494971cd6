"""A job process: does one stage's work with the grants that it was given, and says how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from datahall.app.jobs import JobOrder
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.launch.child import enter
from datahall.core.clock import SystemClock
from datahall.core.errors import DatahallError, NotFoundError
from datahall.core.jobs import Failure, Message, Progress, Report
from datahall.core.ports import Answerer
from datahall.core.records import Grant
from datahall.core.registry import Registry

# A job loads the one stage that it runs: a data job never imports scikit-learn.
STAGES: Registry[Callable[..., Any]] = Registry(
    "stage",
    {
        "data": "datahall.data.job:run",
        "train": "datahall.train.job:run",
        "export": "datahall.optimize.job:run",
        "evaluate": "datahall.evaluate.job:run",
    },
)
REQUESTS: Registry[type[Any]] = Registry(
    "request",
    {
        "data": "datahall.data.contract:DataRequest",
        "train": "datahall.train.contract:TrainRequest",
        "export": "datahall.optimize.contract:ExportRequest",
        "evaluate": "datahall.evaluate.contract:EvaluateRequest",
    },
)
ANSWERERS: Registry[Callable[[str], Answerer]] = Registry(
    "transport", {"unix": "datahall.backends.transport.unix:UnixAnswerer"}
)


class JobBlobs:
    """Reads the hall's objects, writes into the job's own folder; fulfils the BlobStore port."""

    def __init__(self, hall: LocalBlobStore, own: LocalBlobStore) -> None:
        self._hall = hall
        self._own = own

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store into the job's own folder."""
        return self._own.put(data, team=team)

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """Store what passes through into the job's own folder."""
        return self._own.write(chunks, team=team)

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Read what was granted, or what this job made itself."""
        try:
            return self._own.get(grant, team=team)
        except NotFoundError:
            return self._hall.get(grant, team=team)

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Read a range of what was granted, or of what this job made itself."""
        try:
            return self._own.read(grant, team=team, start=start, stop=stop)
        except NotFoundError:
            return self._hall.read(grant, team=team, start=start, stop=stop)

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object of the job's own."""
        self._own.delete(object_name, team=team)

    def list(self, *, team: str) -> list[str]:
        """List the job's own objects."""
        return self._own.list(team=team)


def main() -> int:
    """Run one job; the exit status is 0 when a result was sent."""
    context = enter()
    order = msgspec.json.decode(context.request, type=JobOrder)
    blobs = JobBlobs(LocalBlobStore(Path(order.blobs)), LocalBlobStore(Path(order.staging)))

    def report(progress: Progress) -> None:
        context.send(Message(progress=progress))

    try:
        context.send(Message(result=_run(order, blobs, report)))
    except DatahallError as error:
        context.send(
            Message(failure=Failure(error=type(error).__name__, what=error.what, where=error.where, hint=error.hint))
        )
        return error.exit_code
    return 0


def _run(order: JobOrder, blobs: JobBlobs, report: Report) -> Any:
    request = msgspec.json.decode(order.request, type=REQUESTS.load(order.stage))
    work = STAGES.load(order.stage)
    if order.stage == "evaluate":
        return work(request, blobs, report, SystemClock(), ANSWERERS.load("unix"))
    return work(request, blobs, report)
