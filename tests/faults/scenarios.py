"""What can be interrupted: for each durable action how to prepare it, do it, and tell the state that it left.

Each scenario's `act` can be done again whatever became of it, and then leaves the new state. `state` says in words that
hold in any folder what a reader finds; it raises for a state that no reader could use.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import msgspec

from datahall.app.sealing import Sealer
from datahall.app.supervision import read_state
from datahall.app.supervisor import _write_state
from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.witness.file import FileWitness
from datahall.core.errors import ConflictError, DatahallError, NotFoundError, StorageFullError, UnavailableError
from datahall.core.hall import HallPaths
from datahall.core.records import Answer, AnswerSegment, App, RouteTable, Tree
from datahall.ledger.checkpoint import sign_checkpoint
from datahall.security.keys import MASTER_FILE, KeyRing
from datahall.security.packing import put_tree
from datahall.security.sealing import seal
from datahall.security.signing import Ed25519Signer
from datahall.security.trees import TreeReader
from datahall.serve.cache import ResponseCache
from datahall.serve.confirm import Freshness, publish_confirmation
from datahall.serve.counters import Counters, CountersFile, read_counters
from datahall.serve.gateway import Gateway
from datahall.serve.segment_files import read_segment, segment_files
from datahall.serve.segments import AnswerLog
from datahall.serve.table import FileRouteSource, publish_routes
from datahall.testing.answers import some_answer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from tests.faults import scenarios_bucket as b

SIGNER = Ed25519Signer.from_private(bytes(range(32)))
KEY = b"0123456789abcdef"
TEAM = "ward"
NOTHING = "nothing"


class Scenario(NamedTuple):
    """One durable action."""

    prepare: Callable[[Path], object]
    act: Callable[[Path], object]
    state: Callable[[Path], str]
    refusal: tuple[type[BaseException], ...] = (DatahallError,)
    """What its caller is told where a step fails."""
    does_without: bool = False
    """Whether it may succeed though a step failed: a cache need not hold what the bucket has."""
    is_seen_before: bool = False
    """Whether the new state is seen before the first step, which only makes it durable."""
    varies: bool = False
    """Whether threads decide how often the last step is reached: then the last times may not come."""
    clean: Callable[[Path], object] = lambda _folder: None
    """Puts away what lies outside the folder."""


def open_catalogue(folder: Path) -> SqliteCatalogue:
    """Open the hall's database in `folder`, which may be new."""
    return SqliteCatalogue(folder / "hall.db", AutoClock(), entry_key=KEY)


def open_and_close(folder: Path) -> None:
    open_catalogue(folder).close()


def make_catalogue(folder: Path) -> None:
    with closing(open_catalogue(folder)) as catalogue:
        declare(catalogue, app("before"))


def act_on_catalogue(folder: Path) -> None:
    with closing(open_catalogue(folder)) as catalogue, contextlib.suppress(ConflictError):
        declare(catalogue, app("after"))


def catalogue_state(folder: Path) -> str:
    with closing(open_catalogue(folder)) as catalogue:
        names = [found.id for found in catalogue.find(App)]
        assert [entry.app for entry in catalogue.entries()] == names
        return " ".join(names) or NOTHING


def give_object(folder: Path) -> None:
    """Leave a sealed object beside the store, so that it has one name however often it is put."""
    grant, stored = seal(b"words", team=TEAM)
    (folder / "given").write_bytes(stored)
    (folder / "grant").write_bytes(msgspec.json.encode(grant))


def grant_of(folder: Path):
    return msgspec.json.decode((folder / "grant").read_bytes(), type=type(seal(b"", team=TEAM)[0]))


def put_object(folder: Path) -> None:
    name = grant_of(folder).object
    LocalBlobStore(folder / "blobs").write_stored(name, (folder / "given").read_bytes(), team=TEAM)


def give_stored_object(folder: Path) -> None:
    give_object(folder)
    put_object(folder)


def delete_object(folder: Path) -> None:
    LocalBlobStore(folder / "blobs").delete(grant_of(folder).object, team=TEAM)


def stage_object(folder: Path) -> None:
    give_object(folder)
    store = LocalBlobStore(folder / "staging")
    store.write_stored(grant_of(folder).object, (folder / "given").read_bytes(), team=TEAM)


def take_object(folder: Path) -> None:
    LocalBlobStore(folder / "blobs").take(folder / "staging")


def object_state(folder: Path) -> str:
    store = LocalBlobStore(folder / "blobs")
    listed = store.list(team=TEAM)
    try:
        return f"{len(listed)} {store.get(grant_of(folder), team=TEAM)!r}"
    except NotFoundError:
        assert listed == []
        return NOTHING


