"""Named places just before and just after each durable step, at which a test can stop the world.

A failpoint costs one comparison while nothing is armed, and nothing but a test arms one: no setting, variable or
request reaches this module. The idea is FreeBSD's fail(9); the names come from the calls in `core/durable.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Hook = Callable[[str], None]
"""Is told the name of each place that is reached, such as `blobs.put/rename:before`; may raise or end the process."""

_armed: Hook | None = None


def reach(name: str) -> None:
    """Tell whoever armed the failpoints that this place was reached."""
    if _armed is not None:
        _armed(name)


@contextmanager
def armed(hook: Hook) -> Iterator[None]:
    """Call `hook` at every failpoint of this process, from whichever thread reaches it, while the block runs."""
    global _armed  # noqa: PLW0603  (one world, one hook: a step deep inside a library's callback must find it)
    assert _armed is None, "failpoints are armed once at a time"
    _armed = hook
    try:
        yield
    finally:
        _armed = None
