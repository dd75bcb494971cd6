"""Tells whoever waits how far a backup or a restore is, and stops it where they have left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from datahall.app.events import Notify, StepBegan, StepEnded, StepProgressed
from datahall.app.jobs import Cancel
from datahall.core.errors import UnavailableError
from datahall.core.jobs import Progress
from datahall.core.ports import Clock

_SAY_EVERY_NS = 100_000_000


class Told:
    """One step that goes on; set `summary` before it ends."""

    def __init__(self, name: str, notify: Notify, cancel: Cancel, clock: Clock) -> None:
        self.summary = ""
        self._name, self._notify, self._cancel, self._clock = name, notify, cancel, clock
        self._said_ns = clock.monotonic_ns()

    def at(self, done: int, total: int, what: str) -> None:
        """Say how far it is, ten times a second at most. Raises UnavailableError where nobody waits any more."""
        self.check()
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._said_ns >= _SAY_EVERY_NS:
            self._said_ns = now_ns
            progress = Progress(done=done, total=total, message=f"{done:,} of {total:,} {what}")
            self._notify(StepProgressed(name=self._name, progress=progress))

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what `chunks` does, as long as somebody waits."""
        for chunk in chunks:
            self.check()
            yield chunk

    def check(self) -> None:
        """Raise UnavailableError where nobody waits any more."""
        if self._cancel.asked:
            raise UnavailableError("stopped on request", hint="nothing was put in place; run it again")


class Teller:
    """Turns steps into the events that the command line shows."""

    def __init__(self, notify: Notify, cancel: Cancel, clock: Clock) -> None:
        self._notify, self._cancel, self._clock = notify, cancel, clock

    @contextmanager
    def step(self, name: str) -> Iterator[Told]:
        """Tell that a step begins and, unless it raises, that it has ended."""
        began_ns = self._clock.monotonic_ns()
        self._notify(StepBegan(name=name))
        told = Told(name, self._notify, self._cancel, self._clock)
        told.check()
        yield told
        took_s = (self._clock.monotonic_ns() - began_ns) / 1e9
        self._notify(StepEnded(name=name, how="ran", summary=told.summary, took_s=took_s))
