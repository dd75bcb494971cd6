"""What every witness demands of a new tree head, and several witnesses at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.ports import Clock, Witness
from datahall.ledger.checkpoint import read_note
from datahall.ledger.tree import verify_consistency

Prove = Callable[[int, int], Sequence[bytes]]
"""Returns the consistency proof between two sizes, such as `partial(consistency_proof, read=store.nodes)`."""

RETRY_SECONDS = 30.0


def check_head(origin: str, seen: str | None, note: str, prove: Prove, *, where: str, forget: str) -> None:
    """Return only if `note` may take the place of `seen`, the newest that a witness remembers of `origin`.

    The proof comes from the hall (`prove`) but cannot be forged: it must lead from the remembered root to the new one.
    So the newest head stands for all before it. `forget` says how an owner makes the witness forget.

    Raises IntegrityError for a note of another origin, one with fewer entries than were seen, and one whose tree does
    not extend the tree that was seen.
    """
    new = read_note(note)
    if new.origin != origin:
        raise IntegrityError(f"a checkpoint of '{new.origin}' was published as one of '{origin}'")
    if seen is None:
        return
    old = read_note(seen)
    if new.size < old.size:
        raise IntegrityError(
            f"the ledger has {new.size} entries, but {old.size} were witnessed: it was cut off or rolled back",
            where=where,
            hint=f"restore the newer copy of the hall; to accept the loss, {forget}",
        )
    if not verify_consistency(old.size, old.root, new.size, new.root, prove(old.size, new.size)):
        raise IntegrityError(
            f"the ledger does not extend the {old.size} entries that were witnessed: it was rewritten",
            where=where,
            hint="compare it with a copy you trust: datahall verify",
        )


def out_of_reach(why: str, where: str) -> UnavailableError:
    """Return the error for a witness that cannot be used now."""
    return UnavailableError(
        f"the witness cannot be reached: {why}",
        where=where,
        hint="until it can, a hall that is rolled back to an old copy would not be noticed there",
    )


class Witnesses:
    """Several witnesses as one: a rollback is noticed if any of them remembers more.

    One that cannot be reached does not keep heads from the others, and is left alone for `retry_s` seconds, so that it
    does not hold up each checkpoint. Not for several threads at once.
    """

    def __init__(self, witnesses: Mapping[str, Witness], clock: Clock, *, retry_s: float = RETRY_SECONDS) -> None:
        """`witnesses` by the name under which a problem with one is shown."""
        self._witnesses = dict(witnesses)
        self._clock, self._retry_ns = clock, int(retry_s * 1e9)
        self._away: dict[str, tuple[int, UnavailableError]] = {}
        """When one was found out of reach, and why."""

    def newest(self, origin: str) -> str | None:
        """Return the note with the most entries that any witness remembers, None if none remembers one.

        Raises UnavailableError only where none can be reached.
        """
        notes, problems = [], []
        for name, witness in self._witnesses.items():
            try:
                notes.append(witness.newest(origin))
            except UnavailableError as error:
                problems.append(_named(name, error))
        if problems and not notes:
            raise _all_of(problems)
        return max((note for note in notes if note is not None), key=lambda note: read_note(note).size, default=None)

    def publish(self, origin: str, note: str) -> None:
        """Publish to every witness that can be reached.

        Raises IntegrityError as soon as one remembers something else; and, once all others have it, UnavailableError
        with all that could not be reached.
        """
        problems = []
        for name, witness in self._witnesses.items():
            since, error = self._away.get(name, (0, None))
            if error is None or self._clock.monotonic_ns() - since >= self._retry_ns:
                try:
                    witness.publish(origin, note)
                    self._away.pop(name, None)
                    continue
                except UnavailableError as found:
                    error = found
                    self._away[name] = (self._clock.monotonic_ns(), found)
            problems.append(_named(name, error))
        if problems:
            raise _all_of(problems)


def _named(name: str, error: UnavailableError) -> UnavailableError:
    return UnavailableError(f"{name}: {error.what}", where=error.where, hint=error.hint)


def _all_of(problems: list[UnavailableError]) -> UnavailableError:
    return UnavailableError("; ".join(problem.what for problem in problems), hint=problems[0].hint)


if TYPE_CHECKING:
    from datahall.core.clock import SystemClock

    _: Witness = Witnesses({}, SystemClock())
