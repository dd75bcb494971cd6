"""Starts the processes that answer: verified bundles go to them through sealed memory, never through a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from datahall.app.vault import Vault
from datahall.core.errors import UnavailableError
from datahall.core.ports import Launcher, Limits, Process, ProcessSpec
from datahall.core.records import Bundle
from datahall.serve.replica import ReplicaRequest


class Replicas:
    """Starts replicas of bundles on this machine."""

    def __init__(self, launcher: Launcher, vault: Vault, sockets: Path) -> None:
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
        request = ReplicaRequest(bundle=bundle.id, address=self.address(replica_id), replica=replica_id, num_threads=1)
        return self._launcher.start(
            ProcessSpec(
                main="replica",
                name=replica_id,
                request=request,
                writable=(folder,),
                memfds=(packed,),
                limits=Limits(num_threads=1),
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
