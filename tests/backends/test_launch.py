"""Launched processes hold only what they were given, say what they have to say, and end with their owner."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahall.backends.launch import process
from datahall.backends.launch.adopted import UNKNOWN_STATUS, started_at_of
from datahall.backends.launch.local import LocalLauncher
from datahall.core.errors import NotFoundError
from datahall.core.ports.launching import Limits
from tests.backends.launching import ENTRY, result, run, spec

HERE = Path(__file__).parent
BOUND_S = 10.0  # generous for a loaded machine; what is measured takes milliseconds


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


# What a process is given


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
    told = (hall / "logs" / "test.log").read_text().splitlines()[-1]
    assert told == (died.what if action != ("exit", 0) else "last words")


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
