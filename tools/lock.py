"""Resolve every package that Datahall and its tests need, and write the exact versions to requirements/.

Usage: python tools/lock.py [--upgrade] [--constraint FILE]

Versions already locked are kept unless --upgrade is given. No hashes are written: a wheel's hash belongs
to one platform, and the lock has to serve all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
HEAD = "# Written by `make lock` from pyproject.toml; change that file, not this one.\n"


def main() -> int:
    """Write requirements/run.txt and requirements/test.txt; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the locked ones")
    parser.add_argument("--constraint", type=Path, help="a file of versions to prefer")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    run_names = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    test_names = project["dependency-groups"]["test"]
    kept = {} if arguments.upgrade else {**locked("run"), **locked("test")}
    if arguments.constraint:
        kept |= read_pins(arguments.constraint)
    run = resolve(run_names, kept)
    test = resolve([*run_names, *test_names], {**kept, **run})
    write("run", run, first="")
    write("test", {name: version for name, version in test.items() if name not in run}, first="-r run.txt\n")
    return 0


def locked(name: str) -> dict[str, str]:
    """Return the pins of requirements/NAME.txt, empty where there is none yet."""
    path = FOLDER / f"{name}.txt"
    return read_pins(path) if path.exists() else {}


def read_pins(path: Path) -> dict[str, str]:
    """Return normalised distribution name to version, of the `name==version` lines of a file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {normalise(name): version for name, version in pins}


def normalise(name: str) -> str:
    """Return the one spelling of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(names: list[str], constraints: dict[str, str]) -> dict[str, str]:
    """Return the version of everything that `names` need, as pip would install it into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()), encoding="utf-8")
        options = ["--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "install", *options, "-c", str(pins), "--report", str(report), *names]
        subprocess.run(command, check=True)  # noqa: S603  (our own interpreter, names from pyproject.toml)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normalise(item["metadata"]["name"]): item["metadata"]["version"] for item in found}


def write(name: str, pins: dict[str, str], *, first: str) -> None:
    """Write one lock file, sorted by name."""
    lines = "".join(f"{package}=={version}\n" for package, version in sorted(pins.items()))
    (FOLDER / f"{name}.txt").write_text(HEAD + first + lines, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
