"""Keeps decisions of a gateway with all that they were taken on, so that each can be taken again.

A gateway has two files in the hall's folder of decisions, `<gateway>.a` and `<gateway>.b`: the one that is full waits
while the other is written from its beginning, so together they hold the newest and never more than their bound. A file
is a row of blocks, one for each flush: `magic | length u32 | CRC-32 u32 | array of decisions`. A block that was
torn or changed is passed over, the next magic found, and what was lost is counted. A block holds one MessagePack array.

Nothing here may cost an answer: what cannot be written is dropped and counted. Decisions name teams, applications and
replicas, never inputs or who asked, so the files hold nothing of a person.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

import datahall.policy
from datahall.core.records import Decided

MAX_DECISION_BYTES = 64 << 20
"""Of the files of all gateways of a hall."""
SAMPLE_EVERY = 100
MAX_REFUSALS_PER_S = 20
"""Of all policies together: refusals and retries come in floods."""
MAX_WAITING_BYTES: Final = 1 << 20
"""Of what waits for the next flush; beyond, decisions are dropped."""
_MAGIC: Final = b"\x93dhdecide1"
_BLOCK: Final = struct.Struct(">10sII")
_encode = msgspec.msgpack.Encoder(order="deterministic").encode

Arguments = tuple[object, object, object, int, float]
"""State, view, event, now and draw, as a policy takes them."""
Result = tuple[object, object, str]
"""New state, decision and reason, as it returns them."""


class DecisionStats(msgspec.Struct, frozen=True, kw_only=True):
    """How many decisions were written and how many could not be, and why the newest were not."""

    num_kept: int
    num_dropped: int
    problem: str


class PolicyLog:
    """Keeps the decisions of one policy. Made by `DecisionFiles.of`."""

    __slots__ = ("_code", "_files", "_name", "due")

    def __init__(self, files: DecisionFiles, name: str, every: int) -> None:
        self._files, self._name, self._code = files, name, policy_code()
        self.due: Callable[[], bool] = itertools.cycle([False] * (every - 1) + [True]).__next__
        """Says whether a decision that is like many others is to be kept: every so many times, exactly."""

    def keep(self, call: Arguments, answered: Result) -> None:
        """Keep one decision: the policy's arguments, as they were before, and what it answered."""
        state, view, event, now, draw = call
        new_state, decision, reason = answered
        self._files.add(
            _encode(
                Decided(
                    policy=self._name,
                    state=state,
                    view=view,
                    event=event,
                    now=now,
                    draw=draw,
                    new_state=new_state,
                    decision=decision,
                    reason=reason,
                    code=self._code,
                )
            )
        )

    def keep_some(self, call: Arguments, answered: Result) -> None:
        """Keep a refusal or a retry, unless so many were kept in this second that more would tell nothing new."""
        if self._files.has_room_for_one():
            self.keep(call, answered)


