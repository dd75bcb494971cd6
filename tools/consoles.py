"""Runs the console blocks of a page, and compares what they print loosely with what the page shows.

A block that begins with "```json rows.json" is a file: it is written where the next command runs.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One `$ ` line of a page, and the lines shown below it."""

    line: int
    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file that the reader is asked to save."""

    line: int
    name: str
    text: str


def steps_of(page: str) -> list[Command | File]:
    """Return every command of the page's console blocks and every file it asks to save, in order."""
    found: list[Command | File] = []
    block: list[str] | None = None
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            block = line[3:].split() if block is None else None
            if block and len(block) == 2:
                found.append(File(number, block[1], ""))
        elif block == ["console"] and line.startswith("$ "):
            found.append(Command(number, line[2:], ()))
        elif block and found and (block == ["console"] or len(block) == 2):
            last = found[-1]
            if isinstance(last, File):
                found[-1] = File(last.line, last.name, f"{last.text}{line}\n")
            else:
                found[-1] = Command(last.line, last.text, (*last.shown, line))
    return found


class Console:
    """A folder, an environment, and the words in capitals that earlier output gave a value."""

    def __init__(self, folder: Path, hall: Path) -> None:
        self.folder = folder
        self.values: dict[str, str] = {}
        places = {"DATAHALL_HOME": str(hall), "XDG_STATE_HOME": str(hall.with_name("state"))}
        self.environment = {**os.environ, **places, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}

    def run(self, command: Command | File, *, timeout_s: float = 120) -> list[str]:
        """Do one step; return what is wrong with it, nothing where it did as the page shows."""
        if isinstance(command, File):
            (self.folder / command.name).write_text(command.text, encoding="utf-8")
            return []
        words = [self.values.get(word, word) for word in shlex.split(command.text)]
        if words[0] == "cd":
            self.folder = (self.folder / words[1]).resolve()
            return [] if self.folder.is_dir() else [f"line {command.line}: there is no folder {words[1]}"]
        program = [sys.executable, "-m", "datahall.app.cli"] if Path(words[0]).name == "datahall" else [words[0]]
        done = subprocess.run(  # noqa: S603  (commands of our own pages)
            [*program, *words[1:]],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        output = done.stdout + done.stderr
        if done.returncode:
            return [f"line {command.line}: `{command.text}` ended with {done.returncode}:\n{output}"]
        missing = self.compare(command.shown, output.splitlines())
        return [f"line {command.line}: `{command.text}` did not print '{line}' but:\n{output}" for line in missing]

    def compare(self, shown: tuple[str, ...], printed: list[str]) -> list[str]:
        """Return the first shown line that was not printed, in order; take the values of words in capitals.

        Numbers, ids and digests may differ, and so may white space; `...` stands for any lines.
        """
        rest = iter(printed)
        for line in shown:
            if line.strip() in {"", "..."}:
                continue
            pattern = re.compile(loose(line))
            match = next((found for found in map(pattern.search, map(squeeze, rest)) if found), None)
            if match is None:
                return [line]
            self.values.update(match.groupdict())
        return []


def squeeze(line: str) -> str:
    """Return a line with each run of white space as one space."""
    return " ".join(line.split())


def loose(line: str) -> str:
    """Return the pattern that a shown line stands for."""
    pattern = ""
    for part in re.split(r"([A-Z]+_ID\b|\.\.\.|[0-9a-f]{12,}|\d+(?:[.,:]\d+)*)", squeeze(line)):
        if part.endswith("_ID"):
            pattern += f"(?P<{part}>\\S+)"
        elif part == "...":
            pattern += ".*"
        elif re.fullmatch(r"[0-9a-f]{12,}|\d+(?:[.,:]\d+)*", part):
            pattern += r"[0-9a-f.,:]+"
        else:
            pattern += re.escape(part)
    return pattern
