"""Writes the application file that a guess amounts to, each guess with its reason as a comment."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

from datahall.data.guess import Guess
from datahall.spec.schema import FORMATS

_KEYS = ("task", "target", "subject", "sensitive", "ignore", "on_broken", "note")
_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # YAML 1.1 reads these as other types


def app_file(source: Path, folder: Path, guessed: Guess) -> str:
    """Return the text of an application file in `folder` over the file `source` that says what was guessed, and why.

    Both paths are absolute. The source is named relative to the folder where it lies below it or beside it.
    """
    why = {word: [reason for reason in guessed.reasons if reason.startswith(f"{word}:")] for word in _KEYS}
    path = os.path.relpath(source, folder)
    place = path if path.count("..") <= 1 else str(source)
    suffix = source.suffix.lower()
    origin = _quote(place) if suffix in FORMATS else f"{{path: {_quote(place)}, format: csv}}"
    lines = [
        "# Guessed from the names and values of the columns: read it before you trust it.",
        *_comments(why["note"]),
        "datahall: 1",
        f"name: {app_name(folder.name)}",
        *_comments(why["task"]),
        f"task: {guessed.task}",
        "data:",
        f"  sources: [{origin}]",
        *_comments(why["target"], "  "),
        f"  target: {_quote(guessed.target)}",
    ]
    if guessed.subject:
        lines += [*_comments(why["subject"], "  "), f"  subject: {_quote(guessed.subject)}"]
    for key, names in (("sensitive", guessed.sensitive), ("ignore", guessed.ignore)):
        if names:
            lines += [*_comments(why[key], "  "), f"  {key}: [{', '.join(map(_quote, names))}]"]
    if guessed.on_broken != "stop":
        lines += [*_comments(why["on_broken"], "  "), f"  on_broken: {guessed.on_broken}"]
    return "\n".join(lines) + "\n"


def app_name(words: str) -> str:
    """Return the name of an application called `words`: small letters without accents, digits, `-` and `_`."""
    letters = unicodedata.normalize("NFKD", words.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:63]
    return name if name[:1].isalpha() else f"app-{name}".rstrip("-")[:63]


def _comments(reasons: list[str], indent: str = "") -> list[str]:
    return [f"{indent}# {' '.join(reason.partition(': ')[2].split())}" for reason in reasons]


def _quote(text: str) -> str:
    """Write text so that YAML reads it back as text, whatever it looks like; plain words stay plain."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) and text.lower() not in _YAML_WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)  # its escapes are YAML's, but for pairs of surrogates
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
