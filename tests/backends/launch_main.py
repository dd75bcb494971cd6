"""A program to launch in tests: does what its request says, one action after another."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from datahall.core.jobs import Message, Progress

_kept = []


def refusal(action, *given, **how):
    """Return the name of the error with which the system refuses an action, else `done`."""
    try:
        action(*given, **how)
    except OSError as error:
        return type(error).__name__
    return "done"


def connect(kind, address):
    family, kind = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    }[kind]
    with socket.socket(family, kind) as endpoint:
        endpoint.connect(tuple(address) if isinstance(address, list) else address)


def system_call(number, *given):
    """Return the name of the error with which the kernel answers a bare system call, else `done`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(value) if isinstance(value, int) else value.encode() for value in given]
    if libc.syscall(ctypes.c_long(number), *wide) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]


def change(path):
    """Return what comes of each way to change what is said about a file."""
    now = os.stat(path)  # noqa: PTH116  (beside its siblings in os)
    return [
        refusal(os.chmod, path, 0o640),
        refusal(os.chown, path, now.st_uid, now.st_gid),
        refusal(os.utime, path, (1, 1)),
        refusal(os.setxattr, path, "user.datahall", b"1"),
        refusal(os.removexattr, path, "user.datahall"),
    ]


def slow(pid):
    """Return what comes of each way to limit or slow another process; nothing is changed by any."""
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    return [
        refusal(resource.prlimit, pid, resource.RLIMIT_CORE, limit),
        refusal(os.setpriority, os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
        refusal(os.sched_setaffinity, pid, os.sched_getaffinity(pid)),
        refusal(os.sched_setscheduler, pid, os.SCHED_OTHER, os.sched_param(0)),
        refusal(os.sched_setparam, pid, os.sched_param(0)),
    ]


def send(kind, address):
    """Send one datagram to a Unix socket without connecting."""
    if kind == "socket":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
            endpoint.sendto(b"x", address)
    else:
        for endpoint in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
            with endpoint:
                endpoint.sendto(b"x", address)


def facts(context):
    return {
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "stdin": sys.stdin.read(),
        "isolation": context.isolation,
        "group": os.getpgrp() == os.getpid() == os.getsid(0),
    }


def grandchild(context):
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    context.send(Message(progress=Progress(done=0, total=1, figures={"pid": child.pid})))


def progress(context, done):
    context.report(Progress(done=done, total=1))


def threads(context, num_messages):
    def talk(number):
        for _ in range(num_messages):
            progress(context, number)

    talkers = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()


def fail(_context, text):
    raise ValueError(text)


def objects(_context, folder, size_bytes):
    """Write an object of several frames and read it again, as a job does; return what the threads' work came to."""
    from datahall.backends.blobs.local import LocalBlobStore  # noqa: PLC0415  (no other action needs it)

    store = LocalBlobStore(Path(folder))
    grant = store.write([bytes(size_bytes)], team="ward")
    return store.get(grant, team="ward") == bytes(size_bytes)


ACTIONS = {
    "objects": objects,
    "read": lambda _, path: refusal(Path(path).read_bytes),
    "list": lambda _, path: refusal(lambda: list(Path(path).iterdir())),
    "write": lambda _, path: refusal(Path(path).write_text, "written"),
    "link": lambda _, target, path: refusal(Path(path).symlink_to, target),
    "run": lambda _, path: refusal(subprocess.run, [path], check=False),
    "connect": lambda _, kind, address: refusal(connect, kind, address),
    "send": lambda _, kind, address: refusal(send, kind, address),
    "call": lambda _, *given: system_call(*given),
    "change": lambda _, path: change(path),
    "slow": lambda _, pid: slow(pid),
    "kill": lambda _, pid: refusal(os.kill, pid, 0),
    "setsid": lambda _: refusal(subprocess.run, ["/bin/true"], start_new_session=True, check=True),
    "facts": facts,
    "memfds": lambda context: [bytes(view).hex() for view in context.memfds],
    "memfd_write": lambda _, descriptor: refusal(os.pwrite, descriptor, b"x", 0),
    "allocate": lambda _, size: _kept.append(bytearray(size)),
    "load": lambda _, *names: [__import__(name).__name__ for name in names],
    "log": lambda _, text: print(text, file=sys.stderr),  # noqa: T201  (its log)
    "echo": lambda _, value: value,
    "grandchild": grandchild,
    "progress": progress,
    "threads": threads,
    # A C call that never gives Python a turn: ctypes.PyDLL keeps the interpreter's lock.
    "busy": lambda _: ctypes.PyDLL(None).pause(),
    "pause": lambda _: signal.pause(),
    "ignore": lambda _: int(signal.signal(signal.SIGTERM, signal.SIG_IGN)),
    "exit": lambda _, status: os._exit(status),
    "die": lambda _, number: os.kill(os.getpid(), number),
    "raise": fail,
    "garbage": lambda context, text: os.write(context._messages, text.encode()) and None,
    "close": lambda context: os.close(context._messages),
    "nan": lambda context: context.send(Message(result=float("nan"))),
}


def main():
    if sys.argv[1] == "careless":  # the negative control: a main that forgets enter()
        signal.pause()
    from datahall.backends.launch import child  # noqa: PLC0415  (only here)

    context = child.enter()
    request = json.loads(context.request)
    answers = [ACTIONS[name](context, *given) for name, *given in request["actions"]]
    context.send(Message(result=answers))


main()
