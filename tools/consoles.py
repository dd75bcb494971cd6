"""Runs the console blocks of a page, and compares what they print loosely with what the page shows.

A block that begins with "```json rows.json" is a file: it is written where the next command runs. Of a shell there is
`cd`, `export`, `NAME=$(command)` and `$NAME`, no more.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

import httpx

USUAL_ADDRESS = "http://127.0.0.1:7400"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


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
        self.variables: dict[str, str] = {}
        self.address = USUAL_ADDRESS
        places = {"DATAHALL_HOME": str(hall), "XDG_STATE_HOME": str(hall.with_name("state"))}
        self.environment = {**os.environ, **places, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}

    def run(self, command: Command | File, *, timeout_s: float = 120) -> list[str]:
        """Do one step; return what is wrong with it, nothing where it did as the page shows."""
        if isinstance(command, File):
            (self.folder / command.name).write_text(command.text, encoding="utf-8")
            return []
        assigned = re.fullmatch(r"([A-Z]+)=\$\((.+)\)", command.text)
        text = Template(assigned[2] if assigned else command.text).safe_substitute(self.variables)
        text = re.sub(r"[A-Z]+_ID\b", lambda found: self.values.get(found[0], found[0]), text)
        words = shlex.split(text.replace(USUAL_ADDRESS, self.address))
        if words[0] == "export":  # the page sets the search path, and here datahall is found without
            return []
        if words[0] == "cd":
            self.folder = (self.folder / words[1]).resolve()
            return [] if self.folder.is_dir() else [f"line {command.line}: there is no folder {words[1]}"]
        done = self._do(words, timeout_s)
        output = done.stdout + done.stderr
        # a hall takes the next port where the usual one is busy, and says so
        self.address = found[0] if (found := _ADDRESS.search(output)) else self.address
        if assigned:
            self.variables[assigned[1]] = done.stdout.strip()
        if done.returncode:
            return [f"line {command.line}: `{command.text}` ended with {done.returncode}:\n{output}"]
        missing = self.compare(command.shown, output.splitlines())
        return [f"line {command.line}: `{command.text}` did not print '{line}' but:\n{output}" for line in missing]

    def _do(self, words: list[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
        if words[:2] == ["kill", "-9"]:  # a shell has it built in, and not every machine as a program
            os.kill(int(words[2]), signal.SIGKILL)
            return subprocess.CompletedProcess(words, 0, "", "")
        if words[0] == "curl" and shutil.which("curl") is None:
            return curl(words, self.folder)
        program = [sys.executable, "-m", "datahall.app.cli"] if Path(words[0]).name == "datahall" else [words[0]]
        return subprocess.run(  # noqa: S603  (commands of our own pages)
            [*program, *words[1:]],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def compare(self, shown: tuple[str, ...], printed: list[str]) -> list[str]:
        """Return the first shown line that was not printed, in order; take the values of words in capitals.

        Ids, digests, numbers with a point and white space may differ, whole numbers by a fifth; `...` stands for
        anything.
        """
        rest = iter(printed)
        for line in shown:
            if line.strip() in {"", "..."}:
                continue
            pattern = re.compile(loose(line))
            numbers = whole_numbers(line)
            matches = (found for found in map(pattern.search, map(squeeze, rest)) if found)
            match = next((found for found in matches if alike(numbers, found)), None)
            if match is None:
                return [line]
            self.values.update({name: value for name, value in match.groupdict().items() if name.endswith("_ID")})
        return []


def curl(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Do what a `curl -s` of our pages does, on a machine without it: knows -i, -H, -d TEXT, -d @FILE and an address."""
    headers, body, address, shows_head = {}, None, "", False
    rest = iter(words[1:])
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(rest)
        elif word.startswith("-"):
            shows_head = "i" in word
        else:
            address = word
    if body is not None and body.startswith("@"):
        body = (folder / body[1:]).read_text(encoding="utf-8")
    said = httpx.request("GET" if body is None else "POST", address, headers=headers, content=body, timeout=60)
    head = [f"HTTP/1.1 {said.status_code} {said.reason_phrase}"]
    head += [f"{name.decode()}: {value.decode()}" for name, value in said.headers.raw]
    return subprocess.CompletedProcess(words, 0, "\n".join([*head, "", said.text] if shows_head else [said.text]), "")


_PART = re.compile(r"([A-Z]+_ID\b|\.\.\.|[0-9a-f]{12,}|\d+(?:[.,:]\d+)*)")


def whole_numbers(line: str) -> list[int]:
    """Return the whole numbers of a shown line, in order."""
    return [int(part) for part in _PART.split(squeeze(line)) if part.isdecimal() and len(part) < 12]


def alike(shown: list[int], found: "re.Match[str]") -> bool:
    """Whether the whole numbers of a printed line are those of the page, or within a fifth of them."""
    printed = [int(found[f"whole{index}"]) for index in range(len(shown))]
    return all(abs(a - b) * 5 <= max(a, b) for a, b in zip(shown, printed, strict=True))


def squeeze(line: str) -> str:
    """Return a line with each run of white space as one space."""
    return " ".join(line.split())


def loose(line: str) -> str:
    """Return the pattern that a shown line stands for."""
    pattern, num_whole = "", 0
    for part in _PART.split(squeeze(line)):
        if part.endswith("_ID"):
            pattern += f"(?P<{part}>[\\w@.-]+)"
        elif part.isdecimal() and len(part) < 12:
            pattern += rf"(?<![\d.,])(?P<whole{num_whole}>\d+)(?![.,:]?\d)"
            num_whole += 1
        elif part == "...":
            pattern += ".*"
        elif re.fullmatch(r"[0-9a-f]{12,}|\d+(?:[.,:]\d+)*", part):
            pattern += r"[0-9a-f.,:]+"
        else:
            pattern += re.escape(part)
    return pattern
