"""A launched process reaches what it was given and nothing else; without confinement each attempt succeeds."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahall.backends.launch import landlock, seccomp, syscalls
from datahall.backends.launch.local import LocalLauncher
from tests.backends.launching import result, spec

needs_landlock = pytest.mark.skipif(landlock.abi() < 4, reason="this kernel has no Landlock with TCP rules")
needs_seccomp = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this processor")


def probes(hall: Path) -> tuple[tuple[object, ...], ...]:
    return (
        ("read", str(hall / "hall.db")),
        ("read", str(hall / "keys" / "master.key")),
        ("list", str(hall / "keys")),
        ("write", str(hall / "given" / "part")),
        ("write", str(hall / "new")),
        ("read", "/etc/passwd"),
        ("list", "/tmp"),  # noqa: S108  (a place to look into)
        ("link", "/etc/passwd", str(hall / "staging" / "link")),
    )


@needs_landlock
def test_a_process_reaches_what_it_was_given_and_nothing_else(launcher: LocalLauncher, hall: Path):
    given, staging = hall / "given" / "part", hall / "staging"
    allowed = (("read", str(given)), ("write", str(staging / "made")), ("read", str(staging / "made")))
    answers = result(launcher, *allowed, *probes(hall), readable=(given,), writable=(staging,))
    assert answers == ["done"] * len(allowed) + ["PermissionError"] * len(probes(hall))
    assert (staging / "made").read_text() == "written"


def test_without_confinement_the_same_probes_succeed(open_launcher: LocalLauncher, hall: Path):
    """Negative control: what refuses in the test above is the confinement."""
    assert result(open_launcher, *probes(hall), writable=(hall / "staging",)) == ["done"] * len(probes(hall))


@needs_landlock
def test_the_libraries_of_jobs_load_when_confined(launcher: LocalLauncher):
    names = ("sklearn.ensemble", "polars", "onnxruntime", "skops.io")
    # As engines/quiet.py has it: onnxruntime's telemetry closes its folder with chmod, and complains where it may not.
    process = launcher.start(spec(("load", *names), environment={"ORT_DISABLE_TELEMETRY": "1"}))
    (loaded,) = list(process.messages())[-1].result
    assert len(loaded) == len(names)
    assert process.log.read_text() == ""


@needs_landlock
def test_written_files_cannot_be_run(launcher: LocalLauncher, hall: Path):
    program = hall / "given" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert result(launcher, ("run", str(program)), ("run", "/bin/true"), readable=(hall / "given",)) == [
        "PermissionError",
        "done",
    ]


@contextlib.contextmanager
def listening(family: socket.AddressFamily, address: object) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        yield server


@needs_landlock
@needs_seccomp
def test_no_network_unless_it_is_given(launcher: LocalLauncher, open_launcher: LocalLauncher):
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        address = list(server.getsockname())
        calls = (("connect", "tcp", address), ("connect", "udp", address))
        assert result(launcher, *calls) == ["PermissionError", "PermissionError"]
        assert result(launcher, *calls, network=True) == ["done", "done"]
        assert result(open_launcher, *calls) == ["done", "done"]


@pytest.mark.skipif(landlock.abi() < 6, reason="this kernel's Landlock has no scopes")
def test_abstract_sockets_and_foreign_processes_are_out_of_reach(launcher: LocalLauncher, open_launcher: LocalLauncher):
    name = f"\0datahall-test-{os.getpid()}"
    with listening(socket.AF_UNIX, name):
        calls = (("connect", "unix", name), ("kill", os.getpid()))
        assert result(launcher, *calls, connects=True) == ["PermissionError", "PermissionError"]
        assert result(open_launcher, *calls) == ["done", "done"]


@needs_seccomp
@needs_landlock
def test_nothing_leaves_its_group(launcher: LocalLauncher, open_launcher: LocalLauncher):
    assert result(launcher, ("setsid",)) == ["PermissionError"]
    assert result(open_launcher, ("setsid",)) == ["done"]


@needs_seccomp
@needs_landlock
def test_what_is_said_about_a_file_cannot_be_changed(launcher: LocalLauncher, open_launcher: LocalLauncher, hall: Path):
    """Landlock does not cover modes, owners, times and attributes: not those of foreign files, not of one's own."""
    own = hall / "staging" / "own"
    own.write_text("")
    before = (hall / "hall.db").stat()
    changes = (("change", str(hall / "hall.db")), ("change", str(own)))
    assert result(launcher, *changes, writable=(own.parent,)) == [["PermissionError"] * 5] * 2
    after = (hall / "hall.db").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    for answers in result(open_launcher, *changes, writable=(own.parent,)):
        assert answers[:3] == ["done"] * 3
        assert "PermissionError" not in answers[3:]  # some file systems keep no attributes
    assert (hall / "hall.db").stat().st_mtime == 1