def put_aside(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # it was put aside before
        LocalBlobStore(folder / "blobs").quarantine(grant_of(folder).object, team=TEAM)


def leave_temporary(folder: Path) -> None:
    """Leave an object, and beside it the file of a writer that was killed."""
    give_stored_object(folder)
    path = LocalBlobStore(folder / "blobs").path(grant_of(folder).object, team=TEAM)
    path.with_name(f".{path.name}.1.aabbccdd").write_bytes(b"half")


def clear_temporary(folder: Path) -> None:
    LocalBlobStore(folder / "blobs").clear(team=TEAM, older_than_s=-1e9)


def temporary_state(folder: Path) -> str:
    path = LocalBlobStore(folder / "blobs").path(grant_of(folder).object, team=TEAM)
    return f"{object_state(folder)}, {len(list(path.parent.iterdir()))} files"


def leave_copies(folder: Path) -> None:
    """Leave the copy of a process that is gone, of one that lives, and a file of somebody else's."""
    for name in (".routes.json.4194305.aabbccdd", f".routes.json.{os.getpid()}.aabbccdd", ".notes.4194305"):
        (folder / name).write_bytes(b"half")


def clear_copies(folder: Path) -> None:
    HallPaths(folder).clear_leftovers()


def copies_state(folder: Path) -> str:
    names = {path.name for path in folder.iterdir()}
    assert {f".routes.json.{os.getpid()}.aabbccdd", ".notes.4194305"} <= names
    return f"{len(names)} files"


def make_files(folder: Path) -> None:
    (folder / "files").mkdir()
    for name in "ab":
        (folder / "files" / name).write_text(name * 5)


def store_tree(folder: Path) -> None:
    tree = put_tree(
        folder / "files", LocalBlobStore(folder / "blobs"), team=TEAM, journal=folder / "journal", num_workers=1
    )
    (folder / "tree").write_bytes(msgspec.json.encode(tree))


def make_tree(folder: Path) -> None:
    make_files(folder)
    store_tree(folder)


def open_tree(folder: Path) -> TreeReader:
    tree = msgspec.json.decode((folder / "tree").read_bytes(), type=Tree)
    return TreeReader(LocalBlobStore(folder / "blobs"), tree, team=TEAM)


def tree_state(folder: Path) -> str:
    if not (folder / "tree").exists():
        return NOTHING
    reader = open_tree(folder)
    return " ".join(reader.get(name).decode() for name in sorted(reader.files))


def restore_tree(folder: Path) -> None:
    with contextlib.suppress(ConflictError):  # it was restored before
        open_tree(folder).restore(folder / "out", num_workers=1)


def restored_state(folder: Path) -> str:
    out = folder / "out"
    return " ".join(sorted(path.read_text() for path in out.iterdir())) if out.exists() else NOTHING


def make_keys(folder: Path) -> None:
    KeyRing.open(folder / "keys", create=True)


def keys_state(folder: Path) -> str:
    try:
        ring = KeyRing.open(folder / "keys")
    except NotFoundError:
        return NOTHING
    assert ring.unwrap(ring.wrap(b"d" * 32, team=TEAM, object="o"), team=TEAM, object="o") == b"d" * 32
    return "keys"


def rotate_keys(folder: Path) -> None:
    ring = KeyRing.open(folder / "keys")
    if ring.num_masters == 1:
        ring.rotate()


def make_rotated_keys(folder: Path) -> None:
    make_keys(folder)
    rotate_keys(folder)


def retire_keys(folder: Path) -> None:
    ring = KeyRing.open(folder / "keys")
    ring.retire(ring.older)


def masters_state(folder: Path) -> str:
    assert keys_state(folder) == "keys"
    return f"{len((folder / 'keys' / MASTER_FILE).read_text().split())} master keys"


def open_log(folder: Path) -> AnswerLog:
    (folder / "answers").mkdir(exist_ok=True)
    return AnswerLog(folder / "answers", "g1", KEY, now_ns=0)


def answer(sequence: int) -> Answer:
    return some_answer(sequence)


def append_answer(folder: Path) -> None:
    """Append the first answer, unless it is there, and do what the timer does."""
    log = open_log(folder)
    if log.next_sequence == 0:
        log.append([answer(0)])
        sync(log)


def sync(log: AnswerLog) -> None:
    work = log.sync_work()
    assert work is not None
    work()


def append_without_room(folder: Path) -> None:
    """Append to a new segment where the disk takes no byte: what was opened for it is put away."""
    log = open_log(folder)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        log.append([answer(0)])
    except StorageFullError:
        raise  # of a step, not of the limit, which is no full disk by its number
    except UnavailableError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    raise AssertionError


def begin_log(folder: Path) -> None:
    """Leave a segment without an answer, as a kill just after it was opened does."""
    open_log(folder)._open()


def write_log(folder: Path) -> None:
    log = open_log(folder)
    log.append([answer(0)])
    log.close(1)
    log.append([answer(1)])


def seal_log(folder: Path) -> None:
    log = open_log(folder)
    log.close(1)


def log_state(folder: Path) -> str:
    """Say which answers can be read: where they lie is the log's own affair."""
    (folder / "answers").mkdir(exist_ok=True)
    numbers = [
        found.sequence for path in segment_files(folder / "answers", "g1") for found in read_segment(path, KEY).answers
    ]
    assert len(set(numbers)) == len(numbers)
    return f"answers {numbers}"


def sealed_log(folder: Path) -> None:
    make_keys(folder)
    log = open_log(folder)
    log.append([answer(0)])
    log.close(1)
    with closing(open_catalogue(folder)):
        pass


def move_segment(folder: Path) -> None:
    with closing(open_catalogue(folder)) as catalogue:
        vault = Vault(catalogue, LocalBlobStore(folder / "blobs"), KeyRing.open(folder / "keys"))
        Sealer(catalogue, vault, folder / "answers", KEY, AutoClock()).seal()


def moved_state(folder: Path) -> str:
    """Tell whether the segment's root is in the ledger; the file may only be gone once it is."""
    with closing(open_catalogue(folder)) as catalogue:
        known = catalogue.find(AnswerSegment)
        assert len(known) == len(catalogue.entries()) <= 1
    assert known or segment_files(folder / "answers")
    return "moved" if known else "waits"


def table(revision: int) -> RouteTable:
    return RouteTable(id="current", revision=revision, routes=(), keys={}, published_at_ns=1)


def publish(revision: int) -> Callable[[Path], None]:
    return lambda folder: publish_routes(folder / "routes.json", table(revision), SIGNER, KEY * 2)


def routes_state(folder: Path) -> str:
    found = FileRouteSource(folder / "routes.json", {SIGNER.key_id: SIGNER.public_key}, KEY * 2).poll()
    assert found is not None
    return f"revision {found.revision}"


def confirm(revision: int) -> Callable[[Path], None]:
    return lambda folder: publish_confirmation(folder / "routes.json", revision, revision, SIGNER)


def confirmed_state(folder: Path) -> str:
    """Say which revision a gateway finds confirmed."""
    clock = AutoClock(now_ns=0)
    freshness = Freshness(folder / "routes.json", {SIGNER.key_id: SIGNER.public_key}, clock, 60.0)
    freshness.step(table(0))
    return f"revision {freshness._confirmation.revision}"


def witness(folder: Path) -> FileWitness:
    return FileWitness(folder / "witness", lambda _old, _new: [])


def publish_note(folder: Path) -> None:
    witness(folder).publish("hall", sign_checkpoint("hall", 1, b"r" * 32, SIGNER).note)


def witness_state(folder: Path) -> str:
    return witness(folder).newest("hall") or NOTHING


def write_supervisor(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _write_state(HallPaths(folder), listener, "127.0.0.1", lambda _state: None)


def supervisor_state(folder: Path) -> str:
    """Say whether the file tells of a supervisor; the one that it tells of has ended with the test's process."""
    path = HallPaths(folder).state
    if not path.exists():
        assert read_state(HallPaths(folder)) is None
        return NOTHING
    return str(msgspec.json.decode(path.read_bytes())["host"])


def acknowledge(folder: Path) -> None:
    config = SimpleNamespace(gateway="g1", runtime=str(folder), started_at=1.0)
    gateway = SimpleNamespace(
        config=config, port=7, draining=False, _clock=AutoClock(), _follower=SimpleNamespace(revision=3, problem="")
    )
    Gateway._acknowledge(gateway)


def acknowledged_state(folder: Path) -> str:
    path = folder / "gateway-g1.json"
    return str(msgspec.json.decode(path.read_bytes())["revision"]) if path.exists() else NOTHING


def count(folder: Path) -> None:
    stats = ResponseCache[None](1 << 20).stats()
    work = CountersFile(folder, "g1").tell(Counters(pid=7, cache=stats, decisions=None))
    assert work is not None
    work()


def counters_state(folder: Path) -> str:
    return "told" if read_counters(folder, "g1", 7) is not None else NOTHING


def choose_runtime(folder: Path) -> None:
    HallPaths(folder).runtime()


def forget_runtime(folder: Path) -> None:
    """Remove the folder of sockets, which lies outside the hall."""
    Path(HallPaths(folder).runtime_path.read_text()).rmdir()


def runtime_state(folder: Path) -> str:
    path = HallPaths(folder).runtime_path
    if not path.exists():
        return NOTHING
    assert Path(path.read_text()).is_dir()
    return "remembered"


def nothing(folder: Path) -> None:
    """Prepare no more than the folder."""


TOLD = (DatahallError, OSError)

SCENARIOS: dict[str, Scenario] = {
    "a hall's database is made": Scenario(nothing, open_and_close, catalogue_state, TOLD),
    "the catalogue acts": Scenario(make_catalogue, act_on_catalogue, catalogue_state),
    "an object is put": Scenario(give_object, put_object, object_state),
    "an object is deleted": Scenario(give_stored_object, delete_object, object_state, TOLD),
    "a job's object is taken": Scenario(stage_object, take_object, object_state, TOLD),
    "an object is put aside": Scenario(give_stored_object, put_aside, object_state, TOLD),
    "what a killed writer left is cleared": Scenario(leave_temporary, clear_temporary, temporary_state, TOLD),
    "a job's small object is uploaded": Scenario(b.stage(b"words"), b.upload_staged, b.bucket_state, TOLD),
    "a job's large object is uploaded": Scenario(b.stage(b.LARGE), b.upload_staged, b.bucket_state, TOLD),
    "a small object goes to the bucket": Scenario(nothing, b.put_once, b.num_objects, TOLD),
    "a large object breaks off": Scenario(nothing, b.break_off, b.num_objects, TOLD, varies=True),
    "parts that nobody finished are collected": Scenario(b.leave_parts, b.collect, b.num_objects, TOLD),
    "a large object is deleted": Scenario(b.put_large, b.delete_large, b.bucket_state, TOLD),
    "a large object is put aside": Scenario(b.put_large, b.put_large_aside, b.bucket_state, TOLD),
    "the cache is filled": Scenario(b.put_large, b.fill_cache, b.cache_state, TOLD, does_without=True),
    "the cache makes room": Scenario(b.put_two, b.crowd_cache, b.cache_state, TOLD, does_without=True),
    "the cache takes in a job's object": Scenario(b.stage(b.LARGE), b.take_through_cache, b.cache_state, TOLD),
    "the cache finds a stale copy": Scenario(b.leave_stale, b.fill_cache, b.cache_state, TOLD),
    "the cache drops a damaged copy": Scenario(b.damage_part, b.read_damaged, b.cache_state, TOLD, does_without=True),
    "a folder is stored": Scenario(make_files, store_tree, tree_state),
    "a folder is restored": Scenario(make_tree, restore_tree, restored_state),
    "keys are made": Scenario(nothing, make_keys, keys_state, TOLD),
    "the master key is rotated": Scenario(make_keys, rotate_keys, masters_state, TOLD),
    "old master keys are retired": Scenario(make_rotated_keys, retire_keys, masters_state, TOLD),
    "copies that were left are removed": Scenario(leave_copies, clear_copies, copies_state, TOLD),
    "an answer is logged": Scenario(nothing, append_answer, log_state, TOLD, is_seen_before=True),
    "a segment cannot be begun": Scenario(nothing, append_without_room, log_state, TOLD),
    "an empty segment is found": Scenario(begin_log, append_answer, log_state, TOLD),
    "a segment is sealed": Scenario(write_log, seal_log, log_state, TOLD),
    "a segment is moved": Scenario(sealed_log, move_segment, moved_state, TOLD),
    "routes are published": Scenario(publish(1), publish(2), routes_state, TOLD),
    "routes are confirmed": Scenario(confirm(1), confirm(2), confirmed_state, TOLD),
    "a head is witnessed": Scenario(nothing, publish_note, witness_state),
    "the supervisor says where it is": Scenario(nothing, write_supervisor, supervisor_state, TOLD),
    "a gateway acknowledges": Scenario(nothing, acknowledge, acknowledged_state, TOLD),
    "a gateway counts": Scenario(nothing, count, counters_state, TOLD, does_without=True),
    "a hall remembers its sockets": Scenario(nothing, choose_runtime, runtime_state, TOLD, clean=forget_runtime),
}
"""By what is done; every failpoint of the code is reached by one of them, or listed in `test_failpoints.ELSEWHERE`."""
