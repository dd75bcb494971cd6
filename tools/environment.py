"""Bring .venv to what a lock file says, and do nothing where it is there already.

Usage: python tools/environment.py run|test

A stamp in .venv holds the digest of everything that decided its content: lock, interpreter, and the
checkout's own path (a virtual environment cannot be moved). No network is touched while the stamp holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"run": ("run",), "test": ("run", "test")}


def main() -> int:
    """Bring .venv to the lock that the first argument names; return the exit status."""
    name = sys.argv[1]
    with hold(ROOT):
        if read_stamp(ROOT, name) == key_of(ROOT, name):
            return 0
        try:
            install(ROOT, name)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"the installation stopped ({error.returncode}); run the same command again to go on\n")
            return 1
    return 0


class hold:  # noqa: N801  (a context manager that reads as a verb)
    """Keep two makes in one checkout from installing at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        self._descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def key_of(root: Path, name: str) -> str:
    """Return the digest of all that decides what .venv holds."""
    parts = [sys.version, sys.base_prefix, str(root)]
    parts += [(root / "requirements" / f"{lock}.txt").read_text(encoding="utf-8") for lock in LOCKS[name]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_stamp(root: Path, name: str) -> str:
    """Return the digest that the last complete installation wrote, empty where there is none."""
    stamp = root / ".venv" / f"{name}.stamp"
    return stamp.read_text(encoding="utf-8") if stamp.exists() else ""


def install(root: Path, name: str) -> None:
    """Create .venv where it is missing or belongs elsewhere, then install the lock and Datahall itself."""
    folder = root / ".venv"
    place = "\0".join((sys.version, sys.base_prefix, str(root)))
    if not is_whole(folder, place):
        shutil.rmtree(folder, ignore_errors=True)
        say("creating .venv")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603  (this interpreter)
        (folder / "place").write_text(place, encoding="utf-8")
    for lock in LOCKS[name]:
        path = root / "requirements" / f"{lock}.txt"
        num_packages = path.read_text(encoding="utf-8").count("==")
        say(f"installing {num_packages} packages of requirements/{lock}.txt (once; later runs need no network)")
        pip(folder, "install", "--requirement", str(path))
    # Without build isolation nothing is fetched: the lock holds the build tool too.
    pip(folder, "install", "--no-deps", "--no-build-isolation", "--editable", str(root))
    for lock in LOCKS[name]:
        (folder / f"{lock}.stamp").write_text(key_of(root, lock), encoding="utf-8")


def is_whole(folder: Path, place: str) -> bool:
    """Whether .venv was completely created, by this interpreter, for this very path."""
    mark = folder / "place"
    return mark.exists() and mark.read_text(encoding="utf-8") == place


def pip(folder: Path, *arguments: str) -> None:
    """Run pip of the virtual environment; it speaks only to a person at a terminal."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    subprocess.run(command, check=True, env=environment)  # noqa: S603  (our own interpreter and lock files)


def say(text: str) -> None:
    """Tell the person at the terminal what takes a while."""
    sys.stdout.write(f"datahall: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
