"""Launched processes hold only what they were given, say what they have to say, and end with their owner."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahall.backends.launch import landlock, process, seccomp, syscalls
from datahall.backends.launch.adopted import UNKNOWN_STATUS, started_at_of
from datahall.backends.launch.local import LocalLauncher
from datahall.core.errors import NotFoundError
from datahall.core.jobs import Message
from datahall.core.ports.launching import Limits, ProcessSpec

HERE = Path(__file__).parent
ENTRY = (str(HERE / "launch_main.py"),)
BOUND_S = 10.0  # generous for a loaded machine; what is measured takes milliseconds

needs_landlock = pytest.mark.skipif(landlock.abi() < 4, reason="this kernel has no Landlock with TCP rules")
needs_seccomp = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this processor")


@pytest.fixture
def hall(tmp_path: Path) -> Path:
    """Something like a hall: a database, keys, and the folders of the launcher."""
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "master.key").write_text("secret")
    (tmp_path / "hall.db").write_text("rows")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "part").write_text("data")
    (tmp_path / "staging").mkdir()
    return tmp_path


@pytest.fixture
def launcher(hall: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(hall / "logs", hall / "work", entry=ENTRY)
    yield launcher
    launcher.stop_all(grace_seconds=0)


@pytest.fixture
def open_launcher(hall: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(hall / "logs", hall / "work", entry=ENTRY, confine=False)
    yield launcher
    launcher.stop_all(grace_seconds=0)


def spec(*actions: tuple[object, ...], name: str = "test", main: str = "job", **fields: object) -> ProcessSpec:
    return ProcessSpec(main=main, name=name, request={"actions": actions}, **fields)


def run(launcher: LocalLauncher, *actions: tuple[object, ...], **fields: object) -> list[Message]:
    return list(launcher.start(spec(*actions, **fields)).messages())


def result(launcher: LocalLauncher, *actions: tuple[object, ...], **fields: object) -> list[object]:
    last = run(launcher, *actions, **fields)[-1]
    assert last.failure is None, last.failure
    return last.result


def failure(launcher: LocalLauncher, *actions: tuple[object, ...], **fields: object):
    last = run(launcher, *actions, **fields)[-1]
    assert last.failure is not None, last
    return last.failure


def wait_gone(pid: int, seconds: float = BOUND_S) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(pidfd)


# What a process reaches


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


def test_memory_is_limited(launcher: LocalLauncher):
    limits = Limits(memory_bytes=256 << 20)
    assert result(launcher, ("allocate", 64 << 20), limits=limits) == [None]
    died = failure(launcher, ("allocate", 1 << 30), limits=limits)
    assert died.error == "UnavailableError"
    assert "ran out of memory" in died.what
    assert result(launcher, ("allocate", 1 << 30)) == [None]


def test_the_environment_is_the_fixed_minimum(launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATAHALL_SECRET", "caller's own")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    (facts,) = result(launcher, ("facts",), environment={"EXTRA": "1"}, limits=Limits(num_threads=3))
    seen = facts["environment"]
    assert "caller's own" not in seen.values()
    assert "PYTHONPATH" not in seen
    assert (seen["EXTRA"], seen["OMP_NUM_THREADS"], seen["PYTHONHASHSEED"]) == ("1", "3", "0")
    assert seen["HOME"] == seen["TMPDIR"] == facts["cwd"]
    assert facts["group"]
    assert facts["stdin"] == ""
    assert facts["isolation"] == launcher.start(spec()).isolation


def test_a_replica_keeps_random_hashes(launcher: LocalLauncher):
    (facts,) = result(launcher, ("facts",), main="replica")
    assert "PYTHONHASHSEED" not in facts["environment"]


def test_no_secret_is_in_arguments_or_environment(launcher: LocalLauncher):
    secret = "dh_" + "5" * 64
    process = launcher.start(spec(("progress", 1), ("echo", secret), ("pause",)))
    next(iter(process.messages()))
    for name in ("cmdline", "environ"):
        assert secret.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
    assert b"launch_main.py" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_memory_files_arrive_sealed(launcher: LocalLauncher):
    datas = (b"bundle", b"", os.urandom(1 << 16))
    process = launcher.start(spec(("memfds",), memfds=datas))
    (texts,) = list(process.messages())[-1].result
    assert [bytes.fromhex(text) for text in texts] == list(datas)


def test_a_sealed_memory_file_cannot_be_changed(open_launcher: LocalLauncher):
    writes = [("memfd_write", descriptor) for descriptor in range(3, 12)]
    process = open_launcher.start(spec(*writes, ("memfds",), memfds=(b"bundle",)))
    answers = list(process.messages())[-1].result
    assert "PermissionError" in answers
    assert answers[-1] == [b"bundle".hex()]


def test_what_is_not_there_cannot_be_given(launcher: LocalLauncher, hall: Path):
    with pytest.raises(NotFoundError, match="not there"):
        launcher.start(spec(readable=(hall / "missing",)))


# What a process says


def test_messages_come_in_order_and_large_ones_whole(launcher: LocalLauncher):
    text = "ü" * 3_000_000
    messages = run(launcher, ("progress", 0.25), ("progress", 0.5), ("echo", text))
    assert [message.progress.done for message in messages[:-1]] == [0.25, 0.5]
    assert messages[-1].result == [None, None, text]


def test_messages_of_several_threads_do_not_mix(launcher: LocalLauncher):
    messages = run(launcher, ("threads", 200))
    assert len(messages) == 801
    assert messages[-1].result == [None]


def test_leaving_the_loop_loses_nothing(launcher: LocalLauncher):
    process = launcher.start(spec(("progress", 0), ("progress", 0.5), ("echo", "end")))
    for message in process.messages():
        assert message.progress is not None
        break
    rest = list(process.messages())
    assert [message.result is None for message in rest] == [True, False]


@pytest.mark.parametrize(
    "text", ["hello\n", "{}\n", '{"result":\n', "\xff\n", "[" * 100_000 + "\n", '{"result":null}\n']
)
def test_garbage_among_the_messages_is_a_failure_and_the_end(launcher: LocalLauncher, text: str):
    process = launcher.start(spec(("garbage", text), ("pause",)))
    (message,) = process.messages()
    assert message.failure is not None
    assert message.failure.error == "IntegrityError"
    assert process.poll() == -signal.SIGKILL


def test_a_line_without_end_is_no_message(launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "MAX_MESSAGE_BYTES", 1000)
    assert failure(launcher, ("garbage", "x" * 1001), ("pause",)).error == "IntegrityError"


def test_who_closes_its_messages_is_waited_for(launcher: LocalLauncher):
    died = failure(launcher, ("progress", 0), ("close",), ("log", "on"), ("exit", 3))
    assert "ended with status 3" in died.what


def test_not_a_number_is_refused_where_it_is_sent(launcher: LocalLauncher):
    assert "ValueError: nan has no canonical form" in failure(launcher, ("nan",)).what


@pytest.mark.parametrize(
    ("action", "error", "says"),
    [
        (("exit", 0), "DatahallError", "ended without a result"),
        (("exit", 7), "DatahallError", "ended with status 7"),
        (("raise", "no such column"), "DatahallError", "ended with status 1: ValueError: no such column"),
        (("die", signal.SIGKILL), "UnavailableError", "was killed, most often for want of memory"),
        (("die", signal.SIGSEGV), "DatahallError", "crashed (segmentation fault)"),
        (("die", signal.SIGRTMIN + 2), "DatahallError", "was ended by signal"),
    ],
)
def test_a_death_without_a_result_is_told_in_words(
    launcher: LocalLauncher, hall: Path, action: tuple[object, ...], error: str, says: str
):
    died = failure(launcher, ("progress", 0), ("log", "last words"), action)
    assert died.error == error
    assert says in died.what
    assert died.where == str(hall / "logs" / "test.log")
    assert "last words" in died.hint


def test_a_failure_shows_no_secret_and_only_its_own_part_of_the_log(launcher: LocalLauncher):
    key = bytes(range(100, 132))
    failure(launcher, ("log", "an earlier process"), ("exit", 1))
    words = f"{base64.b64encode(key).decode()} {key.hex()} {key!r} dh_{'a' * 64}"
    actions = (("log", f"see: {words}"), ("exit", 1), ("echo", key))
    died = failure(launcher, *actions)
    assert "see: [secret] [secret] [secret] [secret]" in died.hint
    assert "earlier" not in died.hint


def test_a_process_that_cannot_even_start_is_a_failure(hall: Path):
    launcher = LocalLauncher(hall / "logs", hall / "work", entry=("-m", "no_such_module"))
    assert "No module named no_such_module" in failure(launcher).what


def test_a_log_is_private(launcher: LocalLauncher, hall: Path):
    run(launcher, ("log", "x"), name="../a b")
    (log,) = (hall / "logs").iterdir()
    assert log.name == "-a-b.log"
    assert log.stat().st_mode & 0o777 == 0o600


# How a process ends


def test_stop_ends_the_whole_group(launcher: LocalLauncher, hall: Path):
    process = launcher.start(spec(("grandchild",), ("pause",)))
    grandchild = int(next(iter(process.messages())).progress.figures["pid"])
    assert process.stop() == -signal.SIGTERM
    assert wait_gone(process.pid)
    assert wait_gone(grandchild)
    assert list((hall / "work").iterdir()) == []
    assert process.stop() == process.poll() == -signal.SIGTERM
    (message,) = process.messages()
    assert "was stopped" in message.failure.what


def test_who_ignores_the_request_is_killed(launcher: LocalLauncher):
    process = launcher.start(spec(("ignore",), ("progress", 1), ("pause",)))
    next(iter(process.messages()))
    assert process.stop(grace_seconds=0.05) == -signal.SIGKILL


def test_what_a_process_leaves_behind_ends_with_it(launcher: LocalLauncher):
    messages = run(launcher, ("grandchild",), ("echo", 1))
    assert messages[-1].result == [None, 1]
    assert wait_gone(int(messages[0].progress.figures["pid"]))


def test_stop_from_another_thread_ends_the_wait_for_messages(launcher: LocalLauncher):
    process = launcher.start(spec(("progress", 1), ("pause",)))
    messages = process.messages()
    next(messages)
    stopper = threading.Thread(target=process.stop)
    stopper.start()
    assert [message.failure is not None for message in messages] == [True]
    stopper.join()


@contextlib.contextmanager
def owner(hall: Path, kind: str, *actions: tuple[object, ...]) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a process that owns a launched one; yield it with the ids of all that hang on it."""
    command = [sys.executable, str(HERE / "launch_owner.py"), str(hall), kind, json.dumps(actions)]
    # Its traceback after Ctrl-C is expected and of no interest.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owning:
        try:
            yield owning, json.loads(owning.stdout.readline())["pids"]
        finally:
            owning.kill()


