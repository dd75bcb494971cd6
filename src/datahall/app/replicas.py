"""Starts the processes that answer: verified bundles go to them through sealed memory, never through a disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from datahall.core.errors import UnavailableError
from datahall.core.ports import Launcher, Limits, Process, ProcessSpec
from datahall.core.records import Bundle
from datahall.serve.replica import MAX_BATCH_SECONDS, ReplicaRequest

BASE_MEMORY_BYTES = 1 << 30
"""Private memory of a replica beside its model. Measured: 70 MB with ONNX Runtime, 200 MB with scikit-learn, and some
350 MB more while a batch of the largest frame is answered."""
MEMORY_PER_BUNDLE_BYTE = 16
"""And for its model: a forest of scikit-learn takes nine times its file while it is loaded."""


class BundleReader(Protocol):
    """What gives a bundle's packed bytes, as `app.vault.Vault` does."""

    def read(self, team: str, digest: str) -> bytes:
        """Return a stored artifact's bytes."""


class Replicas:
    """Starts replicas of bundles on this machine; none may take more memory than its bundle explains."""

    def __init__(
        self,
        launcher: Launcher,
        vault: BundleReader,
        sockets: Path,
        *,
        base_memory_bytes: int = BASE_MEMORY_BYTES,
        max_batch_seconds: float = MAX_BATCH_SECONDS,
    ) -> None:
        self._max_batch_seconds = max_batch_seconds
        self._base_memory_bytes = base_memory_bytes
        self._launcher = launcher
        self._vault = vault
        self._sockets = sockets

    def address(self, replica_id: str) -> str:
        """Return the path of the Unix socket on which a replica of that id listens."""
        return str(self._sockets / replica_id / "s")

    def start(self, replica_id: str, bundle: Bundle, team: str) -> Process:
        """Start one replica; it sends a message once it answers (`wait_ready`)."""
        packed = self._vault.read(team, bundle.artifact)
        # A folder of its own: a replica that was taken over cannot put itself where control or another one listens.
        folder = self._sockets / replica_id
        folder.mkdir(mode=0o700)
        request = ReplicaRequest(
            bundle=bundle.id,
            address=self.address(replica_id),
            replica=replica_id,
            num_threads=1,
            max_batch_seconds=self._max_batch_seconds,
        )
        return self._launcher.start(
            ProcessSpec(
                main="replica",
                name=replica_id,
                request=request,
                writable=(folder,),
                memfds=(packed,),
                limits=Limits(
                    num_threads=1, memory_bytes=self._base_memory_bytes + MEMORY_PER_BUNDLE_BYTE * len(packed)
                ),
            )
        )

    def forget(self, replica_id: str) -> None:
        """Remove what a replica that has ended left behind."""
        shutil.rmtree(self._sockets / replica_id, ignore_errors=True)


def wait_ready(process: Process) -> None:
    """Return once the replica has said that it answers.

    Raises UnavailableError with the replica's own reason where it ends before that.
    """
    for message in process.messages():
        if message.failure is not None:
            raise UnavailableError(message.failure.what, where=message.failure.where, hint=message.failure.hint)
        if message.progress is not None and message.progress.done >= message.progress.total:
            return
    raise UnavailableError("the replica ended before it answered", hint="its log tells why: datahall logs")


def why_ended(process: Process) -> str:
    """Return why a process that has ended did so, in words."""
    failures = [message.failure.what for message in process.messages() if message.failure is not None]
    return failures[-1] if failures else "the replica ended"
