"""Writes the application file for a table of somebody's own, from what was guessed about it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from datahall.data.guess import Guess

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*")


def app_file(source: Path, folder: Path, guessed: Guess) -> str:
    """Return the text of an application file over `source`, as seen from `folder`, with each guess explained."""
    lines = [
        "# Guessed from the file; change what is wrong.",
        "datahall: 1",
        f"name: {_name(source.stem)}",
        f"task: {guessed.task}",
        "data:",
        f"  sources: [{_quoted(os.path.relpath(source, folder))}]",
        f"  target: {_quoted(guessed.target)}",
    ]
    if guessed.subject:
        lines.append(f"  subject: {_quoted(guessed.subject)}")
    for key, columns in (("sensitive", guessed.sensitive), ("ignore", guessed.ignore)):
        if columns:
            lines.append(f"  {key}: [{', '.join(map(_quoted, columns))}]")
    lines += ["#", "# Why:", *(f"#   {reason}" for reason in guessed.reasons)]
    return "\n".join(lines) + "\n"


def _name(stem: str) -> str:
    """Return a name for an application that a file's name suggests."""
    name = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")
    return name[:63] if name and name[0].isalpha() else f"app-{name}"[:63].rstrip("-")


def _quoted(text: str) -> str:
    """Return `text` as YAML: in quotes (a JSON string is a YAML string) unless it is plainly a word."""
    reserved = text.lower() in {"yes", "no", "true", "false", "on", "off", "null", "y", "n"}
    return (
        text if _PLAIN.fullmatch(text) and not reserved and text == text.strip() else msgspec.json.encode(text).decode()
    )
