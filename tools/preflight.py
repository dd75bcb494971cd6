"""Say what this machine lacks for Datahall, each with the line that mends it.

Runs on any Python from 3.6 on, with the standard library alone, before anything is installed.
"""

import os
import shutil
import sys
from typing import List, Optional, Tuple

NEEDED_PYTHON = (3, 11)
NEEDED_DISK_MB = 2000
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

Lack = Tuple[str, str]
"""What is missing, and the line that mends it."""


def main() -> int:
    """Print every lack; return 1 where there is one."""
    lacks = find_lacks(ROOT)
    for what, mend in lacks:
        sys.stderr.write("missing: {}\n   mend: {}\n".format(what, mend))
    return 1 if lacks else 0


def find_lacks(root: str) -> List[Lack]:
    """Return everything that is missing, in the order in which it should be mended."""
    checks = [
        lack_of_linux(sys.platform),
        lack_of_python(sys.version_info[:2]),
        lack_of_module("venv"),
        lack_of_module("ensurepip"),
        lack_of_program("git"),
        lack_of_program("make"),
        lack_of_writing(root),
        lack_of_disk(root, NEEDED_DISK_MB),
    ]
    return [lack for lack in checks if lack is not None]


def lack_of_linux(platform: str) -> Optional[Lack]:
    """Datahall rests on memfd, Landlock and the lifeline of Linux."""
    if platform.startswith("linux"):
        return None
    return "Linux (this is {})".format(platform), "run it in a Linux container or virtual machine"


def lack_of_python(version: Tuple[int, int]) -> Optional[Lack]:
    """Python 3.11 or newer."""
    if version >= NEEDED_PYTHON:
        return None
    for minor in range(11, 15):
        name = "python3.{}".format(minor)
        if shutil.which(name):
            return "Python 3.11 or newer (this is {}.{})".format(*version), "make PYTHON={} demo".format(name)
    return "Python 3.11 or newer (this is {}.{})".format(*version), install_line("python3.11 python3.11-venv")


def lack_of_module(name: str) -> Optional[Lack]:
    """Debian and Ubuntu put venv and ensurepip into a package of their own."""
    try:
        __import__(name)
    except ImportError:
        return "the Python module '{}'".format(name), install_line("python3.{}-venv".format(sys.version_info[1]))
    return None


def lack_of_program(name: str) -> Optional[Lack]:
    """A program on the PATH."""
    return None if shutil.which(name) else ("the program '{}'".format(name), install_line(name))


def lack_of_writing(root: str) -> Optional[Lack]:
    """The right to write into the checkout."""
    if os.access(root, os.W_OK | os.X_OK):
        return None
    return "the right to write into {}".format(root), "chown -R $USER '{}'".format(root)


def lack_of_disk(root: str, needed_mb: int) -> Optional[Lack]:
    """Room for .venv, unless it is there already."""
    if os.path.exists(os.path.join(root, ".venv", "run.stamp")):
        return None
    free_mb = shutil.disk_usage(root).free // 2**20
    if free_mb >= needed_mb:
        return None
    what = "{} MB of disk space in {} ({} MB are free)".format(needed_mb, root, free_mb)
    return what, "free some, or clone into a larger file system"


def install_line(packages: str) -> str:
    """Return the line that installs `packages` with this machine's own package manager."""
    for manager, line in (("apt-get", "sudo apt-get install {}"), ("dnf", "sudo dnf install {}")):
        if shutil.which(manager):
            wanted = packages if manager == "apt-get" else packages.split(" ", 1)[0].replace("-venv", "")
            return line.format(wanted)
    return "install {} with your system's package manager".format(packages)


if __name__ == "__main__":
    sys.exit(main())