@pytest.mark.parametrize("last", ["pause", "busy"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_owner_ends_no_process_is_left(hall: Path, last: str, how: signal.Signals):
    with owner(hall, "job", ("grandchild",), (last,)) as (owning, pids):
        assert len(pids) == 2
        assert not any(wait_gone(pid, 0) for pid in pids)
        owning.send_signal(how)
        assert all(wait_gone(pid) for pid in pids)


def test_kill_9_of_the_owner_ends_a_process_that_is_stopped(hall: Path):
    with owner(hall, "job", ("progress", 1), ("pause",)) as (owning, pids):
        os.kill(pids[0], signal.SIGSTOP)
        owning.kill()
        assert wait_gone(pids[0])


def test_a_main_that_does_not_enter_outlives_its_owner(hall: Path):
    """Negative control: what ends the processes above is `child.enter`."""
    with owner(hall, "careless") as (owning, pids):
        owning.kill()
        owning.wait()
        try:
            assert not wait_gone(pids[0], 0.3)
        finally:
            os.kill(pids[0], signal.SIGKILL)


def test_the_folders_of_the_dead_are_swept_and_those_of_the_living_stay(hall: Path, launcher: LocalLauncher):
    living = launcher.start(spec(("progress", 1), ("pause",)))
    next(iter(living.messages()))
    with owner(hall, "job", ("progress", 1), ("pause",)) as (owning, pids):
        assert len(list((hall / "work").iterdir())) == 2
        owning.kill()
        assert wait_gone(pids[0])
    later = LocalLauncher(hall / "logs", hall / "work", entry=ENTRY)
    run(later)
    (folder,) = (hall / "work").iterdir()
    assert living.poll() is None
    living.stop()
    assert not folder.exists()


def test_a_living_process_can_be_adopted_and_stopped(hall: Path, launcher: LocalLauncher):
    with owner(hall, "job", ("grandchild",), ("pause",)) as (_, pids):
        started = started_at_of(pids[0])
        adopted = launcher.adopt(pids[0], started)
        assert adopted is not None
        assert (adopted.pid, adopted.poll(), adopted.isolation) == (pids[0], None, "none")
        assert adopted.stop() == adopted.poll() == UNKNOWN_STATUS
        assert all(wait_gone(pid) for pid in pids)
        (message,) = adopted.messages()
        assert message.failure is not None
        assert launcher.adopt(pids[0], started) is None


def test_a_recycled_process_id_is_not_adopted(launcher: LocalLauncher):
    process = launcher.start(spec(("progress", 1), ("pause",)))
    next(iter(process.messages()))
    assert launcher.adopt(process.pid, started_at_of(process.pid)) is not None
    assert launcher.adopt(process.pid, started_at_of(process.pid) + 1) is None
    assert launcher.adopt(-1, 0.0) is None


def test_descriptors_do_not_leak(launcher: LocalLauncher):
    run(launcher)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run(launcher, memfds=(b"x",))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2  # the last process is still in the launcher's list
