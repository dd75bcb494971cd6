"""What an example consists of: a table that can be written, and the application file that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Template:
    """An application to start from."""

    write: Callable[[Path], Path]
    """Writes the table into a folder and returns its path."""
    APP_FILE: str
    """The text of `app.yaml`, which names the table by its file name."""
