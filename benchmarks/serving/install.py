"""Puts each peer into an environment of its own, as the block on top of its file says (PEP 723)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
_BLOCK = re.compile(r"(?m)^# /// script\n(?P<lines>(?:#.*\n)+?)# ///$")
_SECONDS = 900


def dependencies(script: Path) -> list[str]:
    """Return the packages that a script's own block demands."""
    block = _BLOCK.search(script.read_text(encoding="utf-8"))
    assert block is not None, f"{script} has no block of packages"
    lines = [line[2:] for line in block["lines"].splitlines()]
    return list(tomllib.loads("\n".join(lines))["dependencies"])


def install(name: str, environments: Path) -> str:
    """Bring a peer's environment to what its script says; return why it is not, empty where it is.

    Nothing is asked of a network where the environment is there already.
    """
    packages = dependencies(PEERS / f"{name}_server.py")
    folder = environments / name
    digest = hashlib.sha256("\0".join([sys.version, str(folder), *packages]).encode()).hexdigest()
    stamp = folder / "bench.stamp"
    if stamp.exists() and stamp.read_text("ascii") == digest:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {name}: {' '.join(packages)}", flush=True)
    steps = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python(name, environments)), "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages],
    ]
    for step in steps:
        try:
            done = subprocess.run(  # noqa: S603  our own environments
                step, capture_output=True, text=True, timeout=_SECONDS, check=False, preexec_fn=_gently
            )
        except subprocess.TimeoutExpired:
            return f"the installation took more than {_SECONDS} s"
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["it could not be installed"])[-1][:300]
    stamp.write_text(digest, "ascii")
    return ""


def python(name: str, environments: Path) -> Path:
    """Return the interpreter of a peer's environment."""
    return environments / name / "bin" / "python"


def _gently() -> None:
    os.nice(10)
