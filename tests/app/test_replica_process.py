"""A replica as the hall starts it: it answers, holds only what it was given, and dies where it takes too much."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from datahall.app.replicas import BASE_MEMORY_BYTES, MEMORY_PER_BUNDLE_BYTE, Replicas, wait_ready, why_ended
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.launch import landlock, seccomp
from datahall.backends.launch.local import LocalLauncher
from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.canonical import digest_of
from datahall.core.errors import UnavailableError
from datahall.data.frames import load_columns
from datahall.engines.bundle import unpack
from datahall.engines.open import open_predictor
from datahall.testing.models import small_bundle
from datahall.testing.tables import TEAM, small_table
from tests.backends.launching import ENTRY

TABLE_BLOBS = MemoryBlobStore()
needs_confinement = pytest.mark.skipif(
    landlock.abi() < 4 or not seccomp.supported(), reason="this kernel cannot confine a process"
)


class Vault:
    """Holds one packed bundle."""

    def __init__(self, packed):
        self.packed = packed

    def read(self, team, digest):
        return self.packed


@pytest.fixture(scope="module")
def table():
    return small_table(TABLE_BLOBS, task="classification")


@pytest.fixture(scope="module")
def packed(table):
    return small_bundle(TABLE_BLOBS, table, "forest")


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="dh"))  # short: a Unix socket's path has at most 107 bytes
    yield made
    shutil.rmtree(made)


@pytest.fixture
def launchers(folder):
    made = []

    def launcher(**settings):
        made.append(LocalLauncher(folder / "logs", folder / "work", **settings))
        return made[-1]

    yield launcher
    for each in made:
        each.stop_all(grace_seconds=0)


def start(launcher, packed, folder, **settings):
    manifest, _ = unpack(packed)
    replicas = Replicas(launcher, Vault(packed), folder, **settings)
    bundle = SimpleNamespace(id=digest_of(manifest), artifact="a" * 64)
    return replicas, replicas.start("rep", bundle, TEAM)


def test_it_answers_as_the_engine_does_within_its_limits(launchers, packed, folder, table):
    replicas, process = start(launchers(), packed, folder)
    wait_ready(process)
    rows = load_columns(TABLE_BLOBS.get(table.holdout, team=TEAM), table.features)
    answerer = UnixAnswerer(replicas.address("rep"))
    assert answerer.answer(rows)["probability"].tolist() == open_predictor(packed).predict(rows)["probability"].tolist()
    answerer.close()
    limits = limits_of(process.pid)
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max data size"][0] == str(BASE_MEMORY_BYTES + MEMORY_PER_BUNDLE_BYTE * len(packed))
    assert limits["Max open files"][0] == "1024"
    assert "is warm: batches of" in process.log.read_text()


def limits_of(pid):
    """Return soft and hard limits by name: the kernel writes each name in 26 columns."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def test_one_that_needs_more_memory_than_it_may_use_ends_and_says_why(launchers, packed, folder):
    _, process = start(launchers(), packed, folder, base_memory_bytes=40 << 20)
    with pytest.raises(UnavailableError, match="ran out of memory"):
        wait_ready(process)
    assert "ran out of memory" in process.log.read_text().splitlines()[-1]


def test_one_that_the_kernel_kills_leaves_a_word_in_its_log(launchers, packed, folder):
    _, process = start(launchers(), packed, folder)
    wait_ready(process)
    process._signal(9)
    assert "was killed, most often for want of memory" in why_ended(process)
    assert "was killed" in process.log.read_text().splitlines()[-1]


class Probing:
    """Starts a program that tries things in a replica's place, with exactly a replica's rights."""

    def __init__(self, launcher, actions):
        self.launcher = launcher
        self.actions = actions

    def start(self, spec):
        return self.launcher.start(msgspec.structs.replace(spec, request={"actions": self.actions}))


def tried(launcher, packed, folder, *actions):
    _, process = start(Probing(launcher, actions), packed, folder)
    return list(process.messages())[-1].result


@needs_confinement
@pytest.mark.parametrize(("confine", "comes_of_it"), [(True, "PermissionError"), (False, "done")])
def test_no_network_and_no_file_that_it_was_not_given(launchers, packed, folder, confine, comes_of_it):
    # The second case is the negative control: without confinement each of these is possible.
    (folder / "hall.db").write_text("rows")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as control:
        control.bind(str(folder / "control.sock"))
        control.listen()
        probes = (
            ("connect", "tcp", list(tcp.getsockname())),
            ("connect", "udp", list(tcp.getsockname())),
            ("connect", "unix", str(folder / "control.sock")),
            ("read", str(folder / "hall.db")),
            ("write", str(folder / "hall.db")),
            ("read", "/etc/passwd"),
        )
        launcher = launchers(entry=ENTRY, confine=confine)
        assert tried(launcher, packed, folder, *probes) == [comes_of_it] * len(probes)


def test_a_net_answers_from_a_confined_replica(launchers, folder, table):
    pytest.importorskip("torch", reason="pip install 'datahall[torch]' for the tests of nets")
    packed = small_bundle(TABLE_BLOBS, table, "net")
    replicas, process = start(launchers(), packed, folder)
    wait_ready(process)
    rows = load_columns(TABLE_BLOBS.get(table.holdout, team=TEAM), table.features)
    answerer = UnixAnswerer(replicas.address("rep"))
    assert answerer.answer(rows)["probability"].tolist() == open_predictor(packed).predict(rows)["probability"].tolist()
    answerer.close()