@needs_seccomp
@needs_landlock
def test_a_foreign_process_cannot_be_limited_or_slowed(launcher: LocalLauncher, open_launcher: LocalLauncher):
    assert result(launcher, ("slow", os.getpid())) == [["PermissionError"] * 5]
    assert result(open_launcher, ("slow", os.getpid())) == [["done"] * 5]
    (own,) = result(launcher, ("slow", 0))
    assert own == ["done", "PermissionError", "done", "done", "done"]


@needs_seccomp
@needs_landlock
def test_a_refused_system_call_is_refused_whatever_it_is_given(launcher: LocalLauncher, open_launcher: LocalLauncher):
    """The control gives the kernel nonsense, so it answers with another error than the filter's."""
    families = syscalls.METADATA | syscalls.PROCESSES | syscalls.SHARED | syscalls.KERNEL
    numbers = syscalls.of_processor(platform.machine(), families)
    del numbers["setsid"], numbers["msgget"]  # no argument is nonsense to these; see the tests beside this one
    calls = [("call", number, *[-1] * 6) for number in numbers.values()]
    assert result(launcher, *calls) == ["EPERM"] * len(calls)
    may_not = {name for name, answer in zip(numbers, result(open_launcher, *calls), strict=True) if answer == "EPERM"}
    assert may_not <= ({"bpf", "perf_event_open", "userfaultfd", "open_by_handle_at"} if os.getuid() else set())


@needs_seccomp
@needs_landlock
def test_no_queue_of_another_program_is_opened(launcher: LocalLauncher, open_launcher: LocalLauncher):
    number = syscalls.of_processor(platform.machine(), syscalls.SHARED)["msgget"]
    call = ("call", number, 0x0DA7A4A1, 0)  # a key that nobody has, and not asked to make it
    assert result(launcher, call) == ["EPERM"]
    assert result(open_launcher, call) == ["ENOENT"]


@needs_seccomp
@needs_landlock
def test_no_namespace_is_made(launcher: LocalLauncher, open_launcher: LocalLauncher):
    known = syscalls.of_processor(platform.machine(), syscalls.LOOKED_INTO | syscalls.ABSENT)
    new_user = 0x10000000  # CLONE_NEWUSER; together with CLONE_FS the kernel itself answers EINVAL
    calls = (("call", known["clone"], new_user | 0x200, 0, 0, 0, 0), ("call", known["clone3"], 0, 0))
    assert result(launcher, *calls) == ["EPERM", "ENOSYS"]
    assert result(open_launcher, *calls) == ["EINVAL", "EINVAL"]


@needs_seccomp
@needs_landlock
def test_who_only_accepts_cannot_ask(launcher: LocalLauncher, open_launcher: LocalLauncher, hall: Path):
    """A socket with a path is out of Landlock's reach: somebody's bus or agent, the hall's own control."""
    stream, datagram = str(hall / "s"), str(hall / "d")
    with listening(socket.AF_UNIX, stream), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(datagram)
        calls = (("connect", "unix", stream), ("send", "socket", datagram), ("send", "pair", datagram))
        assert result(launcher, *calls) == ["PermissionError"] * 3
        assert result(launcher, *calls, connects=True) == ["done", "PermissionError", "PermissionError"]
        assert result(open_launcher, *calls) == ["done"] * 3


@needs_landlock
def test_the_sockets_of_the_machine_cannot_be_listed(launcher: LocalLauncher, open_launcher: LocalLauncher):
    files = ("/proc/self/net/unix", "/proc/net/tcp", "/proc/thread-self/net/unix", "/proc/self/environ")
    calls = [("read", path) for path in files]
    assert result(launcher, *calls) == ["PermissionError"] * len(files)
    assert result(open_launcher, *calls) == ["done"] * len(files)
    assert result(launcher, ("read", "/proc/self/status"), ("list", "/proc/self/fd")) == ["done", "done"]


def test_a_confined_job_stores_objects_of_several_frames(launcher, hall):
    action = ("objects", str(hall / "staging"), 6_000_000)
    assert result(launcher, action, writable=(hall / "staging",)) == [True]
