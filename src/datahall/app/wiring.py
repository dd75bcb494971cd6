"""Opens a hall's backends and hands each part the few ports it uses; nothing else knows them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from datahall.app.backup.mark import BackupMark
from datahall.app.belonging import check_belongs, open_keys
from datahall.app.collection import Collector
from datahall.app.jobs import Jobs
from datahall.app.leasing import Heart
from datahall.app.lifecycle.data import DataStage
from datahall.app.lifecycle.evaluate import EvaluateStage
from datahall.app.lifecycle.fit import ExportStage, TrainStage
from datahall.app.lifecycle.release import DeployStage, GateStage, RegisterStage
from datahall.app.lifecycle.stage import Stage
from datahall.app.origin import origin_of
from datahall.app.replicas import Replicas
from datahall.app.settings import Settings, read_settings
from datahall.app.stores import HallBlobs, HallCatalogue, open_blobs, open_catalogue, open_witness
from datahall.app.vault import Vault
from datahall.backends.db.lock import HallLock
from datahall.backends.launch.local import LocalLauncher
from datahall.core.clock import SystemClock
from datahall.core.errors import DatahallError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock
from datahall.core.records import Record
from datahall.deploy.admission import Admission
from datahall.ledger.anchor import Anchors
from datahall.ledger.sequencer import Sequencer
from datahall.ledger.tree import consistency_proof
from datahall.registry.exhibits import Anchored
from datahall.security.keys import KeyRing


@dataclass(frozen=True, kw_only=True)
class Hall:
    """An open hall: the one process that holds its lock has one of these."""

    paths: HallPaths
    settings: Settings
    clock: Clock
    keys: KeyRing
    catalogue: HallCatalogue
    sequencer: Sequencer
    anchored: Anchored
    blobs: HallBlobs
    vault: Vault
    replicas: Replicas
    launcher: LocalLauncher
    admission: Admission
    collector: Collector
    stages: dict[str, Stage]


@contextmanager
def open_hall(paths: HallPaths, clock: Clock | None = None, *, lifeline: int | None = None) -> Iterator[Hall]:
    """Create the hall if need be, take its lock, and yield it open.

    `lifeline` is the reading end of a pipe with whose writing end the hall's processes end; without one they end with
    this process. Raises HallBusyError where another process holds the hall, UserError for settings that cannot be and
    for a database that was begun with other keys.
    """
    clock = clock or SystemClock()
    paths.create()
    settings = read_settings(paths)
    blobs = open_blobs(settings, paths)
    with HallLock(paths.lock), _opened(paths, settings, clock) as (keys, catalogue):
        sequencer = Sequencer(
            catalogue,
            keys.signer,
            origin_of(keys.signer),
            clock,
            witness=open_witness(settings, paths, partial(consistency_proof, read=catalogue.nodes), clock),
            coordinator=catalogue.leases,
        )
        # Jobs and shadows end with this process; replicas with the hall, so that answers survive a control that dies.
        jobs = LocalLauncher(paths.logs, paths.work)
        replicas = LocalLauncher(paths.logs, paths.work, lifeline=lifeline)
        try:
            sequencer.start()
            with Heart(catalogue.leases):
                yield _wire(paths, settings, clock, keys, catalogue, blobs, sequencer, jobs, replicas)
        finally:
            jobs.stop_all()
            sequencer.stop()


@contextmanager
def _opened(paths: HallPaths, settings: Settings, clock: Clock) -> Iterator[tuple[KeyRing, HallCatalogue]]:
    """Yield the hall's keys and its catalogue, once nobody else holds them and they belong together."""
    paths.clear_leftovers()
    keys = open_keys(paths)
    catalogue = open_catalogue(settings, paths, clock, keys)
    try:
        catalogue.take_over()
        check_belongs(catalogue, keys, paths)
        yield keys, catalogue
    finally:
        catalogue.close()
        paths.drop_runtime()


def _wire(
    paths: HallPaths,
    settings: Settings,
    clock: Clock,
    keys: KeyRing,
    catalogue: HallCatalogue,
    blobs: HallBlobs,
    sequencer: Sequencer,
    job_launcher: LocalLauncher,
    replica_launcher: LocalLauncher,
) -> Hall:
    vault = Vault(catalogue, blobs, keys)
    jobs = Jobs(job_launcher, blobs, paths.work, clock)
    shadows = Replicas(job_launcher, vault, paths.runtime())
    holds = Holds(Anchors(catalogue, catalogue, keys.signer.public_key, origin=origin_of(keys.signer)))
    admission = Admission(catalogue, holds)
    integrate: Callable[[], object] = sequencer.flush
    return Hall(
        paths=paths,
        settings=settings,
        clock=clock,
        keys=keys,
        catalogue=catalogue,
        sequencer=sequencer,
        anchored=holds,
        blobs=blobs,
        vault=vault,
        replicas=Replicas(replica_launcher, vault, paths.runtime()),
        launcher=replica_launcher,
        admission=admission,
        collector=Collector(
            catalogue, blobs, catalogue.leases, clock, undisturbed=BackupMark(paths.backup_lock).collecting
        ),
        stages={
            "data": DataStage(catalogue, vault, jobs, clock),
            "train": TrainStage(catalogue, vault, jobs, clock),
            "export": ExportStage(catalogue, vault, jobs),
            "evaluate": EvaluateStage(catalogue, vault, jobs, shadows, holds, integrate, clock),
            "gate": GateStage(catalogue, holds, integrate, clock),
            "register": RegisterStage(catalogue, vault, clock),
            "deploy": DeployStage(catalogue, admission, integrate, clock),
        },
    )


class Holds:
    """What the signed ledger says, with a plain no for whatever was altered."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors

    def __call__(self, record: Record, /) -> bool:
        """Return whether a record is what the ledger says and lies below a signed checkpoint."""
        try:
            return self._anchors.holds(record)
        except DatahallError:  # altered, or its entry is gone: for whoever asks, that is a no
            return False

    def ids(self, kind: str) -> frozenset[str]:
        """Return the ids of all records of one kind that ought to be there. Raises IntegrityError."""
        return self._anchors.ids(kind)