class DecisionFiles:
    """The pair of files of one gateway; only one may be open on a gateway's name at a time.

    Threads: one, but for the work that `flush` returns.
    """

    def __init__(
        self, folder: Path, gateway: str, *, max_bytes: int = MAX_DECISION_BYTES, sample_every: int = SAMPLE_EVERY
    ) -> None:
        """Go on in the file that was written last; nothing is read and nothing opened until there is what to write."""
        self._paths = (folder / f"{gateway}.a", folder / f"{gateway}.b")
        self._max_file_bytes, self._sample_every = max_bytes // 2, sample_every
        self._waiting: list[bytes] = []
        self._num_waiting_bytes = 0
        self._handed: deque[list[bytes]] = deque()
        self._num_left, self._second = MAX_REFUSALS_PER_S, 0
        self._descriptor = -1
        self._index = 0
        self._turn = threading.Lock()
        self.num_kept = self.num_dropped = 0
        self.problem = ""
        """Why the newest decisions were not written; empty while all is well."""

    def of(self, policy: str) -> PolicyLog:
        """Return where the decisions of one policy, the name of a module in `datahall.policy`, are kept."""
        return PolicyLog(self, policy, self._sample_every)

    def add(self, body: bytes) -> None:
        """Keep an encoded decision until the next flush."""
        if self._num_waiting_bytes + len(body) > MAX_WAITING_BYTES:
            self.num_dropped += 1
            return
        self._waiting.append(body)
        self._num_waiting_bytes += len(body)

    def has_room_for_one(self) -> bool:
        """Return whether one more of what comes in floods may be kept in this second, and count it."""
        if not self._num_left:
            return False
        self._num_left -= 1
        return True

    def decided(
        self,
        policy: str,
        state: object,
        view: object,
        event: object,
        now: int,
        draw: float,
        new_state: object,
        decision: str,
        reason: str,
    ) -> None:
        """Keep a decision that changes a state: those are few, and each matters."""
        self.of(policy).keep((state, view, event, now, draw), (new_state, decision, reason))

    def flush(self, monotonic_ns: int) -> Callable[[], None] | None:
        """Return what writes all that waits, as work for any thread; None if nothing waits. Called every 100 ms.

        Work that is never done, because whoever was to do it was stopped first, is done with the next, or by `close`.
        """
        if (second := monotonic_ns // 1_000_000_000) != self._second:
            self._second, self._num_left = second, MAX_REFUSALS_PER_S
        if not self._waiting:
            return None
        self._handed.append(self._waiting)
        self._waiting, self._num_waiting_bytes = [], 0
        return self._write_handed

    def stats(self) -> DecisionStats:
        """Return what became of the decisions so far."""
        return DecisionStats(num_kept=self.num_kept, num_dropped=self.num_dropped, problem=self.problem)

    def close(self) -> None:
        """Write what waits and close the file."""
        self.flush(0)
        self._write_handed()
        with self._turn:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _write_handed(self) -> None:
        with self._turn:
            while self._handed:
                self._write(self._handed.popleft())

    def _write(self, bodies: list[bytes]) -> None:
        payload = b"".join((b"\xdd", len(bodies).to_bytes(4, "big"), *bodies))  # MessagePack's array 32
        block = _BLOCK.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
        try:
            self._make_room(len(block))
            num_written = os.write(self._descriptor, block)
        except OSError as error:
            num_written, self.problem = 0, f"decisions are not kept: {error.strerror}"
        else:
            self.problem = "" if num_written == len(block) else "decisions are not kept: the disk is full"
        if num_written == len(block):
            self.num_kept += len(bodies)
        else:  # what came of it is passed over by whoever reads
            self.num_dropped += len(bodies)

    def _make_room(self, num_bytes: int) -> None:
        """Have a file open that takes so many bytes more."""
        if self._descriptor < 0:
            self._index = max((0, 1), key=lambda index: _written_at_ns(self._paths[index]))
            self._open()
        status = os.fstat(self._descriptor)
        is_full = status.st_size and status.st_size + num_bytes > self._max_file_bytes
        if is_full or not status.st_nlink:  # without a link, somebody has removed it
            os.close(self._descriptor)
            self._descriptor, self._index = -1, 1 - self._index
            self._open(os.O_TRUNC)

    def _open(self, flag: int = 0) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | flag
        self._descriptor = os.open(self._paths[self._index], flags, 0o600)


def log_of(files: DecisionFiles | None, policy: str) -> PolicyLog | None:
    """Return where a policy's decisions are kept, None where none are."""
    return files.of(policy) if files is not None else None


@cache
def policy_code() -> str:
    """Return which policies this process runs: the beginning of the SHA-256 of all their files."""
    folder = Path(datahall.policy.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A `Decided` as it is read: what its policy's own types describe stays encoded until that policy is asked."""

    policy: str
    state: msgspec.Raw
    view: msgspec.Raw
    event: msgspec.Raw
    now: int | float
    draw: float
    new_state: msgspec.Raw
    decision: msgspec.Raw
    reason: str
    code: str = ""


class DecisionFile(NamedTuple):
    """What a file of decisions holds, and how many of its bytes belong to none."""

    decisions: list[Logged]
    num_lost_bytes: int


def decision_files(folder: Path) -> list[Path]:
    """Return the files of all gateways, those of each in the order in which they were written."""
    found = [path for path in folder.glob("*.[ab]") if path.is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.stem, _written_at_ns(path)))


def read_decision_file(path: Path) -> DecisionFile:
    """Return what the file at `path` holds; somebody may be writing. Raises OSError where it cannot be read."""
    data = path.read_bytes()
    decisions: list[Logged] = []
    place = num_lost = 0
    while place < len(data):
        payload = _block(data, place)
        try:
            decisions += _decode(payload)
            place += _BLOCK.size + len(payload)
        except msgspec.DecodeError:  # of no payload too
            following = data.find(_MAGIC, place + 1)
            following = len(data) if following < 0 else following
            num_lost += following - place
            place = following
    return DecisionFile(decisions, num_lost)


def _block(data: bytes, place: int) -> bytes:
    """Return the payload of the whole block at `place`, nothing if there is none."""
    if place + _BLOCK.size > len(data):
        return b""
    magic, length, checksum = _BLOCK.unpack_from(data, place)
    payload = data[place + _BLOCK.size : place + _BLOCK.size + length]
    return payload if magic == _MAGIC and len(payload) == length and zlib.crc32(payload) == checksum else b""


def _written_at_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


_decode = msgspec.msgpack.Decoder(list[Logged]).decode
