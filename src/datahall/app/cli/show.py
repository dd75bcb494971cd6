"""How verbs speak: tables and lines for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 110

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_COLOURS = {
    **dict.fromkeys(("pass", "released", "ready", "good"), "green"),
    **dict.fromkeys(("fail", "refused", "gone", "revoked", "expired"), "red"),
}


def console() -> Console:
    """Return a console on standard output; colours only where a person looks, room enough where nobody does."""
    looked_at = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if looked_at else PIPED_WIDTH)


def print_json(value: Any) -> None:
    """Print `value` as one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(*columns: str) -> Table:
    """Return an empty table in the house style."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def coloured(word: str) -> str:
    """Return `word` in the colour of what it means."""
    colour = _COLOURS.get(word, "yellow")
    return f"[{colour}]{word}[/{colour}]"


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min"


def size(num_bytes: int) -> str:
    """Return a size as people say it, in powers of ten."""
    for unit, bytes_each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= bytes_each:
            return f"{num_bytes / bytes_each:.1f} {unit}"
    return f"{num_bytes} bytes"
