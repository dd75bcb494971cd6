"""Every error that Datahall raises on purpose, drawn as one tree.

DatahallError              what happened, where, and what to do about it
├── UserError              the input is wrong; exit 2, HTTP 400
│   ├── SpecError          the application file has problems (all of them at once)
│   ├── DataError          a source cannot be read or breaks its contract
│   ├── NotFoundError      no such thing; HTTP 404
│   ├── ConflictError      somebody else changed it first; HTTP 409
│   │   ├── RepeatedError  this call was made before: its answer is kept
│   │   └── FencedError    the writer's lease has passed to somebody else
│   ├── UnauthenticatedError  no key, or a key that does not hold; HTTP 401
│   └── DeniedError        a key without the permission; HTTP 403
├── IntegrityError         stored bytes are not what their digest, signature or proof says
├── RefusedError           the gate said no; exit 3
└── UnavailableError       the hall cannot do it now, a later try may; exit 4, HTTP 503
    ├── HallBusyError      another process holds this hall
    ├── SchemaError        the hall's schema is not this version's; the hint is the command to run
    └── StorageFullError   no room, or a disk that does not take what it is given; nothing was acknowledged; HTTP 507

An `assert` is for our own mistakes and is never caught.
"""

from __future__ import annotations


class DatahallError(Exception):
    """An error with what happened, where it happened and what to do about it."""

    exit_code = 1
    http_status = 500

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.hint}" if self.hint else head


class UserError(DatahallError):
    """The input is wrong, and the person who gave it can mend it."""

    exit_code = 2
    http_status = 400


class SpecError(UserError):
    """The application file has problems; `problems` holds every one, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems, "a SpecError needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Problem:
    """One mistake in an application file: place, key, what was expected and the nearest spelling."""

    __slots__ = ("column", "expected", "file", "key", "line", "nearest", "what")

    def __init__(
        self,
        *,
        file: str,
        line: int,
        column: int,
        key: str,
        what: str,
        expected: str = "",
        nearest: str = "",
    ) -> None:
        self.file, self.line, self.column, self.key = file, line, column, key
        self.what, self.expected, self.nearest = what, expected, nearest

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.key}: {self.what}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean '{self.nearest}'?"
        return text

    def as_dict(self) -> dict[str, str | int]:
        """Return the problem as plain data for `--json` and HTTP."""
        return {name: getattr(self, name) for name in sorted(self.__slots__)}


class DataError(UserError):
    """A source cannot be read, or its rows break the contract."""

    http_status = 422


class NotFoundError(UserError):
    """There is no such thing."""

    http_status = 404


class ConflictError(UserError):
    """Somebody else changed it first; nothing was written."""

    http_status = 409


class RepeatedError(ConflictError):
    """A call with this idempotency key was done before; nothing was written, and its answer is in the catalogue."""


class FencedError(ConflictError):
    """Whoever writes no longer holds the lease that the write needs; nothing was written."""


class UnauthenticatedError(UserError):
    """There is no key, or the key does not hold."""

    http_status = 401


class DeniedError(UserError):
    """The key is good, but it does not carry the permission."""

    http_status = 403


class IntegrityError(DatahallError):
    """Stored bytes are not what their digest, signature or proof says; they are never used."""


class RefusedError(DatahallError):
    """The gate said no; the reason names the claim."""

    exit_code = 3
    http_status = 409


class UnavailableError(DatahallError):
    """The hall cannot do it now; a later try may succeed."""

    exit_code = 4
    http_status = 503


class HallBusyError(UnavailableError):
    """Another process holds this hall."""


class SchemaError(UnavailableError):
    """The hall's schema is newer, or a migration stopped half-way; the hint is the exact command to run."""


class StorageFullError(UnavailableError):
    """The disk has no room or failed to take a write; nothing was acknowledged, and a later try may succeed."""

    http_status = 507
