"""Takes an application file from the disk as text, whatever lies there under its name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from datahall.core.errors import Problem, SpecError

SIZE_LIMIT_BYTES = 128 * 1024
"""More than a thousand columns fit; the slowest text of this size that we found parses in half a second."""


def read_text(path: Path, name: str) -> str:
    """Return the text of the file at `path`; `name` is how its owner calls it.

    Raises SpecError where there is none, where it is no regular file, larger than SIZE_LIMIT_BYTES, or not UTF-8.
    """
    try:
        # a pipe without a writer must not make us wait
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _refused(name, "there is no such file", "a path; `datahall new DIR` makes one") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _refused(name, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise _refused(name, "is a directory", "the file in it, such as app.yaml")
        if not stat.S_ISREG(mode):
            raise _refused(name, "is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise _refused(name, f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return decode(data, name)


def decode(data: bytes, name: str) -> str:
    """Return `data` as text. Raises SpecError where it is too large, binary or not UTF-8."""
    if len(data) > SIZE_LIMIT_BYTES:
        raise _refused(name, f"is larger than {SIZE_LIMIT_BYTES // 1024} KiB", "an application file, not the data")
    if b"\0" in data:
        raise _refused(name, "is binary", "YAML text in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise _refused(
            name, f"the byte 0x{data[error.start]:02x} is not UTF-8", "text in UTF-8", line, column
        ) from None


def _refused(name: str, what: str, expected: str = "", line: int = 1, column: int = 1) -> SpecError:
    return SpecError((Problem(file=name, line=line, column=column, key="(file)", what=what, expected=expected),))
